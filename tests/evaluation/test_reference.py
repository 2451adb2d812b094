import numpy as np
import pytest
from ranking_cases import learnable_samples, random_samples

from mera_hf.data.samples import Sample, multi_hot
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores
from mera_hf.evaluation.rankings.reference import (
    CopyHistory,
    Gru,
    Logistic,
    Prevalence,
    Ridge,
    fit_references,
    fit_threshold,
    rank_function,
)


@pytest.fixture(scope="module")
def learnable():
    rng = np.random.default_rng(0)
    return learnable_samples(rng, 300), learnable_samples(rng, 60)


def test_prevalence_counts_each_visit_of_a_patient_once():
    train = [
        Sample(0, [[0, 1]], [1], {}),
        Sample(0, [[0, 1], [1]], [2], {}),  # the same patient: three visits in all
        Sample(5, [[1]], [1], {}),
    ]
    scores = Prevalence().fit(train, 4, train).scores(train)
    np.testing.assert_allclose(scores, np.tile([1 / 5, 4 / 5, 1 / 5, 0], (3, 1)))


def test_copy_history_orders_by_recency_then_prevalence():
    # Prevalence over the five visits: code 3 in four, code 0 in two, code 4 in two, code 1 and 2 in one.
    train = [Sample(0, [[3, 0], [3, 4]], [3, 1], {}), Sample(1, [[3, 4]], [0, 2], {})]
    ranker = CopyHistory().fit(train, 5, train)
    sample = Sample(9, [[1, 4], [2, 0]], [0], {})
    # last visit {2, 0}: 0 is commoner; earlier {1, 4}: 4 is commoner; then 3
    assert order_from_scores(ranker.scores([sample])).tolist() == [[0, 2, 4, 1, 3]]


def test_copy_history_puts_a_code_of_both_visits_with_the_last_visit():
    train = [Sample(0, [[0]], [1], {})]
    scores = CopyHistory().fit(train, 3, train).scores([Sample(0, [[2], [2]], [0], {})])
    np.testing.assert_allclose(scores, [[0.5, 0.5, 2.0]])


def test_ridge_equals_least_squares_with_penalty_rows():
    rng = np.random.default_rng(0)
    train, validation = random_samples(rng, 80, codes=8, most=3), random_samples(rng, 20, codes=8, most=3)
    ranker = Ridge().fit(train, 8, validation)
    any_visit = multi_hot([[c for visit in s.history for c in visit] for s in train], 8).toarray()
    x = np.hstack([any_visit, multi_hot([s.history[-1] for s in train], 8).toarray(), np.ones((80, 1))])
    y = multi_hot([s.target for s in train], 8).toarray()
    penalty = np.sqrt(ranker.penalty) * np.eye(17)[:16]  # the intercept is free
    expected, *_ = np.linalg.lstsq(np.vstack([x, penalty]), np.vstack([y, np.zeros((16, 8))]), rcond=None)
    np.testing.assert_allclose(ranker.weight, expected[:16], atol=1e-5)
    np.testing.assert_allclose(ranker.bias, expected[16], atol=1e-5)
    np.testing.assert_allclose(ranker.scores(train), x @ expected, atol=1e-5)


def test_ridge_takes_the_penalty_that_validates_best(learnable):
    train, validation = learnable
    recalls = {}
    for penalty in Ridge.penalties:
        ranker = Ridge()
        ranker.penalties = (penalty,)
        order = order_from_scores(ranker.fit(train, 24, validation).scores(validation))
        recalls[penalty] = evaluate_ranking(order, None, validation, (20,))["recall@20"]
    assert recalls[Ridge().fit(train, 24, validation).penalty] == max(recalls.values())


def recall(ranker, train, validation, k):
    scores = ranker.fit(train, 24, validation).scores(validation)
    assert scores.dtype == np.float32 and scores.shape == (len(validation), 24)
    return evaluate_ranking(order_from_scores(scores), None, validation, (k,))[f"recall@{k}"]


def test_the_learned_rankers_learn(learnable):
    train, validation = learnable
    # The kept code can be copied; the moving one can only be learned, from the last visit: ridge and GRU see which is
    # the last, the logistic one does not, and copying finds one of the two.
    assert recall(Prevalence(), train, validation, 2) < 0.3
    assert recall(CopyHistory(), train, validation, 2) == pytest.approx(0.5, abs=0.2)
    assert recall(Ridge(), train, validation, 2) > 0.9
    assert recall(Logistic(), train, validation, 4) > 0.9
    assert recall(Gru(), train, validation, 2) > 0.9


@pytest.mark.parametrize("kind", [Logistic, Gru])
def test_training_is_seeded_and_leaves_the_global_generator_alone(kind, learnable):
    import torch

    train, validation = learnable[0][:90], learnable[1][:30]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = kind(seed=1).fit(train, 24, validation).scores(validation)
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(first, kind(seed=1).fit(train, 24, validation).scores(validation))
    assert not np.array_equal(first, kind(seed=2).fit(train, 24, validation).scores(validation))


def test_gru_scores_do_not_depend_on_the_batch(learnable):
    train, validation = learnable[0][:90], learnable[1][:30]
    ranker = Gru().fit(train, 24, validation)
    together = ranker.scores(validation)
    alone = np.concatenate([ranker.scores([sample]) for sample in validation])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, patients=12, codes=6, most=3)
    scores = rng.choice([0.1, 0.2, 0.3, 0.4, 0.7], size=(12, 6)).astype(np.float32)  # with ties

    def f1(threshold):
        order = order_from_scores(scores)
        return evaluate_ranking(order, (scores >= threshold).sum(axis=1), samples, (5,))["weighted_f1_eov"]

    assert f1(fit_threshold(scores, samples)) == pytest.approx(max(f1(threshold) for threshold in np.unique(scores)))


def test_rank_function_cuts_at_the_threshold():
    samples = [Sample(0, [[0]], [1], {}), Sample(1, [[0]], [2], {})]

    class Fixed(Ridge):
        def scores(self, samples):
            return np.array([[-0.1, 1.2, 0.2], [0.1, 0.3, 0.8]], dtype=np.float32)[: len(samples)]

    ranking = rank_function(Fixed(), samples)(samples)
    assert ranking.order.tolist() == [[1, 2, 0], [2, 1, 0]]
    assert ranking.set_sizes.tolist() == [1, 1] and ranking.cut.by == "threshold"
    np.testing.assert_allclose(ranking.probabilities, [[1, 0.2, 0], [0.8, 0.3, 0.1]])  # in the order of the ranking
    assert ranking.scores is None


@pytest.mark.parametrize("kind", [Prevalence, Ridge, Logistic, Gru])
def test_probabilities_are_shares_that_follow_the_ranking(kind, learnable):
    train, validation = learnable
    ranking = rank_function(kind().fit(train[:200], 24, validation), validation)(validation)
    assert ranking.probabilities.min() >= 0 and ranking.probabilities.max() <= 1
    assert (np.diff(ranking.probabilities, axis=1) <= 0).all()
    # Every target holds two codes
    assert ranking.probabilities.sum(axis=1).mean() == pytest.approx(2, rel=0.25)


def test_copying_has_scores_and_no_probabilities(learnable):
    train, validation = learnable
    ranker = CopyHistory().fit(train, 24, validation)
    ranking = rank_function(ranker, validation)(validation)
    assert ranking.probabilities is None
    np.testing.assert_array_equal(ranking.scores, np.sort(ranker.scores(validation), axis=1)[:, ::-1])


def test_all_references_at_once(learnable):
    train, validation = learnable
    functions = fit_references(train[:60], 24, validation[:30])
    assert list(functions) == ["prevalence", "copy_history", "ridge", "logistic", "gru"]
    for rank in functions.values():
        ranking = rank(validation)
        assert evaluate_ranking(ranking.order, ranking.set_sizes, validation, (10,))["recall@10"] > 0


def test_no_patients_to_learn_from(learnable):
    with pytest.raises(InputError, match="`validation` holds no sample"):
        fit_references(learnable[0], 24, [])
