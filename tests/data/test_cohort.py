import importlib

import polars as pl
import pytest

from mera_hf.data.codes import normalize_codes
from mera_hf.data.cohort import select_cohort
from mera_hf.errors import InputError


def select(source, folder, **options):
    records = importlib.import_module(f"mera_hf.data.sources.{source}").read(folder)
    codes, _, _ = normalize_codes(records, "drop")
    options = {"rule": "default", "min_visits": 2, "keep_single_visit": False, "sample": None} | options
    rows, dropped = select_cohort(records, codes, **options)
    return rows, {what: count for what, count in dropped.items() if count}


def test_default_rule_removes_visits_and_field_rule_patients(raw):
    # Patient 3 has two admissions, the first without codes.
    folder = raw("mimic3")
    rows, dropped = select("mimic3", folder, min_visits=1)
    assert rows["patient_id"].to_list() == ["1", "2", "3"]
    assert rows["visits"].list.len().to_list() == [2, 2, 1]
    assert dropped["visits without codes"] == 1
    rows, dropped = select("mimic3", folder, min_visits=1, rule="field")
    assert rows["patient_id"].to_list() == ["1", "2"]
    assert dropped["patients with an admission without codes"] == 1


def test_min_visits_and_single_visit_patients(raw):
    folder = raw("mimic3")
    rows, dropped = select("mimic3", folder)
    assert rows["patient_id"].to_list() == ["1", "2"]
    assert dropped["patients with fewer than 2 visits"] == 1
    rows, dropped = select("mimic3", folder, keep_single_visit=True)
    assert dict(rows.select("patient_id", "single").iter_rows()) == {"1": False, "2": False, "3": True}
    assert "patients with fewer than 2 visits" not in dropped


def test_field_rule_begins_in_2013(raw):
    # Patient 1: 2012 and 2014; patient 2: 2018 and 2019.
    rows, dropped = select("mimic4", raw("mimic4"), rule="field", min_visits=1)
    assert rows["visits"].list.len().to_list() == [1, 2]
    assert dropped["visits before 2013 (estimated)"] == 1


def test_sample_is_drawn_from_the_cohort(demo):
    rows, _ = select("mimic4", demo("mimic4"))
    sample, dropped = select("mimic4", demo("mimic4"), sample=10)
    assert sample.height == 10 and dropped["patients outside the sample"] == rows.height - 10
    assert set(sample["patient_id"]) < set(rows["patient_id"])
    assert sample.equals(select("mimic4", demo("mimic4"), sample=10)[0])
    with pytest.raises(InputError, match="`sample` is 49 patients, and the cohort has 48"):
        select("mimic4", demo("mimic4"), sample=49)


def test_empty_cohort(raw):
    with pytest.raises(InputError, match="cohort is empty: of 3 patients none has 9 visits.*Lower `min_visits`"):
        select("mimic3", raw("mimic3"), min_visits=9)


@pytest.mark.parametrize(
    "source,rule,patients,visits,codes",
    [
        ("mimic3", "default", 14, 43, 259),
        ("mimic3", "field", 14, 43, 259),
        ("mimic4", "default", 48, 223, 1270),
        ("mimic4", "field", 34, 160, 1005),
    ],
)
def test_demo_cohorts(demo, source, rule, patients, visits, codes):
    rows, _ = select(source, demo(source), rule=rule)
    found = rows.select(pl.col("visits").explode().struct.field("codes").explode().n_unique()).item()
    assert (rows.height, rows["visits"].list.len().sum(), found) == (patients, visits, codes)
