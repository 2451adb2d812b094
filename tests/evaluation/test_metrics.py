import ir_measures
import numpy as np
import pytest
from ir_measures import AP, P, Qrel, R, ScoredDoc, nDCG
from ranking_cases import random_orders, random_samples
from sklearn.metrics import f1_score

from mera_hf.data.samples import Sample, multi_hot
from mera_hf.errors import InputError
from mera_hf.evaluation import tally
from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores, recall_curve


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def independent(order, samples, k):
    """What trec_eval gives, through ir_measures; accuracy@k with sets."""
    true = [Qrel(str(row), str(code), 1) for row, sample in enumerate(samples) for code in set(sample.target)]
    ranked = [
        ScoredDoc(str(row), str(code), float(-rank))
        for row, ranking in enumerate(order.tolist())
        for rank, code in enumerate(ranking)
    ]
    measures = {f"precision@{k}": P @ k, f"ndcg@{k}": nDCG @ k, "map": AP, f"recall@{k}": R @ k}
    values = ir_measures.calc_aggregate(list(measures.values()), true, ranked)
    hits = [len(set(sample.target) & set(row[:k])) for sample, row in zip(samples, order.tolist(), strict=True)]
    shares = [hit / min(k, len(set(sample.target))) for hit, sample in zip(hits, samples, strict=True)]
    return {name: values[measure] for name, measure in measures.items()} | {f"accuracy@{k}": np.mean(shares)}


def brute_force(order, set_sizes, samples, k):
    """Definitions read out loud, with sets."""
    repeated, new = [], []
    hits_repeated = hits_new = codes = 0
    for ranking, sample in zip(order.tolist(), samples, strict=True):
        true, history = set(sample.target), {code for visit in sample.history for code in visit}
        hit = true & set(ranking[:k])
        repeated.append(len(hit & history) / len(true))
        new.append(len(hit - history) / len(true))
        hits_repeated += len(hit & history)
        hits_new += len(hit - history)
        codes += len(true)

    def f1_scores(sizes, ending):
        truth = multi_hot([sample.target for sample in samples], 30).toarray()
        predicted = multi_hot([ranking[:size] for ranking, size in zip(order, sizes, strict=True)], 30).toarray()
        labels = np.flatnonzero(truth.any(axis=0) | predicted.any(axis=0))
        return {
            f"{average}_f1{ending}": f1_score(truth, predicted, labels=labels, average=average, zero_division=0)
            for average in ("weighted", "macro", "micro")
        }

    return {
        f"repeated_recall@{k}": np.mean(repeated),
        f"new_recall@{k}": np.mean(new),
        f"occurred@{k}": hits_repeated / codes,
        f"not_occurred@{k}": hits_new / codes,
        **f1_scores([len(set(sample.target)) for sample in samples], ""),
        **f1_scores(set_sizes, "_eov"),
        **independent(order, samples, k),
        "mean_set_size": np.mean(set_sizes),
        "mean_true_size": np.mean([len(set(sample.target)) for sample in samples]),
        "empty_set_share": np.mean([size == 0 for size in set_sizes]),
    }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("width", [30, 20])
def test_equals_brute_force_and_sklearn(seed, width):
    rng = np.random.default_rng(seed)
    samples = random_samples(rng)
    order = random_orders(rng, samples)[:, :width]
    set_sizes = rng.integers(0, 9, size=len(samples))
    for k in (1, 7, 20):
        assert evaluate_ranking(order, set_sizes, samples, (k,)) == pytest.approx(
            brute_force(order, set_sizes, samples, k), abs=1e-12
        )


def test_by_hand():
    samples = [
        Sample(0, [[0], [1]], [1, 2], {}),  # ranked 1, 3, 2: repeated 1 at the top, new 2 in third place
        Sample(1, [[3]], [0, 1, 2, 3], {}),  # ranked 3, 4, 0: repeated 3, new 0
    ]
    order = np.array([[1, 3, 2, 0, 4], [3, 4, 0, 1, 2]])
    got = evaluate_ranking(order, np.array([1, 0]), samples, (2, 3))
    assert got["recall@2"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert got["recall@3"] == pytest.approx((2 / 2 + 2 / 4) / 2)
    assert got["repeated_recall@3"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert got["new_recall@3"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert (got["occurred@3"], got["not_occurred@3"]) == pytest.approx((2 / 6, 2 / 6))
    # EOV: patient 0 is given code 1 alone, patient 1 nothing. Code 1: 1 hit of 2 true, F1 2/3, support 2 of 6.
    assert got["weighted_f1_eov"] == pytest.approx(2 / 6 * 2 / 3)
    # True sizes: {1, 3} and {3, 4, 0, 1}. F1 of codes 0 and 1: 1, of code 3: 2/3 (2 predicted, 1 true), of code 2: 0.
    assert got["weighted_f1"] == pytest.approx((1 * 1 + 2 * 1 + 1 * 2 / 3) / 6)
    # Macro: of the set over the codes 0, 1, 2, 3 that are true for somebody; of the oracle over those and code 4.
    assert got["macro_f1_eov"] == pytest.approx(2 / 3 / 4)
    assert got["macro_f1"] == pytest.approx((1 + 1 + 0 + 2 / 3 + 0) / 5)
    # Micro: 1 hit among 1 predicted and 6 true codes; 4 hits among 6 and 6.
    assert (got["micro_f1_eov"], got["micro_f1"]) == pytest.approx((2 * 1 / 7, 2 * 4 / 12))
    assert (got["mean_set_size"], got["mean_true_size"], got["empty_set_share"]) == (0.5, 3.0, 0.5)
    assert got["precision@2"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert got["accuracy@3"] == pytest.approx((2 / 2 + 2 / 3) / 2)
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert got["ndcg@2"] == pytest.approx((1 / (1 + second) + 1 / (1 + second)) / 2)
    assert got["ndcg@3"] == pytest.approx(((1 + third) / (1 + second) + (1 + third) / (1 + second + third)) / 2)
    # Patient 0: true codes at ranks 1 and 3; patient 1: at ranks 1, 3, 4 and 5
    assert got["map"] == pytest.approx(((1 + 2 / 3) / 2 + (1 + 2 / 3 + 3 / 4 + 4 / 5) / 4) / 2)


def test_the_two_parts_of_recall_add_up(rng):
    samples = random_samples(rng)
    order = random_orders(rng, samples)
    got = evaluate_ranking(order, None, samples, (10,))
    assert got["repeated_recall@10"] + got["new_recall@10"] == pytest.approx(got["recall@10"])
    hits = sum(len(set(sample.target) & set(row[:10])) for sample, row in zip(samples, order, strict=True))
    micro = hits / sum(len(sample.target) for sample in samples)
    assert got["occurred@10"] + got["not_occurred@10"] == pytest.approx(micro)


def test_without_set_sizes_the_metrics_of_the_set_are_left_out(rng):
    samples = random_samples(rng)
    got = evaluate_ranking(random_orders(rng, samples), None, samples, (5,))
    assert not {"weighted_f1_eov", "macro_f1_eov", "micro_f1_eov", "mean_set_size", "empty_set_share"} & got.keys()
    assert all(type(value) is float for value in got.values())


def test_the_order_of_patients_does_not_matter(rng):
    samples = random_samples(rng)
    order, sizes = random_orders(rng, samples), rng.integers(0, 9, size=len(samples))
    moved = rng.permutation(len(samples))
    assert evaluate_ranking(order[moved], sizes[moved], [samples[i] for i in moved], (10,)) == pytest.approx(
        evaluate_ranking(order, sizes, samples, (10,))
    )


def test_renaming_the_codes_does_not_matter(rng):
    samples = random_samples(rng)
    order, new = random_orders(rng, samples), rng.permutation(30)
    renamed = [
        Sample(s.patient, [new[visit].tolist() for visit in s.history], new[s.target].tolist(), s.profile)
        for s in samples
    ]
    assert evaluate_ranking(new[order], None, renamed, (10,)) == pytest.approx(
        evaluate_ranking(order, None, samples, (10,))
    )


def test_a_perfect_ranking_scores_one(rng):
    samples = random_samples(rng)
    scores = multi_hot([sample.target for sample in samples], 30).toarray()
    sizes = np.array([len(sample.target) for sample in samples])
    got = evaluate_ranking(order_from_scores(scores), sizes, samples, (20,))
    for name in ("recall@20", "ndcg@20", "accuracy@20", "map"):
        assert got[name] == pytest.approx(1)
    for name in ("weighted_f1", "macro_f1", "micro_f1"):
        assert (got[name], got[f"{name}_eov"]) == pytest.approx((1, 1))


def test_recall_divides_by_all_true_codes():
    sample = Sample(0, [[0]], list(range(20)), {})
    assert evaluate_ranking(np.arange(30)[None], None, [sample], (10,))["recall@10"] == 0.5


def test_recall_curve_is_recall_at_each_k(rng):
    samples = random_samples(rng)
    order = random_orders(rng, samples)
    expected = [evaluate_ranking(order, None, samples, (k,))[f"recall@{k}"] for k in range(1, 26)]
    np.testing.assert_allclose(recall_curve(order, samples, 25), expected)


@pytest.mark.parametrize("k", [1, 3, 9, 40])
def test_order_breaks_ties_by_code_as_a_stable_sort(rng, k):
    scores = rng.choice([-np.inf, -1.5, -0.0, 0.0, 1e-30, 2.0, np.inf], size=(50, 40)).astype(np.float32)
    np.testing.assert_array_equal(order_from_scores(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])
    assert order_from_scores(scores, k).dtype == np.int32


def test_order_in_blocks(rng):
    scores = rng.normal(size=(2500, 7)).astype(np.float32)
    np.testing.assert_array_equal(order_from_scores(scores), np.argsort(-scores, axis=1, kind="stable"))


def test_order_errors():
    with pytest.raises(InputError, match="NaN, first in row 1"):
        order_from_scores([[0.0, 1.0], [np.nan, 0.0]])
    with pytest.raises(InputError, match="k=3 is not between 1 and 2"):
        order_from_scores([[0.0, 1.0]], k=3)


@pytest.mark.parametrize("k", [0, -5, 31])
def test_k_out_of_range(rng, k):
    samples = random_samples(rng)
    order = random_orders(rng, samples)
    for measure in (lambda: evaluate_ranking(order, None, samples, (10, k)), lambda: recall_curve(order, samples, k)):
        with pytest.raises(InputError, match=f"k={k} is not between 1 and 30"):
            measure()


def test_bad_rankings_are_refused(rng):
    samples = random_samples(rng)
    order = random_orders(rng, samples)
    sizes = np.full(len(samples), 3)
    twice = order.copy()
    twice[4, 7] = twice[4, 0]
    with pytest.raises(InputError, match="ranks a code twice in row 4"):
        evaluate_ranking(twice, None, samples, (5,))
    with pytest.raises(InputError, match="one row of code indices per sample: 39 samples"):
        evaluate_ranking(order, None, samples[1:], (5,))
    with pytest.raises(InputError, match="type float64"):
        evaluate_ranking(order.astype(float), None, samples, (5,))
    with pytest.raises(InputError, match="negative code index"):
        evaluate_ranking(-order, None, samples, (5,))
    with pytest.raises(InputError, match="`set_sizes` must hold 40 whole numbers between 0 and 30"):
        evaluate_ranking(order, sizes + 28, samples, (5,))
    with pytest.raises(InputError, match="one patient has .* true codes: rank more"):
        evaluate_ranking(order[:, :4], None, samples, (3,))
    with pytest.raises(InputError, match="Sample 0 has no true code"):
        evaluate_ranking(order[:1], None, [Sample(0, [[1]], [], {})], (5,))
    with pytest.raises(InputError, match="`samples` is empty"):
        evaluate_ranking(order[:0], None, [], (5,))


def test_large_sets_are_counted_in_blocks_and_densely(monkeypatch, rng):
    samples = random_samples(rng)
    order, sizes = random_orders(rng, samples), rng.integers(0, 31, size=len(samples))
    expected = evaluate_ranking(order, sizes, samples, (10,))
    assert expected == pytest.approx(brute_force(order, sizes, samples, 10))
    monkeypatch.setattr(tally, "BLOCK", 7)
    assert evaluate_ranking(order, sizes, samples, (10,)) == pytest.approx(expected)
    sizes[:25] = 30  # whole blocks of patients with every code
    assert evaluate_ranking(order, sizes, samples, (10,)) == pytest.approx(brute_force(order, sizes, samples, 10))
