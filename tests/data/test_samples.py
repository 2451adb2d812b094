import numpy as np
import pytest

from mera_hf.data.samples import multi_hot, prediction_samples
from mera_hf.errors import InputError


CODES = ["ICD9CM:250.00", "ICD9CM:401.9", "ICD9CM:428.0", "ICD9CM:584.9"]


def row(*visits, **profile):
    return {
        "patient_id": "p",
        "profile": {"sex": "F", "age": 70.0, "race": None} | profile,
        "visits": [{"codes": list(codes), "time": None, "text": None} for codes in visits],
    }


A, B, C, D = CODES


def test_last_visit_is_the_only_target():
    samples = prediction_samples([row([A, B], [C], [D, A]), row([B], [B])], CODES)
    assert [(s.patient, s.history, s.target) for s in samples] == [(0, [[0, 1], [2]], [3, 0]), (1, [[1]], [1])]
    assert samples[0].profile == {"sex": "F", "age": 70.0, "race": None}


def test_every_visit_but_the_first_is_a_target():
    samples = prediction_samples([row([A, B], [C], [D, A])], CODES, target="every")
    assert [(s.history, s.target) for s in samples] == [([[0, 1]], [2]), ([[0, 1], [2]], [3, 0])]


def test_one_visit_gives_no_sample_and_keeps_the_row_numbers():
    for target in ("last", "every"):
        assert [s.patient for s in prediction_samples([row([A]), row([A], [B])], CODES, target)] == [1]


def test_a_code_given_twice_in_a_visit_counts_once():
    (sample,) = prediction_samples([row([A, A], [C, B, C])], CODES)
    assert sample.history == [[0]]
    assert sample.target == [2, 1]


def test_codes_outside_the_vocabulary_are_counted_and_shown():
    rows = [row([A, "ICD10CM:I10"], ["ICD10CM:I10", "ICD10CM:E11.9"])]
    message = r"2 distinct codes \(3 occurrences\).* 4 codes of `codes`: ICD10CM:I10, ICD10CM:E11.9\. .*vocabulary"
    with pytest.raises(InputError, match=message):
        prediction_samples(rows, CODES)


def test_a_target_without_codes_is_refused_with_its_row():
    with pytest.raises(InputError, match="Row 1, visit 2 of 2 holds no code"):
        prediction_samples([row([A], [B]), row([A], [])], CODES)


def test_target_must_be_known():
    with pytest.raises(InputError, match="'last' or 'every', not 'first'"):
        prediction_samples([], CODES, target="first")


def test_a_dataset_gives_the_same_samples_as_its_rows():
    datasets = pytest.importorskip("datasets")
    rows = [row([A, B], [C]), row([B], [B, D], [A], sex="M")]
    assert prediction_samples(datasets.Dataset.from_list(rows), CODES, "every") == prediction_samples(
        rows, CODES, "every"
    )


def test_multi_hot():
    dense = multi_hot([[2, 0, 2], [], [1]], 4).toarray()
    np.testing.assert_array_equal(dense, [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    assert dense.dtype == np.float32
    assert multi_hot([], 4).shape == (0, 4)
