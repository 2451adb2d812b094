"""The maps between the versions."""

import pytest

from mera_hf.errors import InputError
from mera_hf.icd import IcdTree, UnknownCodeError, gem_map
from mera_hf.icd.gem import _choose, _claims, _covering, _entries, _nearest


def to9(code, counts=None):
    """The ICD-9-CM codes that stand for an ICD-10-CM code, in one string and without versions."""
    qualified = {f"ICD9CM:{target}": count for target, count in (counts or {}).items()}
    found = gem_map(f"ICD10CM:{code}", to="ICD9CM", counts=qualified)
    assert all(target in IcdTree.load("ICD9CM") for target in found)
    return " ".join(target.removeprefix("ICD9CM:") for target in found)


def to10(code, counts=None):
    qualified = {f"ICD10CM:{target}": count for target, count in (counts or {}).items()}
    found = gem_map(f"ICD9CM:{code}", to="ICD10CM", counts=qualified)
    assert all(target in IcdTree.load("ICD10CM") for target in found)
    return " ".join(target.removeprefix("ICD10CM:") for target in found)


def test_single_targets():
    assert gem_map("ICD9CM:001.0", to="ICD10CM") == ["ICD10CM:A00.0"]
    assert gem_map("ICD10CM:E11.65", to="ICD9CM") == ["ICD9CM:250.80"]
    assert gem_map("ICD9CM:401.9", to="ICD10CM", counts={"ICD10CM:I11.0": 5}) == ["ICD10CM:I10"]


@pytest.mark.parametrize(
    ("code", "expected", "others"),
    [
        ("J44.9", "496", {"491.20", "493.20"}),
        ("F32.9", "311", {"296.20"}),
        ("I50.9", "428.0", {"428.9"}),
        ("I10", "401.9", {"401.0", "401.1"}),
        ("I25.10", "414.01", {"429.2"}),
        ("J96.01", "518.81", {"518.51"}),
    ],
)
def test_equal_targets_are_chosen_by_what_is_recorded(code, expected, others):
    entry = _entries("ICD10CM", "ICD9CM")[f"ICD10CM:{code}"]
    assert set(entry.split(" ")) == {expected} | others
    assert to9(code) == expected  # by the claims
    for other in others:
        assert to9(code, {other: 2, expected: 1}) == other
        assert to9(code, {other: 1, expected: 1}) == expected


def test_equal_targets_that_nothing_records():
    assert to10("272.4") == "E78.5"  # "Hyperlipidemia, unspecified", not "Other hyperlipidemia"
    assert to10("272.4", {"E78.4": 1}) == "E78.4"
    assert to10("518.81") == "J96.00" and to10("518.81", {"J96.90": 3, "J96.00": 2}) == "J96.90"
    assert to10("424.0") == "I34.0"  # neither is unspecified and both are short: the order of the tree
    # That of an eye, "of unspecified eye", is no unspecified haemorrhage.
    assert "H59.119" in _entries("ICD9CM", "ICD10CM")["ICD9CM:998.11"] and to10("998.11") == "D78.01"


def test_all_codes_of_a_combination():
    assert to9("R65.21") == "785.52 995.92"
    assert to9("I25.110") == "414.01 411.1"
    assert to9("E13.311") == "250.50 362.01 362.07"
    # A choice within a combination; and among whole combinations, of which the rarest code counts.
    assert _entries("ICD10CM", "ICD9CM")["ICD10CM:E09.21"] == "249.40+581.81|583.81"
    assert to9("E09.21", {"581.81": 1}) == "249.40 581.81" and to9("E09.21", {"583.81": 1}) == "249.40 583.81"
    # Pneumococcal sepsis, not the commoner streptococcal one: the opposite map sends only that one back.
    assert to9("A40.3", {"038.0": 9}) == "038.2 995.91"
    assert to10("754.35") == "Q65.01 Q65.32"
    assert to10("754.35", {"Q65.02": 1, "Q65.31": 1, "Q65.01": 9}) == "Q65.02 Q65.31"
    # A code that stands alone goes before a combination with it.
    assert to9("A18.01") == "015.00"


def test_choice_by_hand():
    counts = {"V:b": 3, "V:c": 1, "V:d": 5, "V:e": 2, "V:f": 2}

    def chosen(entry):
        return _choose(entry, "V", lambda code: (counts.get(code, 0), 0))

    assert chosen("a") == ["V:a"]
    assert chosen("a b c") == ["V:b"] and chosen("a z") == ["V:a"]
    assert chosen("d+c e+f") == ["V:e", "V:f"]
    assert chosen("a|c+d e+z") == ["V:c", "V:d"]
    assert chosen("d+d") == ["V:d"]


def test_a_code_without_a_map_has_the_code_that_the_opposite_map_sends_to_it():
    assert to10("E934.2") == "T45.515A"
    assert to9("T45.515A") == "995.29 E934.2"
    assert to10("E934.2", {"T45.525A": 1}) == "T45.525A"
    assert to10("E984") == "Y21.9XXA"
    for code in ("707.20", "707.23", "365.70"):
        assert code in to9(to10(code)).split()
    assert to10("707.23", {"L89.153": 1}) == "L89.153"


@pytest.mark.parametrize("code", ["ICD9CM:E870.8", "ICD9CM:E870", "ICD9CM:V64.41"])
def test_no_map_to_icd10_is_said(code):
    assert gem_map(code, to="ICD10CM") == []


# An underdosing that the map lists, one that it does not, a stage of coma, two categories of later years.
@pytest.mark.parametrize("code", ["T45.516A", "T43.656A", "R40.2130", "U07.1", "I16.0"])
def test_no_map_to_icd9_is_said(code):
    assert to9(code) == ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("E78.00", "272.0"),  # E78.0 was split after the maps were made
        ("I27.20", "416.8"),
        ("N18.30", "585.3"),
        ("K59.03", "564.00"),  # a new sibling of K59.00, K59.01, K59.02, K59.09
        ("F10.11", "305.00"),  # abuse, in remission: as F10.10, not as the psychoses among its siblings
        ("T81.40XA", "998.59"),  # the initial encounter, as T81.4XXA
        ("T81.40XD", "V58.89"),
        ("T81.41XS", "909.3"),
        ("T43.652A", "969.73 E950.3"),  # intentional self-harm stays so, and is a combination
    ],
)
def test_codes_of_later_years(code, expected):
    assert f"ICD10CM:{code}" not in _entries("ICD10CM", "ICD9CM")
    assert to9(code) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("585", "N18"),
        ("428", "I50"),
        ("518.5", "J96"),
        ("041.4", "B96.2"),
        ("250", "E11"),  # type 2 and type 1 are categories of their own: the one that claims record more often
        ("427", "I48.9"),
        ("599", "N39"),
        ("780.6", "R50"),
        ("E888", "W19.XXXA"),
    ],
)
def test_broader_codes(code, expected):
    assert to10(code) == expected


def test_the_broader_code_of_what_a_cohort_records():
    assert to10("250", {"E10.9": 1}) == "E10"
    assert to9("F10") == "303" and to9("F10", {"305.00": 1}) == "305.00"


def test_covering_node():
    tree = IcdTree.load("ICD9CM")

    def covering(*nodes, counts=None):
        return _covering(tree, {f"code {i}": f"ICD9CM:{node}" for i, node in enumerate(nodes)}, counts or {})

    assert covering("250.21") == "ICD9CM:250.21"
    assert covering("250.21", "250.23") == "ICD9CM:250.2"
    assert covering("250.2", "250.23") == "ICD9CM:250.2"
    assert covering("250.21", "250.30") == "ICD9CM:250"
    # Of several categories: by counts, by claims (496 is the commoner), by number, the first.
    assert covering("250.21", "250.30", "496") == "ICD9CM:496"
    assert covering("250.21", "250.30", "496", counts={"ICD9CM:250.21": 1}) == "ICD9CM:250"
    rare = ["001.0", "001.1", "002.1"]
    assert not any(_claims().get(f"ICD9CM:{code}") for code in rare)
    assert covering(*rare[::-1]) == "ICD9CM:001" and covering(*rare[1:]) == "ICD9CM:001.1"


def test_nearest_relative():
    tree = IcdTree.load("ICD10CM")
    family = [f"ICD10CM:{code}" for code in ("K59.00", "K59.01", "K59.02", "K59.09")]
    assert _nearest(tree, "ICD10CM:K59.03", family) == "ICD10CM:K59.00"  # its title and K59.09's share as much
    assert _nearest(tree, "ICD10CM:K59.03", family[1:]) == "ICD10CM:K59.09"
    assert _nearest(tree, "ICD10CM:K59.03", family[1:3]) == "ICD10CM:K59.02"  # alike in words: the nearer


@pytest.mark.parametrize(
    ("source", "target", "codes", "several", "unmapped"),
    [("ICD9CM", "ICD10CM", 14567, 2687, 147), ("ICD10CM", "ICD9CM", 69829, 3479, 669)],
)
def test_tables(source, target, codes, several, unmapped):
    table = _entries(source, target)
    assert len(table) == codes
    assert sum(" " in entry for entry in table.values()) == several
    assert sum(not entry for entry in table.values()) == unmapped
    sources, targets = IcdTree.load(source), IcdTree.load(target)
    assert all(code in sources for code in table)
    named = {code for entry in table.values() for code in entry.replace("+", " ").replace("|", " ").split()}
    assert all(f"{target}:{code}" in targets for code in named)


def test_what_does_not_come_back_is_merged_into_what_claims_record_more():
    """To ICD-10-CM and back, for every ICD-9-CM code with one target that could send it back."""
    back = _entries("ICD10CM", "ICD9CM")
    lost = []
    for code in _entries("ICD9CM", "ICD10CM"):
        targets = gem_map(code, to="ICD10CM")
        if len(targets) == 1 and code.removeprefix("ICD9CM:") in back[targets[0]].split(" "):
            (returned,) = gem_map(targets[0], to="ICD9CM")
            if returned != code:
                lost.append((_claims().get(code, 0), _claims().get(returned, 0)))
    assert lost and all(other >= own for own, other in lost)


def test_errors():
    with pytest.raises(InputError, match="`to` is 'ICD9CM'; ICD9CM:250.23 can be mapped to ICD10CM"):
        gem_map("ICD9CM:250.23", to="ICD9CM")
    with pytest.raises(InputError, match="`to` is '10'"):
        gem_map("ICD9CM:250.23", to="10")
    with pytest.raises(UnknownCodeError, match="'ICD9CM:250.99'"):
        gem_map("ICD9CM:250.99", to="ICD10CM")
