"""The maps between the versions."""

import pytest

from mera_hf.errors import InputError
from mera_hf.icd import IcdTree, UnknownCodeError, gem_best, gem_map
from mera_hf.icd.gem import _covering, _targets


def test_exact_and_single_targets():
    assert gem_map("ICD9CM:001.0", to="ICD10CM") == ["ICD10CM:A00.0"]
    assert gem_map("ICD9CM:401.9", to="ICD10CM") == ["ICD10CM:I10"]
    assert gem_best("ICD10CM:E11.65", to="ICD9CM") == "ICD9CM:250.80"


def test_the_order_of_several_targets():
    # All three are approximate and come back: the titles share the same words, and the unspecified one is chosen.
    assert gem_map("ICD10CM:I10", to="ICD9CM") == ["ICD9CM:401.9", "ICD9CM:401.0", "ICD9CM:401.1"]
    # Coronary atherosclerosis of native coronary artery, not the unspecified cardiovascular disease: likeness first.
    assert gem_map("ICD10CM:I25.10", to="ICD9CM") == ["ICD9CM:414.01", "ICD9CM:429.2"]
    # A combination: both codes together, in the order of the choice lists.
    assert gem_map("ICD10CM:I25.110", to="ICD9CM") == ["ICD9CM:414.01", "ICD9CM:411.1"]
    # Equal in all but the title: the likelier one.
    assert gem_best("ICD9CM:272.4", to="ICD10CM") == "ICD10CM:E78.5"
    assert gem_best("ICD9CM:424.0", to="ICD10CM") == "ICD10CM:I34.8"


def test_no_map_is_said():
    assert gem_map("ICD9CM:365.70", to="ICD10CM") == []
    assert gem_best("ICD9CM:365.70", to="ICD10CM") is None
    assert gem_best("ICD10CM:R40.2130", to="ICD9CM") is None
    assert gem_best("ICD10CM:U07.1", to="ICD9CM") is None


@pytest.mark.parametrize(
    ("code", "to", "expected"),
    [
        ("ICD10CM:E78.00", "ICD9CM", "ICD9CM:272.0"),  # E78.0 was split after the maps were made
        ("ICD10CM:I27.20", "ICD9CM", "ICD9CM:416.8"),
        ("ICD10CM:N18.30", "ICD9CM", "ICD9CM:585.3"),
        ("ICD10CM:K59.03", "ICD9CM", "ICD9CM:564.0"),  # a new sibling of K59.00, K59.01, K59.02, K59.09
        ("ICD10CM:F10.11", "ICD9CM", None),  # its siblings map to 291, 292, 303 and 305
        ("ICD9CM:585", "ICD10CM", "ICD10CM:N18"),
        ("ICD9CM:428", "ICD10CM", "ICD10CM:I50"),
        ("ICD9CM:518.5", "ICD10CM", "ICD10CM:J95"),
        ("ICD9CM:041.4", "ICD10CM", "ICD10CM:B96.2"),
        ("ICD9CM:250", "ICD10CM", None),  # type 1 and type 2 are categories of their own
        ("ICD9CM:780.6", "ICD10CM", None),
    ],
)
def test_codes_that_the_maps_do_not_list(code, to, expected):
    assert gem_best(code, to=to) == expected
    assert gem_map(code, to=to) == ([] if expected is None else [expected])


def test_covering_node():
    tree = IcdTree.load("ICD9CM")
    assert _covering(tree, ["ICD9CM:250.21"]) == "ICD9CM:250.21"
    assert _covering(tree, ["ICD9CM:250.21", "ICD9CM:250.23"]) == "ICD9CM:250.2"
    assert _covering(tree, ["ICD9CM:250.2", "ICD9CM:250.23"]) == "ICD9CM:250.2"
    assert _covering(tree, ["ICD9CM:250.21", "ICD9CM:250.30"]) == "ICD9CM:250"
    assert _covering(tree, ["ICD9CM:250.21", "ICD9CM:251.0"]) is None
    assert _covering(tree, []) is None


@pytest.mark.parametrize(
    ("source", "target", "codes", "several", "unmapped"),
    [("ICD9CM", "ICD10CM", 14567, 3159, 425), ("ICD10CM", "ICD9CM", 69829, 7395, 669)],
)
def test_tables(source, target, codes, several, unmapped):
    table = _targets(source, target)
    assert len(table) == codes
    # Pairs whose target is in two scenarios are counted once, and one target is in no tree.
    assert several - 60 <= sum(len(targets) > 1 for targets in table.values()) <= several
    assert sum(not targets for targets in table.values()) == unmapped
    sources, targets = IcdTree.load(source), IcdTree.load(target)
    assert all(code in sources for code in table)
    assert all(code in targets for mapped in table.values() for code in mapped)


def test_the_caller_cannot_change_the_table():
    gem_map("ICD10CM:I10", to="ICD9CM").clear()
    assert gem_best("ICD10CM:I10", to="ICD9CM") == "ICD9CM:401.9"


def test_errors():
    with pytest.raises(InputError, match="`to` is 'ICD9CM'; ICD9CM:250.23 can be mapped to ICD10CM"):
        gem_map("ICD9CM:250.23", to="ICD9CM")
    with pytest.raises(InputError, match="`to` is '10'"):
        gem_best("ICD9CM:250.23", to="10")
    with pytest.raises(UnknownCodeError, match="'ICD9CM:250.99'"):
        gem_map("ICD9CM:250.99", to="ICD10CM")
