import hashlib

import polars as pl
import pytest

from mera_hf.data.splits import check_disjoint, field_split, random_split
from mera_hf.errors import InputError


def cohort(*patients):
    """One row a patient; each patient is a list of visits, each a list of codes."""
    visits = [[{"codes": codes} for codes in visits] for visits in patients]
    return pl.DataFrame({"patient_id": [f"p{i:04}" for i in range(len(patients))], "visits": visits})


def test_random_split_is_the_written_formula():
    u = int(hashlib.sha256(b"0:patient-1").hexdigest()[:16], 16) / 2**64
    expected = "train" if u < 0.7 else "validation" if u < 0.8 else "test"
    assert random_split("patient-1", 0) == expected
    names = [random_split(str(patient), 0) for patient in range(20_000)]
    assert [names.count(name) / 20_000 for name in ("train", "validation", "test")] == pytest.approx(
        [0.7, 0.1, 0.2], abs=0.01
    )
    assert names != [random_split(str(patient), 1) for patient in range(20_000)]


def test_field_split_sees_every_code_in_train():
    # Each patient has one code of their own every tenth patient, and a common one.
    rows = cohort(*([["A"], ["A", f"rare{i}"] if i % 10 == 0 else ["A"]] for i in range(200)))
    split = field_split(rows, train=120, test=30, seed=6669)
    assert [split.count(name) for name in ("train", "validation", "test")] == [120, 50, 30]
    codes = {name: set() for name in set(split)}
    for name, visits in zip(split, rows["visits"].to_list(), strict=True):
        codes[name].update(code for visit in visits for code in visit["codes"])
    assert codes["train"] == codes["train"] | codes["validation"] | codes["test"]
    assert split == field_split(rows, train=120, test=30, seed=6669)
    assert split != field_split(rows, train=120, test=30, seed=1)


def test_field_split_puts_the_longest_patient_into_train():
    rows = cohort(*([["A"]] * (5 if i == 77 else 2) for i in range(100)))
    for seed in range(10):
        assert field_split(rows, train=10, test=40, seed=seed)[77] == "train"


def test_field_split_refuses_with_counts():
    with pytest.raises(
        InputError, match="more than 7,000 patients .6,000 train, 1,000 test.*cohort has 3. Use split='random'"
    ):
        field_split(cohort(*[[["A"]]] * 3), 6000, 1000)
    with pytest.raises(InputError, match="for every code into train: 10 patients, and train has 5"):
        field_split(cohort(*([[f"c{i}"]] for i in range(10))), 5, 2)


def test_check_disjoint():
    check_disjoint({"train": ["a", "b"], "test": ["c"]})
    with pytest.raises(InputError, match="A patient is in two splits: row 1 of train and row 0 of test .*both: 1"):
        check_disjoint({"train": ["a", "b"], "validation": [], "test": ["b"]})
