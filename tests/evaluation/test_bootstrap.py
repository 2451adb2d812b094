import numpy as np
import pytest
from ranking_cases import random_orders, random_samples

from mera_hf.evaluation.bootstrap import all_draws, intervals, percentiles, resampled
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.tally import tally_ranking


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def measure_drawn(order, sizes, samples, patients, resamples, seed):
    """The figures of resampled patients, each draw measured anew."""
    weights = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    figures = []
    for row in weights:
        drawn = np.repeat(np.arange(patients), row)
        figures.append(evaluate_ranking(order[drawn], sizes[drawn], [samples[i] for i in drawn], (10,)))
    return {name: np.array([each[name] for each in figures]) for name in figures[0]}


@pytest.mark.parametrize("largest", [9, 31])  # small sets, and as large as all codes
def test_intervals_equal_measuring_the_resampled_patients(rng, largest):
    samples = random_samples(rng, patients=25)
    order, sizes = random_orders(rng, samples), rng.integers(0, largest, size=25)
    got = intervals(order, sizes, samples, (10,), resamples=60, seed=3)
    expected = measure_drawn(order, sizes, samples, 25, 60, 3)
    assert evaluate_ranking(order, sizes, samples, (10,)).keys() - got.keys() == {"macro_f1", "macro_f1_eov"}
    for name, ends in got.items():
        assert ends == pytest.approx(np.quantile(expected[name], [0.025, 0.975]))


def test_runs_share_their_draws(rng):
    samples = random_samples(rng, patients=25)
    runs = [(random_orders(rng, samples), rng.integers(0, 9, size=25)) for _ in range(3)]
    got = resampled([tally_ranking(*run, samples, (10,)) for run in runs], 30, seed=5)
    each = [measure_drawn(*run, samples, 25, 30, 5) for run in runs]
    for name in ("recall@10", "ndcg@10", "weighted_f1", "macro_f1_eov", "mean_set_size"):
        np.testing.assert_allclose(got[name], np.mean([run[name] for run in each], axis=0))


def test_intervals_are_seeded_and_narrow_with_patients(rng):
    samples = random_samples(rng, patients=40)
    order = random_orders(rng, samples)
    few = intervals(order, None, samples, (10,))
    assert few == intervals(order, None, samples, (10,))
    assert few != intervals(order, None, samples, (10,), seed=1)
    many = intervals(np.tile(order, (16, 1)), None, samples * 16, (10,))
    assert "weighted_f1_eov" not in many
    recall = evaluate_ranking(order, None, samples, (10,))["recall@10"]
    width = {name: (few[name][1] - few[name][0]) / (many[name][1] - many[name][0]) for name in ("recall@10", "map")}
    # the standard error falls with the root of the patients
    assert width == {"recall@10": pytest.approx(4, rel=0.2), "map": pytest.approx(4, rel=0.2)}
    assert few["recall@10"][0] < recall < few["recall@10"][1]


def test_percentiles():
    assert percentiles(np.arange(101.0), 0.9) == pytest.approx([5, 95])


def test_a_draw_counts_each_patient_as_often_as_it_is_drawn():
    weights = all_draws(30, 500)
    assert weights.shape == (30, 500) and (weights.sum(axis=0) == 30).all()
    assert weights.mean() == 1 and weights.var() == pytest.approx(1, rel=0.1)  # Poisson, nearly
