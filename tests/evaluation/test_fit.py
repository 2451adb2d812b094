"""The fit that all rankers get: by hand, by brute force, and what it leaves alone."""

import numpy as np
import pytest
from ranking_cases import random_samples
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores
from mera_hf.evaluation.rankings.fit import DEPTH, Fit, value_rule
from mera_hf.evaluation.rankings.ranked import Ranking


CODES = 24


@pytest.fixture(scope="module")
def samples():
    return random_samples(np.random.default_rng(5), 80, CODES)


def guess(samples, seed=0, probabilities=True) -> Ranking:
    """A ranker that knows a little: the truth in noise."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(-2, 1, size=(len(samples), CODES)).astype(np.float32)
    for row, sample in enumerate(samples):
        scores[row, sample.target] += 1.5
    order = order_from_scores(scores)
    return Ranking(order, None, np.take_along_axis(expit(scores), order, axis=1) if probabilities else None)


@pytest.mark.parametrize("with_probabilities", [True, False])
def test_log_odds_are_a_logistic_regression_on_four_features(samples, with_probabilities):
    ranking = guess(samples, probabilities=with_probabilities)
    fit = Fit(CODES).learn(ranking, samples)
    rows, hits = [], []
    for row, sample in enumerate(samples):
        for place, code in enumerate(ranking.order[row]):
            likely = np.log(ranking.probabilities[row, place]) if with_probabilities else -np.log(place + 1)
            known = any(code in visit for visit in sample.history)
            rows.append([likely, code in sample.history[-1], known, likely * known])
            hits.append(code in sample.target)
    plain = LogisticRegression(C=1.0, max_iter=1000).fit(np.array(rows, dtype=float), hits)
    wanted = plain.predict_proba(np.array(rows, dtype=float))[:, 1].reshape(len(samples), CODES)
    found = fit.probabilities(ranking, samples, CODES)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_only_the_first_codes_move_and_the_set_is_their_head(samples):
    ranking, other = guess(samples), guess(samples, seed=1)
    fitted = Fit(CODES).learn(ranking, samples).apply(other, samples)
    assert (np.sort(fitted.order[:, :DEPTH]) == np.sort(other.order[:, :DEPTH])).all()
    assert (fitted.order[:, DEPTH:] == other.order[:, DEPTH:]).all() and (fitted.order != other.order).any()
    assert 0 < fitted.set_sizes.mean() and fitted.set_sizes.max() <= DEPTH
    before, after = (evaluate_ranking(each.order, None, samples, (10, 20)) for each in (other, fitted))
    assert after["recall@10"] == before["recall@10"] and after["recall@20"] == before["recall@20"]


def test_it_gains_in_what_it_was_fitted_to(samples):
    ranking = guess(samples)
    fitted = Fit(CODES).learn(ranking, samples).apply(ranking, samples)
    figures = [evaluate_ranking(each.order, fitted.set_sizes, samples, (10,)) for each in (ranking, fitted)]
    assert figures[1]["weighted_f1_eov"] > figures[0]["weighted_f1_eov"]


def test_a_ranker_whose_probabilities_say_nothing_more_is_fitted_as_its_places(samples):
    """Probabilities that are the reciprocal of the place are no more than the place."""
    ranking = guess(samples, probabilities=False)
    reciprocal = np.tile(1 / np.arange(1, CODES + 1), (len(samples), 1))
    answers = [
        Fit(CODES).learn(each, samples).apply(each, samples)
        for each in (ranking, Ranking(ranking.order, None, reciprocal))
    ]
    assert (answers[0].order == answers[1].order).all() and (answers[0].set_sizes == answers[1].set_sizes).all()


def expected_f1(chances: np.ndarray, chosen: np.ndarray) -> float:
    """Weighted F1 of expected counts, up to a factor: sum_c S_c 2 TP_c / (P_c + S_c)."""
    support, predicted, hits = chances.sum(0), chosen.sum(0), (chances * chosen).sum(0)
    return float((support * 2 * hits / (predicted + support)).sum() / support.sum())


def first_places(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return (-values).argsort(1, kind="stable").argsort(1) < sizes[:, None]


@pytest.mark.parametrize("seed", range(3))
def test_values_name_codes_to_the_good_of_weighted_f1(seed):
    """Prevalent codes fill every patient's first places; the rule gives way to rarer ones that lose less precision."""
    draw = np.random.default_rng(seed)
    prevalence = draw.normal(-2.5, 1.5, size=30)
    chances = 1 / (1 + np.exp(-(prevalence + draw.normal(0, 1.5, size=(300, 30)))))
    sizes = draw.integers(1, 6, size=300)
    everyone = np.tile(np.arange(30), (300, 1))
    weight, threshold = value_rule(chances.astype(np.float32), everyone, sizes)
    assert weight.shape == threshold.shape == (30,) and weight.dtype == threshold.dtype == np.float32
    assert (weight > 0).all() and (weight <= 2).all() and (threshold >= 0).all() and (threshold < 1).all()
    by_value = first_places(weight * (chances - threshold), sizes)
    by_chance = first_places(chances, sizes)
    assert (by_value.sum(1) == sizes).all()
    assert expected_f1(chances, by_value) > expected_f1(chances, by_chance)


def test_values_of_codes_alike_leave_the_order_alone():
    chances = np.tile(np.array([[0.5, 0.4, 0.3], [0.4, 0.3, 0.5], [0.3, 0.5, 0.4]], dtype=np.float32), (20, 1))
    weight, threshold = value_rule(chances, np.tile(np.arange(3), (60, 1)), np.ones(60, dtype=int))
    assert weight == pytest.approx(weight[0]) and threshold == pytest.approx(threshold[0])


def test_long_visits_are_put_in_order_to_twice_their_length():
    rng = np.random.default_rng(0)
    long = random_samples(rng, 60, CODES, 20)
    mean = np.mean([len(sample.target) for sample in long])
    fit = Fit(CODES).learn(guess(long), long)
    assert fit.depth == min(CODES, round(2 * mean)) > DEPTH
    assert fit.apply(guess(long), long).set_sizes.max() > DEPTH
