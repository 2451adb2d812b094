import dataclasses

import numpy as np
import pytest
from ranking_cases import random_patients, ranked

from mera_hf.data.samples import Sample
from mera_hf.evaluation.rankings import ranked as ranked_module
from mera_hf.evaluation.rankings.ranked import Cut, Pairs, RankedPatients, are_among


def test_pairs_are_distinct_and_sorted():
    patients = RankedPatients([], ["a", "b", "c"], {})
    pairs = patients.pairs([[2, 0, 2], [], [1]])
    assert pairs.patient.tolist() == [0, 0, 2] and pairs.code.tolist() == [0, 2, 1]


def test_places_of_codes_that_are_not_ranked_are_behind_all():
    samples = [Sample(0, [[0]], [0, 2], {}), Sample(1, [[0]], [1, 2], {})]
    patients = RankedPatients(samples, ["a", "b", "c"], {"mera": ranked(np.array([[2, 1], [0, 1]]))})
    assert patients.true_places["mera"].tolist() == [2, 0, 1, 2]
    assert [places.tolist() for _, places in patients.places("mera")] == [[[2, 1, 0], [0, 1, 2]]]


@pytest.mark.parametrize(("pairs", "rows"), [(7, 4), (1, 1), (1000, 1000)])
def test_blocks_change_nothing(monkeypatch, pairs, rows):
    patients = random_patients(np.random.default_rng(0))
    sizes = patients.rankings["mera"].set_sizes
    expected = [(i, code) for i, size in enumerate(sizes) for code in patients.rankings["mera"].order[i, :size]]
    monkeypatch.setattr(ranked_module, "BLOCK_PAIRS", pairs)
    monkeypatch.setattr(ranked_module, "BLOCK_PATIENTS", rows)
    blocks = list(patients.predicted("mera", sizes))
    assert [pair for block in blocks for pair in zip(*block, strict=True)] == expected
    places = np.concatenate([places for _, places in patients.places("mera")])
    assert (np.take_along_axis(places, patients.rankings["mera"].order, axis=1) == np.arange(places.shape[1])).all()


def test_no_predicted_code_at_all():
    patients = random_patients(np.random.default_rng(0))
    (pairs,) = patients.predicted("mera", np.zeros(len(patients), dtype=int))
    assert len(pairs.patient) == len(pairs.code) == 0


def test_sets_of_nearly_every_code_are_no_choice():
    patients = random_patients(np.random.default_rng(0))
    assert patients.sizes("mera").keys() == {"weighted_f1", "weighted_f1_eov"}
    everything = Cut(np.full(len(patients), len(patients.codes)), "threshold")
    every = dataclasses.replace(patients.rankings["mera"], cut=everything)
    assert RankedPatients(patients.samples, patients.codes, {"mera": every}).sizes("mera").keys() == {"weighted_f1"}


def test_membership_of_pairs():
    some = Pairs(np.array([0, 0, 3]), np.array([1, 4, 0]))
    asked = Pairs(np.array([0, 0, 1, 3, 3, 9]), np.array([4, 0, 1, 0, 4, 4]))
    assert are_among(asked, some, 5).tolist() == [True, False, False, True, False, False]
    nothing = Pairs(np.array([], dtype=int), np.array([], dtype=int))
    assert are_among(asked, nothing, 5).tolist() == [False] * 6 and are_among(nothing, some, 5).tolist() == []
