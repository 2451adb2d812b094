"""The report of unknown codes."""

import pytest

from mera_hf.icd import CodeReport, IcdTree, UnknownCodeError


def collect(*spellings):
    report = CodeReport()
    for version, raw in spellings:
        with pytest.raises(UnknownCodeError) as caught:
            IcdTree.load(version).normalize(raw)
        report.add(caught.value)
    return report


def test_counts_and_order():
    report = collect(("ICD9CM", "250.99"), ("ICD9CM", "E11.65"), ("ICD10CM", "250.99"), ("ICD9CM", "E11.65"))
    assert (len(report), report.total) == (3, 4)
    assert report.rows() == [
        {"value": "E11.65", "version": "ICD9CM", "count": 2, "nearest": None, "other": "ICD10CM:E11.65"},
        {"value": "250.99", "version": "ICD10CM", "count": 1, "nearest": None, "other": None},
        {"value": "250.99", "version": "ICD9CM", "count": 1, "nearest": "ICD9CM:250.9", "other": None},
    ]


def test_table():
    report = collect(("ICD9CM", "250.99"), ("ICD9CM", "E11.65"), ("ICD9CM", "E11.65"))
    report.add(UnknownCodeError("xyz", "ICD10CM"), count=7)
    assert report.table(limit=2).splitlines() == [
        "Unknown codes: 3 spellings in 10 rows.",
        "spelling  version    rows  nearest valid prefix  a code of",
        "xyz       ICD-10-CM  7     none",
        "E11.65    ICD-9-CM   2     none                  ICD-10-CM",
        "... and 1 more spellings.",
    ]
    assert "ICD9CM:250.9" in report.table()
    assert CodeReport().table() == "No unknown codes."
