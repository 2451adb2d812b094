import numpy as np
import pytest
from ranking_cases import ICD_CODES, random_patients, ranked
from sklearn.metrics import f1_score

from mera_hf.data.samples import Sample
from mera_hf.evaluation.bootstrap import all_draws
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.sections import strata as strata_module
from mera_hf.evaluation.sections.strata import Strata, measure, stratifications


TRAIN_VISITS = [0, 5, 6, 20, 21, 99, 100, 101, 500, 3, 1000]


@pytest.fixture
def patients():
    return random_patients(np.random.default_rng(3), patients=80, train_visits=TRAIN_VISITS)


def brute_force(patients, ranker, inside, k):
    """Definitions read out loud, with sets; `inside(sample, code)` says whether a pair is in the stratum."""
    order, sizes = patients.rankings[ranker].order, patients.rankings[ranker].set_sizes
    recall, hits, true_codes, counted = [], 0, 0, 0
    truth, at_size, at_eov = (np.zeros((len(patients), len(patients.codes)), dtype=int) for _ in range(3))
    for i, sample in enumerate(patients.samples):
        true = {code for code in sample.target if inside(sample, code)}
        truth[i, list(true)] = 1
        for matrix, size in ((at_size, len(sample.target)), (at_eov, sizes[i])):
            matrix[i, [code for code in order[i, :size] if inside(sample, code)]] = 1
        if true:
            counted += 1
            found = true & set(order[i, :k].tolist())
            recall.append(len(found) / len(true))
            hits, true_codes = hits + len(found), true_codes + len(true)
    if not counted:
        return None
    return {
        "patients": counted,
        "true_codes": true_codes,
        f"recall@{k}": np.mean(recall),
        "micro": hits / true_codes,
        "weighted_f1": f1_score(truth, at_size, average="weighted", zero_division=0),
        "weighted_f1_eov": f1_score(truth, at_eov, average="weighted", zero_division=0),
    }


STRATA = {
    ("training_frequency", "<= 5"): lambda sample, code: TRAIN_VISITS[code] <= 5,
    ("training_frequency", "6-20"): lambda sample, code: 6 <= TRAIN_VISITS[code] <= 20,
    ("training_frequency", "21-100"): lambda sample, code: 21 <= TRAIN_VISITS[code] <= 100,
    ("training_frequency", "> 100"): lambda sample, code: TRAIN_VISITS[code] > 100,
    ("training_frequency", "< 100"): lambda sample, code: TRAIN_VISITS[code] < 100,
    ("repeated_last_visit", "repeated"): lambda sample, code: code in sample.history[-1],
    ("repeated_last_visit", "new"): lambda sample, code: code not in sample.history[-1],
    ("repeated_history", "repeated"): lambda sample, code: any(code in visit for visit in sample.history),
    ("repeated_history", "new"): lambda sample, code: not any(code in visit for visit in sample.history),
    (
        "chapter",
        "ICD9CM:390-459 Diseases Of The Circulatory System",
    ): lambda sample, code: ICD_CODES[code][7:10] in ("401", "410", "428"),
    ("earlier_visits", "2"): lambda sample, code: len(sample.history) == 2,
    ("earlier_visits", "3-5"): lambda sample, code: len(sample.history) == 3,
    ("age", "40-49"): lambda sample, code: sample.profile["age"] == 45,
    ("age", "80 and over"): lambda sample, code: sample.profile["age"] == 95,
    ("age", "unknown"): lambda sample, code: sample.profile["age"] is None,
    ("sex", "female"): lambda sample, code: sample.profile["sex"] == "F",
    ("sex", "unknown"): lambda sample, code: sample.profile["sex"] is None,
    ("visit_size", "2"): lambda sample, code: len(sample.target) == 2,
    ("visit_size", "3-5"): lambda sample, code: 3 <= len(sample.target) <= 5,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ranker", ["mera", "copy_history"])
def test_equals_brute_force_and_sklearn(seed, ranker):
    patients = random_patients(np.random.default_rng(seed), patients=120, train_visits=TRAIN_VISITS)
    section = measure(patients, resamples=2)
    for (name, stratum), inside in STRATA.items():
        expected = brute_force(patients, ranker, inside, 10)
        assert expected["patients"] >= 10, f"{name} {stratum} is not tested"
        got = section[name][stratum]
        assert (got["patients"], got["true_codes"]) == (expected["patients"], expected["true_codes"])
        figures = got["rankers"][ranker]
        for metric in ("recall@10", "weighted_f1", "weighted_f1_eov"):
            assert figures[metric] == pytest.approx(expected[metric], abs=1e-12), (name, stratum, metric)
        assert figures["occurred@10"] + figures["not_occurred@10"] == pytest.approx(expected["micro"])
        assert figures["repeated_recall@10"] + figures["new_recall@10"] == pytest.approx(figures["recall@10"])
    assert "race" not in section, "no patient has one"


def test_by_hand():
    # Codes 0 and 1 are rare, 2 and 3 are not. Both patients: ranked 0, 2, 1, 3.
    codes = ["ICD9CM:250.00", "ICD9CM:250.01", "ICD9CM:401.9", "ICD9CM:428.0"]
    samples = [Sample(0, [[3], [0]], [0, 1], {}), Sample(1, [[2]], [1, 2, 3], {})] * 5
    order = np.array([[0, 2, 1, 3]] * 10, dtype=np.int32)
    patients = RankedPatients(samples, codes, {"mera": ranked(order, np.array([1, 0] * 5))}, [1, 5, 101, 2000])
    strata = Strata(patients, stratifications(patients), ks=(2,))
    got = {label: {m: float(x[i]) for m, x in strata.figures("mera").items()} for i, label in enumerate(strata.labels)}
    rare = got["training_frequency", "<= 5"]
    # Of {0, 1} and {1}, the first two codes hold 0
    assert rare["recall@2"] == pytest.approx((1 / 2 + 0) / 2)
    assert (rare["occurred@2"], rare["not_occurred@2"]) == pytest.approx((1 / 3, 0))
    # First |y|: {0, 2} and {0, 2, 1}. Code 0: 1 hit of 1 true and 2 predicted, code 1: 1 hit of 2 true and 1 predicted
    assert rare["weighted_f1"] == pytest.approx((1 * 2 / 3 + 2 * 2 / 3) / 3)
    # EOV: {0} and nothing
    assert rare["weighted_f1_eov"] == pytest.approx(1 / 3)
    common = got["training_frequency", "> 100"]
    assert common["recall@2"] == 0.5  # of {2, 3}, and the other patient has none
    assert common["weighted_f1"] == pytest.approx(
        (2 / 3 + 0) / 2
    )  # code 2: 1 hit of 1 true and 2 predicted; code 3: 0
    # Repeated from the last visit: 0 of the first patient, 2 of the second, both among the first two
    assert got["repeated_last_visit", "repeated"]["recall@2"] == 1
    assert got["repeated_last_visit", "repeated"]["weighted_f1"] == 1
    assert got["repeated_last_visit", "new"]["recall@2"] == 0
    assert np.isnan(got["training_frequency", "21-100"]["recall@2"])


def test_the_parts_sum_to_the_whole():
    patients = random_patients(np.random.default_rng(3), patients=600, train_visits=TRAIN_VISITS)
    ranking = patients.rankings["mera"]
    whole = evaluate_ranking(ranking.order, ranking.set_sizes, patients.samples, (10,))
    section = measure(patients, resamples=2)
    del section["training_frequency"]["< 100"]  # overlaps the others
    true_codes = sum(len(sample.target) for sample in patients.samples)
    for name, strata in section.items():
        parts = [stratum for stratum in strata.values() if stratum["patients"] != "< 10"]
        assert len(parts) == len(strata), f"{name} has a part that is not measured"
        assert sum(part["true_codes"] for part in parts) == true_codes
        for metric in ("occurred@10", "not_occurred@10"):
            hits = sum(part["true_codes"] * part["rankers"]["mera"][metric] for part in parts)
            assert hits == pytest.approx(true_codes * whole[metric])
        if name in ("training_frequency", "chapter"):
            for metric in ("weighted_f1", "weighted_f1_eov"):
                total = sum(part["true_codes"] * part["rankers"]["mera"][metric] for part in parts)
                assert total / true_codes == pytest.approx(whole[metric])
        if name in ("earlier_visits", "age", "sex", "visit_size"):
            assert sum(part["patients"] for part in parts) == len(patients)
            for metric in ("recall@10", "repeated_recall@10", "new_recall@10"):
                total = sum(part["patients"] * part["rankers"]["mera"][metric] for part in parts)
                assert total / len(patients) == pytest.approx(whole[metric])


def test_fewer_than_ten_patients_are_not_measured(patients):
    few = [i for i, sample in enumerate(patients.samples) if sample.profile["sex"] == "F"][:9]
    rest = [i for i, sample in enumerate(patients.samples) if sample.profile["sex"] == "M"]
    rows = np.array(few + rest)
    fewer = RankedPatients(
        [patients.samples[i] for i in rows],
        patients.codes,
        {name: ranked(each.order[rows], each.set_sizes[rows]) for name, each in patients.rankings.items()},
        patients.train_visits,
    )
    section = measure(fewer, resamples=2)
    assert section["sex"]["female"] == {"patients": "< 10"}
    assert section["sex"]["male"]["patients"] == len(rest) and "unknown" not in section["sex"]


def test_draws_equal_measuring_the_resampled_patients(patients):
    strata = Strata(patients, stratifications(patients), ks=(5,))
    weights = all_draws(len(patients), 40, seed=1)
    got = strata.resampled("mera", weights)
    assert {"recall@5", "weighted_f1", "weighted_f1_eov"} == got.keys()
    for draw in range(40):
        drawn = np.repeat(np.arange(len(patients)), weights[:, draw].astype(int))
        mera = patients.rankings["mera"]
        again = RankedPatients(
            [patients.samples[i] for i in drawn],
            patients.codes,
            {"mera": ranked(mera.order[drawn], mera.set_sizes[drawn])},
            patients.train_visits,
        )
        figures = Strata(again, stratifications(again), ks=(5,))
        measured = figures.figures("mera")
        where = {label: i for i, label in enumerate(figures.labels)}
        for i, label in enumerate(strata.labels):
            for metric, draws in got.items():
                if label in where:
                    assert draws[i, draw] == pytest.approx(measured[metric][where[label]], abs=1e-6, nan_ok=True)


def test_intervals_are_seeded_and_hold_the_figure(patients):
    section = measure(patients, resamples=200)
    assert section == measure(patients, resamples=200)
    assert section != measure(patients, resamples=200, seed=1)
    female = section["sex"]["female"]
    low, high = female["intervals"]["mera"]["recall@10"]
    assert low < female["rankers"]["mera"]["recall@10"] < high


def test_huge_sets_have_no_interval(patients, monkeypatch):
    monkeypatch.setattr(strata_module, "MOST_PAIRS", 10)
    strata = Strata(patients, stratifications(patients), ks=(5,))
    assert "weighted_f1_eov" not in strata.resampled("mera", np.ones((len(patients), 1)))
    assert "weighted_f1_eov" in strata.figures("mera")
