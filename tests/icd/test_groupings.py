"""CCS and CCSR: listed codes, and the rule for those that are not."""

import pytest

from mera_hf.errors import InputError
from mera_hf.icd import IcdTree, UnknownCodeError, ccs, ccsr
from mera_hf.icd.groupings import _groups
from mera_hf.icd.listed import nearest_listed


def test_listed_codes():
    assert ccs("ICD9CM:428.0") == ("108", "Congestive heart failure; nonhypertensive")
    assert ccs("ICD9CM:E849.0") == ("2621", "E Codes: Place of occurrence")
    assert ccs("ICD10CM:E11.65") == ("50", "Diabetes mellitus with complications")
    assert ccsr("ICD10CM:A00.0") == "DIG001"
    assert ccsr("ICD10CM:E11.65") == "END003"


def test_broader_codes_have_a_group_where_their_codes_agree():
    assert ccs("ICD9CM:428")[0] == "108"
    assert ccs("ICD9CM:250") is None
    assert {ccs(f"ICD9CM:250.{end}")[0] for end in ("00", "23")} == {"49", "50"}
    assert ccsr("ICD10CM:I48") == "CIR017"


def test_codes_of_later_years_have_the_group_of_their_relatives():
    assert ccs("ICD10CM:I48.11") == ccs("ICD10CM:I48.1")
    assert ccsr("ICD10CM:C50.A0") == ccsr("ICD10CM:C50.91") == "NEO030"
    # COVID-19 has no listed relative in its category.
    assert ccs("ICD10CM:U07.1") is None
    assert ccsr("ICD10CM:U07.1") == "INF012"


@pytest.mark.parametrize(
    ("version", "name", "groups", "codes"),
    [("ICD9CM", "ccs", 283, 15045), ("ICD10CM", "ccs", 283, 72442), ("ICD10CM", "ccsr", 515, 74549)],
)
def test_tables(version, name, groups, codes):
    table = _groups(name, version)
    assert len(set(table.values())) == groups
    assert len(table) == codes
    assert all(code in IcdTree.load(version) for code in table)


def test_every_billable_icd9_code_has_a_ccs_group():
    assert all(ccs(code) for code in IcdTree.load("ICD9CM").codes(billable=True))


def test_which_codes_stand_for_an_unlisted_one():
    tree = IcdTree.load("ICD9CM")
    table = {"ICD9CM:250.2", "ICD9CM:250.21", "ICD9CM:250.30", "ICD9CM:251.0"}
    assert nearest_listed(tree, "ICD9CM:250.21", table) == ["ICD9CM:250.21"]
    assert nearest_listed(tree, "ICD9CM:250.2", table) == ["ICD9CM:250.2"]
    assert nearest_listed(tree, "ICD9CM:250.23", table) == ["ICD9CM:250.2"]
    assert nearest_listed(tree, "ICD9CM:250.31", table) == ["ICD9CM:250.30"]
    assert nearest_listed(tree, "ICD9CM:250.4", table) == ["ICD9CM:250.2", "ICD9CM:250.21", "ICD9CM:250.30"]
    assert nearest_listed(tree, "ICD9CM:249-259", table) == sorted(table)
    # The category is the last stop: 252 is not read as its neighbour 251.
    assert nearest_listed(tree, "ICD9CM:252.0", table) == []


def test_errors():
    with pytest.raises(InputError, match="CCSR groups ICD-10-CM codes alone, got 'ICD9CM:428.0'"):
        ccsr("ICD9CM:428.0")
    with pytest.raises(UnknownCodeError, match="'ICD9CM:428.77'"):
        ccs("ICD9CM:428.77")
