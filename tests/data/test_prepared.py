"""A prepared dataset as it is handed on."""

import json

import pytest

from mera_hf.data.prepare import prepare
from mera_hf.data.prepared import Prepared, load_prepared, read_report
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError


@pytest.fixture
def prepared(raw, tmp_path):
    prepare("mimic3", raw("mimic3"), tmp_path / "out")
    return Prepared.open(tmp_path / "out")


def test_holds_what_the_folder_holds(prepared):
    assert prepared.report == read_report(prepared.folder)
    assert prepared.entries == json.loads((prepared.folder / "codes.json").read_text())
    for name, rows in load_prepared(prepared.folder).items():
        assert prepared.splits[name].to_list() == rows.to_list()
    assert prepared.codes == [entry["code"] for entry in prepared.entries]


def test_samples_are_made_once(prepared):
    train = prepared.samples("train", "every")
    assert train == prediction_samples(prepared.splits["train"], prepared.codes, "every") and train
    assert prepared.samples("train", "every") is train and prepared.samples("train", "every", prepared.codes) is train
    reversed_codes = prepared.codes[::-1]
    other = prepared.samples("train", "every", reversed_codes)
    assert other == prediction_samples(prepared.splits["train"], reversed_codes, "every") != train
    assert prepared.samples("train") == prediction_samples(prepared.splits["train"], prepared.codes, "last")


def test_samples_refuse_another_split(prepared):
    with pytest.raises(InputError, match="^`split` is 'x'; choose one of train, validation, test.$"):
        prepared.samples("x")


def test_train_visits_of_a_code_that_the_dataset_has_not(prepared):
    first, second = prepared.entries[:2]
    assert prepared.train_visits([second["code"], "ICD9CM:nowhere", first["code"]]) == [
        second["visits"],
        0,
        first["visits"],
    ]
