"""Patients of a prepared folder on the page."""

import json

import pytest
from tiny import CODES

from mera_hf.app.stored_patients import StoredPatients
from mera_hf.data.prepared import load_prepared
from mera_hf.errors import InputError


def test_a_patient_is_shown_as_if_the_last_visit_were_to_come(folder):
    stored, rows = StoredPatients(folder, public=False), load_prepared(folder)["test"]
    assert len(stored) == len(rows) > 5 and stored.races == ["white"]
    for number, row in enumerate(rows, start=1):
        patient, profile, left_out = stored.open(number, set(CODES))
        visits = [tuple(visit["codes"]) for visit in row["visits"]]
        assert [*patient.visits, patient.recorded] == visits and left_out == 0
        assert profile == row["profile"]
        assert row["patient_id"] not in {value for value in vars(patient).values() if isinstance(value, str)}


def test_codes_that_the_model_does_not_know_are_counted(folder):
    stored = StoredPatients(folder, public=False)
    known = set(CODES[:9])
    for number in range(1, len(stored) + 1):
        whole, _, _ = stored.open(number, set(CODES))
        patient, _, left_out = stored.open(number, known)
        assert patient.history | set(patient.recorded) <= known
        every = [code for visit in (*whole.visits, whole.recorded) for code in visit]
        assert left_out == sum(code not in known for code in every)


def test_credentialed_patients_are_for_this_computer_alone(folder):
    assert json.loads((folder / "prepare.json").read_text())["credentialed"]
    with pytest.raises(InputError, match="`--dataset`: .* credentialed data .*--host 127.0.0.1"):
        StoredPatients(folder, public=True)


def test_open_patients_may_be_shown_to_all(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "open")
    report = json.loads((copy / "prepare.json").read_text())
    (copy / "prepare.json").write_text(json.dumps({**report, "credentialed": False}))
    assert len(StoredPatients(copy, public=True)) == len(StoredPatients(folder, public=False))


def test_a_folder_that_was_not_prepared(tmp_path):
    with pytest.raises(InputError, match="is not a prepared dataset"):
        StoredPatients(tmp_path, public=False)
