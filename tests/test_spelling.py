"""Where the dot lies, when a zero is put back, and which code of a model a spelling means."""

import random

import pytest

from mera_hf.icd import IcdTree
from mera_hf.spelling_mera import CodeReader, dotted, split_visits


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "001"),
        ("38", "038"),
        ("381", "381"),
        ("0381", "038.1"),
        ("38.10", "038.10"),
        ("3810", "381.0"),
        ("25023", "250.23"),
        ("250.", "250"),
        ("V158", "V15.8"),
        ("V15.8", "V15.8"),
        ("E8490", "E849.0"),
        ("E849", "E849"),
        ("E84", None),
        ("V1", None),
        ("V158.2", None),
        ("2502.3", None),
        ("250.234", None),
        ("250234", None),
        (".5", None),
        ("2 5", None),
        ("", None),
        ("²50", None),
    ],
)
def test_icd9(text, expected):
    assert dotted("ICD9CM", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A00", "A00"),
        ("E1165", "E11.65"),
        ("E11.65", "E11.65"),
        ("T814XXA", "T81.4XXA"),
        ("C7A00", "C7A.00"),
        ("QA00", "QA0.0"),
        ("E116.5", None),
        ("E1", None),
        ("T814XXAA", None),
        ("4019", None),
    ],
)
def test_icd10(text, expected):
    assert dotted("ICD10CM", text) == expected


READER = CodeReader(
    ["ICD9CM:038", "ICD9CM:250", "ICD9CM:250.0", "ICD9CM:401.9", "ICD9CM:E849", "ICD10CM:E11.65", "ICD10CM:I10"]
)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("250.03", "ICD9CM:250.0"),  # the nearest code above
        ("25013", "ICD9CM:250"),
        (" 250 ", "ICD9CM:250"),
        ("38.9", "ICD9CM:038"),
        ("e8490", "ICD9CM:E849"),
        ("icd-9-cm:4019", "ICD9CM:401.9"),
        ("ICD10:e1165", "ICD10CM:E11.65"),
        ("ICD10CM:I10", "ICD10CM:I10"),
    ],
)
def test_codes_are_read_as_those_of_a_model(raw, code):
    assert READER.read(raw, "ICD9CM") == code


@pytest.mark.parametrize(
    ("raw", "version", "message"),
    [
        ("428.0", "ICD9CM", r"'428.0' is not one of the 7 codes .*\(ICD-10-CM and ICD-9-CM\).* leave it out"),
        ("401", "ICD9CM", "one that it has below: ICD9CM:401.9"),
        ("E11", "ICD9CM", "'E11' is not one"),  # no shape of that version
        ("E11", "ICD10CM", "below: ICD10CM:E11.65"),
        ("ICD11:5A11", "ICD9CM", "'ICD11:5A11' is not one"),
        ("", "ICD9CM", "'' is not one"),
        ("428.0", None, "may be ICD-9-CM or ICD-10-CM"),
        (250.0, "ICD9CM", "a code must be a string, got 250.0"),
    ],
)
def test_what_a_model_has_no_code_for_is_refused(raw, version, message):
    with pytest.raises(ValueError, match=message):
        READER.read(raw, version)


def test_the_version_is_said_or_the_only_one():
    assert [READER.version(icd) for icd in (None, 9, "10", "ICD-9-CM")] == [None, "ICD9CM", "ICD10CM", "ICD9CM"]
    one = CodeReader(["ICD10CM:I10"])
    assert one.version(None) == "ICD10CM"
    with pytest.raises(ValueError, match="`icd` is '9', and this model knows ICD-10-CM codes only"):
        one.version("9")
    with pytest.raises(ValueError, match="`icd` is '11'; give '9' or '10'"):
        one.version("11")


@pytest.mark.parametrize("version", ["ICD9CM", "ICD10CM"])
def test_above_a_code_is_what_the_tree_has_above_it(version):
    """Without its tables, for every code: what a model of some of the codes reads is the nearest of them in the tree."""
    tree = IcdTree.load(version)
    codes = tree.codes()
    known = set(random.Random(0).sample(codes, len(codes) // 4))
    reader, found = CodeReader(sorted(known)), 0
    for code in codes:
        above = [node for node in (code, *reversed(tree.ancestors(code))) if node in known]
        if above:
            assert reader.read(code.replace(".", "").lower(), version) == above[0]
            found += 1
    assert len(codes) // 4 < found < len(codes)
    code = next(code for code in codes if not known & {code, *tree.ancestors(code)})
    with pytest.raises(ValueError, match="nor is a code above it"):
        reader.read(code, version)


def test_visits_lie_between_semicolons():
    assert split_visits("250.00 401.9, 428.0;486 ; ") == [["250.00", "401.9", "428.0"], ["486"]]
    assert split_visits("428.0;;486") == [["428.0"], [], ["486"]] and split_visits(" ") == [[]]
