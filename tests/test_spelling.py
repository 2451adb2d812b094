"""Where the dot lies, and when a zero is put back: the rule by itself, without a tree."""

import pytest

from mera_hf.spelling_mera import dotted


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
