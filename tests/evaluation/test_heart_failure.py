import numpy as np
import pytest
from ranking_cases import ICD_CODES, random_patients, random_samples, ranked
from sklearn.metrics import f1_score, roc_auc_score

from mera_hf.data.samples import Sample
from mera_hf.evaluation.bootstrap import all_draws, interval
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.rankings.reference import CopyHistory, Prevalence, Ridge, fit_references
from mera_hf.evaluation.sections.heart_failure import measure


CODES = ["ICD9CM:401.9", "ICD9CM:428.0", "ICD9CM:428.1", "ICD10CM:I50.9"]


def patients_of(with_it, order, probabilities=None, scores=None):
    samples = [Sample(i, [[0]], [1] if one else [0], {}) for i, one in enumerate(with_it)]
    return RankedPatients(samples, CODES, {"mera": ranked(np.array(order), None, probabilities, scores)})


def test_by_hand():
    # Ten patients with heart failure and ten without: 1 - 0.4 * 0.5 * 1 is above one half, 1 - 0.9 * 0.9 * 1 below
    order = [[1, 0, 2, 3]] * 20
    chances = np.array(
        [[0.6, 0.9, 0.5, 0.0]] * 8 + [[0.1, 0.9, 0.1, 0.0]] * 2 + [[0.1, 0.9, 0.1, 0.0]] * 9 + [[0.6, 0.9, 0.5, 0.0]]
    )
    got = measure(patients_of([True] * 10 + [False] * 10, order, chances), resamples=50)
    # 8 x 9 pairs in order, 8 x 1 and 2 x 9 ties, 2 x 1 the wrong way round
    assert got["patients_with"] == 10 and got["rankers"]["mera"]["auc"] == pytest.approx((72 + (8 + 18) / 2) / 100)
    assert got["rankers"]["mera"]["f1"] == pytest.approx(2 * 8 / (9 + 10))
    for metric, value in got["rankers"]["mera"].items():
        low, high = got["intervals"]["mera"][metric]
        assert low < value < high


def test_without_probabilities_the_best_score_counts_and_there_is_no_f1():
    # By place the patients without would come first: their one code of heart failure is first, with a low score
    order = [[0, 3, 1, 2]] * 10 + [[2, 0, 1, 3]] * 10
    scores = np.array([[2.5, 2.1, 0.3, 0.2]] * 10 + [[1.2, 0.9, 0.3, 0.1]] * 10)
    assert measure(patients_of([True] * 10 + [False] * 10, order, None, scores), 2)["rankers"]["mera"] == {"auc": 1.0}


def test_a_ranking_alone_is_left_out():
    order = [[3, 0, 1, 2]] * 20
    assert measure(patients_of([True] * 10 + [False] * 10, order), 2)["rankers"] == {}


def test_reference_rankers_are_scored_as_mera_is():
    rng = np.random.default_rng(8)
    train, validation, test = (random_samples(rng, n, len(ICD_CODES), most=4) for n in (150, 40, 80))
    names = ("prevalence", "copy_history", "ridge")
    fitted = fit_references(train, len(ICD_CODES), validation, names=names)
    rankings = {name: rank(test) for name, rank in fitted.items()}
    got = measure(RankedPatients(test, ICD_CODES, rankings), 2)["rankers"]
    truth = [7 in sample.target or 8 in sample.target for sample in test]
    for ranker in (Prevalence(), Ridge()):
        scores = ranker.fit(train, len(ICD_CODES), validation).scores(test).astype(float)
        chance = 1 - np.prod(1 - scores[:, [7, 8]].clip(0, 1), axis=1)
        assert got[ranker.name]["auc"] == pytest.approx(roc_auc_score(truth, chance))
        assert got[ranker.name]["f1"] == pytest.approx(f1_score(truth, chance > 0.5, zero_division=0))
    assert got["prevalence"]["auc"] == 0.5  # the same for every patient
    best = CopyHistory().fit(train, len(ICD_CODES), validation).scores(test)[:, [7, 8]].max(axis=1)
    assert got["copy_history"] == {"auc": pytest.approx(roc_auc_score(truth, best))}


@pytest.mark.parametrize(("having", "lacking", "word"), [(9, 30, "with"), (30, 9, "without")])
def test_too_few_patients_are_not_measured(having, lacking, word):
    patients = patients_of([True] * having + [False] * lacking, [[0, 1, 2, 3]] * (having + lacking))
    reason = f"< 10 patients {word} heart failure at the visit to be predicted"
    assert measure(patients) == {"skipped": reason}


def test_a_data_set_without_such_codes_says_so():
    patients = random_patients(np.random.default_rng(0), codes=ICD_CODES[:5])
    assert measure(patients) == {"skipped": "no candidate code is one of heart failure (428, I50)"}


def test_intervals_equal_scikit_learn_on_the_resampled_patients():
    patients = random_patients(np.random.default_rng(4), 70)
    got = measure(patients, resamples=60, seed=2)
    order, probabilities = patients.rankings["mera"].order, patients.rankings["mera"].probabilities
    of_code = np.empty_like(probabilities)
    np.put_along_axis(of_code, order, probabilities, axis=1)
    scores = 1 - np.prod(1 - of_code[:, [7, 8]].astype(float), axis=1)
    truth = np.array([7 in sample.target or 8 in sample.target for sample in patients.samples])
    assert got["rankers"]["mera"]["auc"] == pytest.approx(roc_auc_score(truth, scores))
    assert got["rankers"]["mera"]["f1"] == pytest.approx(f1_score(truth, scores > 0.5))
    copied = patients.rankings["copy_history"]
    best = np.where(np.isin(copied.order, [7, 8]), copied.scores, -1).max(axis=1)
    assert got["rankers"]["copy_history"] == {"auc": pytest.approx(roc_auc_score(truth, best))}
    weights = all_draws(70, 60, seed=2)
    auc = [roc_auc_score(truth, scores, sample_weight=draw) for draw in weights.T]
    f1 = [f1_score(truth, scores > 0.5, sample_weight=draw) for draw in weights.T]
    assert got["intervals"]["mera"] == {
        "auc": pytest.approx(interval(got["rankers"]["mera"]["auc"], auc)),
        "f1": pytest.approx(interval(got["rankers"]["mera"]["f1"], f1), abs=1e-6),
    }
