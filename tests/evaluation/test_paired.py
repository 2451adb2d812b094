import itertools

import numpy as np
import pytest
from ranking_cases import random_orders, random_samples
from scipy.stats import permutation_test

from mera_hf.data.samples import Sample, multi_hot
from mera_hf.errors import InputError
from mera_hf.evaluation.bootstrap import resampled
from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores
from mera_hf.evaluation.paired import compare, holm
from mera_hf.evaluation.tally import tally_ranking


METRICS = ("recall@10", "new_recall@10", "ndcg@10", "map", "weighted_f1", "weighted_f1_eov")


def by_metric(rows):
    return {row["metric"]: row for row in rows}


def random_runs(rng, samples, count=1):
    return [(random_orders(rng, samples), rng.integers(1, 7, size=len(samples))) for _ in range(count)]


def tallies(runs, samples):
    return [tally_ranking(*run, samples, (10,)) for run in runs]


def measure(run, samples):
    return evaluate_ranking(*run, samples, (10,))


def mixed(keep, ours, theirs):
    """A ranker that answers as `ours` for the patients that are kept and as `theirs` for the others."""
    return np.where(keep[:, None], ours[0], theirs[0]), np.where(keep, ours[1], theirs[1])


def swapped_differences(a, b, samples, keeps):
    """The definition read out loud: swap, measure, subtract; over all pairs of runs."""
    differences = {name: [] for name in METRICS}
    for keep in keeps:
        pairs = []
        for ours, theirs in itertools.product(a, b):
            first, second = measure(mixed(keep, ours, theirs), samples), measure(mixed(keep, theirs, ours), samples)
            pairs.append([first[name] - second[name] for name in METRICS])
        for name, value in zip(METRICS, np.mean(pairs, axis=0), strict=True):
            differences[name].append(value)
    return {name: np.array(values) for name, values in differences.items()}


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (2, 2), (3, 1)])
def test_equals_swapping_and_drawing_by_hand(ours, theirs):
    rng = np.random.default_rng(ours)
    samples = random_samples(rng, patients=15)
    a, b = random_runs(rng, samples, ours), random_runs(rng, samples, theirs)
    rows = by_metric(
        compare(tallies(a, samples), tallies(b, samples), METRICS, resamples=40, permutations=120, seed=5)
    )
    assert list(rows) == list(METRICS)
    observed = swapped_differences(a, b, samples, [np.ones(15, dtype=bool)])
    for name in METRICS:
        means = [np.mean([measure(run, samples)[name] for run in side]) for side in (a, b)]
        assert rows[name]["difference"] == pytest.approx(means[0] - means[1]) == pytest.approx(observed[name][0])

    draw = np.random.default_rng(5)
    keeps = np.concatenate([draw.integers(0, 2, size=(size, 15)) for size in (100, 20)]).astype(bool)
    chance = swapped_differences(a, b, samples, keeps)
    weights = np.random.default_rng(5).multinomial(15, np.full(15, 1 / 15), size=40)
    drawn_anew = {name: [] for name in METRICS}
    for row in weights:
        drawn = np.repeat(np.arange(15), row)
        people = [samples[i] for i in drawn]
        figures = [[measure((order[drawn], sizes[drawn]), people) for order, sizes in side] for side in (a, b)]
        for name in METRICS:
            left, right = (np.mean([run[name] for run in side]) for side in figures)
            drawn_anew[name].append(left - right)
    for name in METRICS:
        as_large = (np.abs(chance[name]) >= abs(observed[name][0]) - 1e-12).sum()
        assert rows[name]["p"] == pytest.approx((as_large + 1) / 121)
        low, middle, high = np.quantile(drawn_anew[name], [0.025, 0.5, 0.975])
        difference = rows[name]["difference"]
        assert rows[name]["interval"] == pytest.approx([difference + low - middle, difference + high - middle])


def test_the_interval_holds_the_difference_to_a_ranker_that_names_every_code():
    rng = np.random.default_rng(0)
    samples = random_samples(rng, patients=12, codes=1270)
    order, everything = random_orders(rng, samples, 1270), np.full(12, 1270)
    a, b = ([tally_ranking(order, sizes, samples, (10,))] for sizes in (rng.integers(1, 7, size=12), everything))
    for row in compare(a, b, METRICS, resamples=200, permutations=10):
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    # In the draws the other ranker gains by every code that a patient drawn twice has
    (row,) = compare(a, b, ("weighted_f1_eov",), resamples=200, permutations=10)
    drawn = resampled(a, 200)["weighted_f1_eov"] - resampled(b, 200)["weighted_f1_eov"]
    assert np.quantile(drawn, 0.975) < row["difference"]


def test_p_values_are_those_of_all_swaps_and_of_scipy():
    rng = np.random.default_rng(3)
    samples = random_samples(rng, patients=9)
    a, b = random_runs(rng, samples), random_runs(rng, samples)
    pair = tallies(a, samples)[0], tallies(b, samples)[0]
    rows = by_metric(compare([pair[0]], [pair[1]], METRICS, resamples=10, permutations=20000))
    keeps = np.array(list(itertools.product([True, False], repeat=9)))
    chance = swapped_differences(a, b, samples, keeps)
    for name in METRICS:
        exact = (np.abs(chance[name]) >= abs(rows[name]["difference"]) - 1e-12).mean()
        assert rows[name]["p"] == pytest.approx(exact, abs=0.01)
        if name in pair[0].values:
            differences = pair[0].values[name] - pair[1].values[name]
            # scipy flips the signs of a sample, which is what swapping does to a mean over patients
            flipped = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
            assert exact == pytest.approx(flipped.pvalue, abs=1e-9)


def test_by_hand():
    """Three patients with one true code each; one ranker has it first, the other never among the first two."""
    samples = [Sample(i, [[3]], [i], {}) for i in range(3)]
    good, bad = (np.array([[i, 3, (i + 1) % 3, (i + 2) % 3][::step] for i in range(3)]) for step in (1, -1))
    a, b = ([tally_ranking(order, None, samples, (2,))] for order in (good, bad))
    (recall, f1) = compare(a, b, ("recall@2", "weighted_f1"), resamples=50, permutations=4000)
    assert (recall["difference"], recall["interval"]) == (1.0, [1.0, 1.0])
    # Of the 8 ways to swap, keeping all and swapping all are as extreme as the data
    assert recall["p"] == pytest.approx(1 / 4, abs=0.02)
    assert f1["difference"] == 1.0 and f1["p"] == pytest.approx(1 / 4, abs=0.02)


def test_the_other_way_round():
    rng = np.random.default_rng(1)
    samples = random_samples(rng)
    a, b = (tallies(random_runs(rng, samples, count), samples) for count in (2, 3))
    there, back = (by_metric(compare(*sides, METRICS, 100, 100)) for sides in ((a, b), (b, a)))
    for name in METRICS:
        assert there[name]["p"] == back[name]["p"] and there[name]["p_holm"] == back[name]["p_holm"]
        assert there[name]["difference"] == pytest.approx(-back[name]["difference"])
        assert there[name]["interval"] == pytest.approx([-end for end in reversed(back[name]["interval"])])


def test_a_ranker_against_itself():
    rng = np.random.default_rng(2)
    samples = random_samples(rng)
    run = tallies(random_runs(rng, samples), samples)
    for row in compare(run, run, METRICS, 20, 20):
        assert (row["difference"], row["interval"], row["p"], row["p_holm"]) == (0, [0, 0], 1, 1)


def test_size_and_coverage_where_nothing_differs():
    """Rankings drawn alike: few tests say otherwise, and most intervals hold the difference, which is zero."""
    rng = np.random.default_rng(11)
    found, missed = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0)
    for trial in range(150):
        samples = random_samples(rng, patients=40)
        a, b = (tallies(random_runs(rng, samples), samples) for _ in range(2))
        for row in compare(a, b, METRICS, resamples=150, permutations=99, seed=trial):
            found[row["metric"]] += row["p"] <= 0.05
            missed[row["metric"]] += not row["interval"][0] <= 0 <= row["interval"][1]
    assert all(0 < count <= 17 for count in found.values()), found  # 7.5 are expected, sd 2.7
    assert all(0 < count <= 20 for count in missed.values()), missed  # percentile intervals are a little narrow


def test_a_real_difference_is_found():
    rng = np.random.default_rng(4)
    samples = random_samples(rng, patients=60)
    order, sizes = random_runs(rng, samples)[0]
    better = order_from_scores(multi_hot([sample.target for sample in samples], 30).toarray())
    keep = rng.random(60) < 0.5
    a = tallies([mixed(keep, (better, sizes), (order, sizes))], samples)
    for row in compare(a, tallies([(order, sizes)], samples), METRICS, 200, 500):
        assert row["difference"] > 0 and row["p"] < 0.02 and row["interval"][0] > 0


def test_only_what_both_sides_have_is_compared():
    rng = np.random.default_rng(6)
    samples = random_samples(rng)
    with_sets = tallies(random_runs(rng, samples), samples)
    without = [tally_ranking(random_orders(rng, samples), None, samples, (10,))]
    metrics = [row["metric"] for row in compare(with_sets, without, (*METRICS, "recall@20"), 10, 10)]
    assert metrics == [name for name in METRICS if name != "weighted_f1_eov"]


def test_other_patients_are_refused():
    rng = np.random.default_rng(8)
    first, second = random_samples(rng), random_samples(rng)
    with pytest.raises(InputError, match="different patients"):
        compare(tallies(random_runs(rng, first), first), tallies(random_runs(rng, second), second))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
