import numpy as np
import pytest
from cases import learnable_samples

from mera_hf.errors import InputError
from mera_hf.evaluation.controls import shuffled_histories, shuffled_history
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.reference import CopyHistory, Prevalence, rank_function


@pytest.fixture
def samples():
    return learnable_samples(np.random.default_rng(0), 100)[2::3]  # the last visit of each patient


@pytest.mark.parametrize("count", [2, 3, 50])
def test_nobody_keeps_their_history_and_every_history_is_given_once(samples, count):
    marked = [type(s)(s.patient, [[i]], s.target, {"row": i}, [f"text {i}"]) for i, s in enumerate(samples[:count])]
    shuffled = shuffled_histories(marked, seed=4)
    given = [sample.history[0][0] for sample in shuffled]
    assert sorted(given) == list(range(count))
    assert all(giver != receiver for receiver, giver in enumerate(given))
    assert [sample.texts for sample in shuffled] == [[f"text {giver}"] for giver in given]
    assert [(s.patient, s.target, s.profile) for s in shuffled] == [(s.patient, s.target, s.profile) for s in marked]
    assert shuffled == shuffled_histories(marked, seed=4)


def test_the_control_breaks_copying_and_leaves_prevalence(samples):
    own = {}
    for ranker in (CopyHistory(), Prevalence()):
        rank = rank_function(ranker.fit(samples, 24, samples), samples)
        own[ranker.name] = evaluate_ranking(*rank(samples), samples, (4,)), shuffled_history(rank, samples, (4,))
    before, after = own["copy_history"]
    assert after["recall@4"] < before["recall@4"] - 0.2
    assert own["prevalence"][0] == own["prevalence"][1]


def test_repeated_codes_are_those_of_the_patients_own_history(samples):
    own_order = np.tile(np.arange(24), (len(samples), 1))
    control = shuffled_history(lambda shown: (own_order, None), samples, (12,))
    assert control == evaluate_ranking(own_order, None, samples, (12,))


def test_one_sample_cannot_be_shuffled(samples):
    with pytest.raises(InputError, match="two samples or more, not 1"):
        shuffled_histories(samples[:1])
