import numpy as np
import pytest
from ranking_cases import random_orders, random_patients, random_samples, ranked

from mera_hf.data.samples import Sample
from mera_hf.evaluation.bootstrap import all_draws, interval, intervals, mean_interval, resampled
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.sections import fairness, heart_failure, strata
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
    figures = evaluate_ranking(order, sizes, samples, (10,))
    for name, ends in got.items():
        low, middle, high = np.quantile(expected[name], [0.025, 0.5, 0.975])
        assert ends == pytest.approx([max(0, figures[name] + low - middle), figures[name] + high - middle])


def test_runs_share_their_draws(rng):
    samples = random_samples(rng, patients=25)
    runs = [(random_orders(rng, samples), rng.integers(0, 9, size=25)) for _ in range(3)]
    got = resampled([tally_ranking(*run, samples, (10,)) for run in runs], 30, seed=5)
    each = [measure_drawn(*run, samples, 25, 30, 5) for run in runs]
    for name in ("recall@10", "ndcg@10", "weighted_f1", "macro_f1_eov", "mean_set_size"):
        np.testing.assert_allclose(got[name], np.mean([run[name] for run in each], axis=0))


def test_visits_of_a_patient_are_drawn_together(rng):
    samples = random_samples(rng, patients=20)
    order, sizes = random_orders(rng, samples), rng.integers(0, 9, size=20)
    patient = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 4, 5, 6, 6, 6, 7, 7, 7, 7])
    tally = tally_ranking(order, sizes, samples, (10,))
    got = resampled([tally], 40, 5, patient)
    for draw, weights in enumerate(all_draws(8, 40, 5).T.astype(int)):
        drawn = np.repeat(np.arange(20), weights[patient])
        by_hand = evaluate_ranking(order[drawn], sizes[drawn], [samples[i] for i in drawn], (10,))
        assert {name: values[draw] for name, values in got.items()} == pytest.approx(by_hand)
    # Four copies of each visit say no more than one, and drawn by themselves they would
    rows = np.repeat(np.arange(20), 4)
    copies = order[rows], sizes[rows], [samples[row] for row in rows], (10,)
    alone = intervals(order, sizes, samples, (10,))
    assert intervals(*copies, patient=rows)["recall@10"] == pytest.approx(alone["recall@10"])
    low, high = intervals(*copies)["recall@10"]
    assert high - low < 0.6 * (alone["recall@10"][1] - alone["recall@10"][0])


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


def test_an_interval_is_laid_around_its_figure():
    drawn = np.append(np.arange(1001) / 1000, np.nan)  # the middle 95 % are 0.475 to both sides of the median
    assert interval(0.1, drawn) == pytest.approx([-0.375, 0.575])
    assert interval(0.1, drawn, 0) == pytest.approx([0, 0.575])
    assert interval(3, 10 * drawn, 0, np.inf) == pytest.approx([0, 7.75])
    assert interval(0.9, drawn) == pytest.approx([0.425, 1])


@pytest.mark.parametrize("seed", range(20))
def test_an_interval_holds_its_figure_whatever_the_draws(seed):
    rng = np.random.default_rng(seed)
    kinds = [rng.beta(0.05, 5, 400), rng.choice([0.0, 1], 400, p=[0.99, 0.01]), np.full(400, 1 / 3), rng.random(1)]
    kinds += [np.float32(rng.random(400)), np.where(rng.random(400) < 0.9, np.nan, rng.random(400))]
    for drawn in kinds:
        for figure in (0.0, 1.0, rng.random(), 1 / 3):  # draws may be far from their figure
            low, high = interval(figure, drawn, 0)
            assert 0 <= low <= figure <= high <= 1
    values = rng.choice([0.1, 0.3, 1 / 3], rng.integers(1, 30))
    low, high = mean_interval(values, 0)
    assert low <= values.mean() <= high


def pairs_of(section):
    """Every figure of a section of `metrics.json` that has an interval, with its interval."""
    if isinstance(section, dict):
        for name, figures in section.get("intervals", {}).items():
            yield from ((section["rankers"][name][metric], ends) for metric, ends in figures.items())
        if "interval" in section:
            yield section["gap" if "gap" in section else "difference"], section["interval"]
        for part in section.values():
            yield from pairs_of(part)


@pytest.mark.parametrize("section", [fairness, heart_failure, strata])
@pytest.mark.parametrize("everything", [False, True])
def test_every_interval_of_a_section_holds_its_figure(section, everything, monkeypatch):
    monkeypatch.setattr(fairness, "FEWEST_IN_GROUP", 5)
    patients = random_patients(np.random.default_rng(9), 45, train_visits=range(11))
    mera = patients.rankings["mera"]
    if everything:
        sizes = np.full(45, 11)
        mera = ranked(mera.order, np.where(np.arange(45) < 20, sizes, 0), mera.probabilities)
    patients = RankedPatients(patients.samples, patients.codes, {"mera": mera}, patients.train_visits)
    found = list(pairs_of(section.measure(patients, 60)))
    assert found and all(low <= figure <= high for figure, (low, high) in found)


def test_intervals_of_sets_of_all_codes_hold_what_is_expected_of_other_patients():
    """Forty patients and 300 codes: draws alone would put weighted F1 of such sets far above what it is."""
    rng = np.random.default_rng(5)
    frequency = 1 / np.arange(1, 301)
    order, sizes = np.tile(np.arange(300), (40, 1)), np.full(40, 300)
    tallies = []
    for _ in range(60):
        visits = [rng.choice(300, 6, replace=False, p=frequency / frequency.sum()).tolist() for _ in range(40)]
        tallies.append(tally_ranking(order, sizes, [Sample(i, [[0]], v, {}) for i, v in enumerate(visits)], (10,)))
    expected = np.mean([tally.measure()["weighted_f1_eov"] for tally in tallies])
    held = percentile = 0
    for tally in tallies:
        drawn = resampled([tally], 200)["weighted_f1_eov"]
        low, high = interval(tally.measure()["weighted_f1_eov"], drawn, 0)
        held += low <= expected <= high
        percentile += np.quantile(drawn, 0.025) <= expected <= np.quantile(drawn, 0.975)
    assert held >= 53, held  # 57 are expected
    assert percentile <= 45, percentile


def test_a_draw_counts_each_patient_as_often_as_it_is_drawn():
    weights = all_draws(30, 500)
    assert weights.shape == (30, 500) and (weights.sum(axis=0) == 30).all()
    assert weights.mean() == 1 and weights.var() == pytest.approx(1, rel=0.1)  # Poisson, nearly
