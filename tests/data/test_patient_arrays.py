import pickle
import random

import pytest
from tiny import CODES, encoder_of, patients, tiny_mera

from mera_hf.data.patient_arrays import PatientArrays
from mera_hf.data.timelines import TimelineDataset
from mera_hf.timeline_mera import Patient


def test_patients_come_back_as_they_were():
    rows = [
        Patient([7, 8], [[3, 1], [], [2]], [[], [40_000, 5], []]),
        Patient([7], [], []),
        Patient([7, 8], [[]], [[9]]),
        Patient([7, 8], [[1], [1]], [[], []]),
    ]
    arrays = PatientArrays()
    for row in rows:
        arrays.append(row)
    assert len(arrays) == 4
    assert list(arrays) == rows and arrays[-1] == rows[3]
    assert arrays.heads == [[7, 8], [7]]  # a profile is kept once
    assert list(pickle.loads(pickle.dumps(arrays))) == rows  # as workers of a loader get it
    with pytest.raises(IndexError):
        arrays[4]


def test_what_comes_back_can_be_changed():
    arrays = PatientArrays()
    arrays.append(Patient([7], [[3, 1]], [[]]))
    arrays[0].visits[0].append(5)
    assert arrays[0].visits == [[3, 1]]


def test_an_item_takes_a_few_bytes():
    arrays = PatientArrays()
    for number in range(10_000):
        arrays.append(Patient([number % 3], [[number, 1, 2, 3]] * 3, [[]] * 3))
    lists = [arrays.visits, arrays.tails]
    flat = [
        *(kept for each in lists for kept in (each.numbers, each.ends)),
        arrays.head_of_patient,
        arrays.first_visit,
    ]
    assert sum(len(kept) * kept.itemsize for kept in flat) < 110 * 10_000  # 12 codes, 3 visits


@pytest.mark.parametrize("orders", [None, 2])
@pytest.mark.parametrize("fields", [{}, {"use_visit_text": True, "history_text": "code+description"}])
def test_timelines_are_those_of_the_rows(fields, orders):
    """Written from what the arrays keep, or from the rows themselves: the same tokens, orders and histories."""
    encoder = encoder_of(*tiny_mera("llama", **fields))
    rows = patients(6)
    for row in rows:
        row["visits"][0]["text"] = "fever"
    dataset = TimelineDataset(rows, encoder, seed=2, orders=orders)
    for number, row in enumerate(rows):
        draw = random.Random(f"2:1:{number}")
        expected = encoder.encode(row, 1, draw) if orders is None else encoder.encode_tree(row, 1, 2, draw)
        assert dataset[1, number] == expected
        assert encoder.encode_history(encoder.read(row)) == encoder.encode_history(row)


def test_timelines_of_a_patient_do_not_share_lists():
    """What a trainer does to one timeline must not reach the next."""
    encoder = encoder_of(*tiny_mera("llama", use_profile=True))
    row = {"profile": {"sex": "F", "age": 70}, "visits": [{"codes": CODES[:2]}]}
    patient = encoder.read(row)
    for write in (lambda: encoder.encode(patient, 0), lambda: encoder.encode_tree(patient, 0)):
        before = write()
        changed = write()
        changed.input_ids += [1, 2]
        changed.positions.clear()
        assert write() == before


def test_few_phrases_are_kept(llama, monkeypatch):
    monkeypatch.setattr("mera_hf.timeline_mera._MOST_PHRASES", 3)
    encoder = encoder_of(*llama)
    texts = ["fever", "cough", "fever cough", "cough fever", "fever fever"] * 2
    ids = [encoder.words(text) for text in texts]
    assert ids[:5] == ids[5:] and len(encoder._cache) <= 3
