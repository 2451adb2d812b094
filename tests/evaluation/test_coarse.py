import numpy as np
import pytest
from ranking_cases import random_patients, ranked
from sklearn.metrics import f1_score

from mera_hf.data.samples import Sample
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.sections.coarse import groupings, measure
from mera_hf.icd import sort_codes


CODES = ["ICD9CM:250", "ICD9CM:250.00", "ICD9CM:250.01", "ICD9CM:401.9", "ICD9CM:428.0"]


def two_patients(**rankings):
    samples = [Sample(0, [[0]], [1, 2], {}), Sample(1, [[0]], [0, 4], {})]
    return RankedPatients(samples, CODES, rankings)


def test_groups_of_codes():
    groups = groupings(sort_codes(["ICD9CM:250", "ICD9CM:428.0", "ICD10CM:I50.9", "ICD9CM:E849.0"]))
    assert groups["category"] == ["ICD9CM:250", "ICD9CM:428", "ICD9CM:E849", "ICD10CM:I50"]
    assert groups["ccs"] == [None, "108", "2621", "108"]  # 250 is in two groups
    assert groups["ccsr"] == [None, None, None, "CIR019"]
    assert groups["chapter"][1] == "ICD9CM:390-459"
    assert "ccsr" not in groupings(CODES)


def test_by_hand():
    order = np.array([[3, 4, 1, 2, 0], [3, 4, 1, 2, 0]])
    chances = np.array([[0.5, 0.45, 0.4, 0.3, 0.1], [0.5, 0.45, 0.1, 0.1, 0.1]])
    got = measure(two_patients(mera=ranked(order, None, chances), gru=ranked(order)))
    category = got["category"]
    assert (category["groups"], category["patients"], category["codes_without"]) == (3, 2, 0)
    # Summed: 250 has 0.8 and 0.3, 401 0.5, 428 0.45: ranked 250, 401, 428 and 401, 428, 250; true are {250}, {250, 428}.
    # First |y|: {250} and {401, 428}. F1 of 250: 2/3, of 428: 1
    assert category["rankers"]["mera"]["weighted_f1"] == pytest.approx((2 * 2 / 3 + 1 * 1) / 3)
    # By the first code: 401, 428, 250 for both. First |y|: {401} and {401, 428}
    assert category["rankers"]["gru"]["weighted_f1"] == pytest.approx(1 / 3)
    assert not [metric for metric in category["rankers"]["mera"] if "@" in metric], "3 groups have no recall@5"
    # CCS: 250 is in none; 250.00 is in 49, 250.01 in 49 or 50, 401.9 in 98, 428.0 in 108
    assert (got["ccs"]["codes_without"], got["ccs"]["true_codes_without"], got["ccs"]["patients"]) == (1, 1, 2)
    assert got["chapter"]["groups"] == 2


def test_patients_without_a_group_are_left_out_and_counted():
    samples = [Sample(0, [[0]], [0], {}), Sample(1, [[0]], [4], {})]
    patients = RankedPatients(samples, CODES, {"mera": ranked(np.array([[4, 3, 2, 1, 0]] * 2))})
    got = measure(patients)["ccs"]
    assert (got["patients"], got["true_codes_without"]) == (1, 1)
    assert got["rankers"]["mera"]["weighted_f1"] == 1
    alone = RankedPatients(samples[:1], CODES, {"mera": ranked(np.array([[4, 3, 2, 1, 0]]))})
    assert measure(alone).keys() == {"category", "chapter"}


@pytest.mark.parametrize("width", [60, 35])
def test_equals_brute_force(width):
    rng = np.random.default_rng(1)
    codes = sort_codes(f"ICD9CM:{code}" for code in range(240, 305) if code not in (247, 248, 257, 261, 262))
    codes = codes[:60]
    patients = random_patients(rng, 50, codes, ("mera", "gru"))
    cut = {
        name: ranked(
            each.order[:, :width],
            each.set_sizes,
            None if each.probabilities is None else each.probabilities[:, :width],
        )
        for name, each in patients.rankings.items()
    }
    patients = RankedPatients(patients.samples, codes, cut)
    got = measure(patients)
    for grouping, of_code in groupings(codes).items():
        names = list(dict.fromkeys(group for group in of_code if group))
        truth = np.zeros((50, len(names)), dtype=int)
        for name, ranking in patients.rankings.items():
            recall = {k: [] for k in (5, 10, 20) if k <= len(names)}
            predicted = np.zeros_like(truth)
            for i, sample in enumerate(patients.samples):
                score = dict.fromkeys(names, 0.0)
                for place, code in enumerate(ranking.order[i]):
                    if of_code[code] and name == "mera":
                        score[of_code[code]] += float(ranking.probabilities[i, place])
                    elif of_code[code]:
                        score[of_code[code]] = max(score[of_code[code]], 1000 - place)
                best_first = sorted(names, key=lambda group, score=score: -score[group])
                true = {of_code[code] for code in sample.target} - {None}
                if not true:
                    continue
                truth[i] = [group in true for group in names]
                predicted[i] = [group in best_first[: len(true)] for group in names]
                for k, values in recall.items():
                    values.append(len(true & set(best_first[:k])) / len(true))
            figures = got[grouping]["rankers"][name]
            expected = f1_score(truth, predicted, average="weighted", zero_division=0)
            assert figures["weighted_f1"] == pytest.approx(expected)
            assert {k: figures[f"recall@{k}"] for k in recall} == pytest.approx(
                {k: np.mean(v) for k, v in recall.items()}
            )


def test_groups_of_one_code_give_the_metrics_of_codes():
    rng = np.random.default_rng(2)
    codes = [f"ICD9CM:{code}" for code in range(240, 275) if code not in (247, 248, 257, 261, 262)]
    patients = random_patients(rng, 40, codes)
    got = measure(patients)["category"]["rankers"]
    for name, ranking in patients.rankings.items():
        whole = evaluate_ranking(ranking.order, None, patients.samples, (10, 20))
        for metric in ("recall@10", "recall@20", "weighted_f1"):
            assert got[name][metric] == pytest.approx(whole[metric])
