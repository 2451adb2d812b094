"""Finding codes by what a person types."""

import pytest

from mera_hf.app.codes import Codes


NAMES = {
    "ICD9CM:250": "Diabetes mellitus",
    "ICD9CM:250.4": "Diabetes with renal manifestations",
    "ICD9CM:410": "Acute myocardial infarction",
    "ICD9CM:425": "Cardiomyopathy",
    "ICD9CM:428": "Heart failure",
    "ICD9CM:429": "Ill-defined descriptions of heart disease",
    "ICD9CM:V42": "Organ replaced by transplant",
}
WEIGHTS = [-1.0, -2.0, -3.0, -5.0, -1.5, -4.0, -6.0]


@pytest.fixture
def codes():
    return Codes(list(NAMES), list(NAMES.values()), WEIGHTS)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("428", ["428"]),
        ("42", ["425", "428", "429"]),  # tree order
        ("v4", ["V42"]),
        ("250.40", ["250.4"]),  # the code that it lies under, the finest of those
        ("25040", ["250.4"]),
        ("42823", ["428"]),
        ("250", ["250", "250.4"]),
        ("ICD9CM:250.4", ["250.4"]),
        ("heart fail", ["428"]),
        ("fail heart", ["428"]),
        ("heart", ["428", "429"]),  # the commoner first
        ("  Heart, FAILURE ", ["428"]),
        ("ill defined", ["429"]),
        ("card", ["425", "410"]),  # the beginning of a word before the middle of one
        ("999", []),
        ("quinsy", []),
        ("", []),
        ("  .", []),
    ],
)
def test_what_is_found_and_in_which_order(codes, query, found):
    assert codes.find(query) == [f"ICD9CM:{code}" for code in found]


def test_every_code_finds_itself_first_in_any_spelling(codes):
    for code in NAMES:
        plain = code.split(":")[1]
        for spelling in (code, code.lower(), plain, plain.replace(".", ""), f" {plain.lower()} "):
            assert codes.find(spelling)[0] == code


def test_no_more_than_asked_for_and_each_once(codes):
    assert codes.find("e", limit=3) == codes.find("e")[:3] and len(codes.find("e")) > 3
    mixed = Codes(["ICD9CM:486"], ["486 under a number"], [0.0])
    assert mixed.find("486") == ["ICD9CM:486"]  # by its code and by its words


def test_the_version_is_shown_where_there_are_two():
    one = Codes(["ICD9CM:428"], ["Heart failure"], [0.0])
    assert one.short("ICD9CM:428") == "428" and len(one) == 1 and "ICD9CM:428" in one
    two = Codes(["ICD9CM:V42", "ICD10CM:I50"], ["Organ", "Heart failure"], [0.0, 0.0])
    assert [two.short(code) for code in two.descriptions] == ["V42 (ICD-9-CM)", "I50 (ICD-10-CM)"]
    assert two.find("icd10cm:i5") == ["ICD10CM:I50"]
