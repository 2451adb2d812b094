from ranking_cases import metrics_dict

from mera_hf.evaluation.figures import spread
from mera_hf.evaluation.results import merge_metrics
from mera_hf.evaluation.sections import SECTIONS


def breakdown_sentences(metrics):
    return [sentence for section in SECTIONS for sentence in section.sentences(metrics)]


def stratum(recall):
    return {"patients": 50, "true_codes": 80, "rankers": {"mera": {"recall@20": recall}}}


def breakdowns():
    held_out = {"best": "male", "worst": "female", "difference": -0.004, "interval": [-0.03, 0.02]}
    return {
        "strata": {
            "training_frequency": {"<= 5": stratum(0.031), "> 100": stratum(0.7)},
            "repeated_history": {"repeated": {"patients": "< 10"}, "new": stratum(0.5)},
        },
        "fairness": {
            "sex": {
                "recall@20": {
                    "best": "male",
                    "worst": "female",
                    "gap": 0.012,
                    "interval": [0, 0.03],
                    "held_out": held_out,
                }
            }
        },
        "coarse": {
            "ccs": {"true_codes_without": 4194, "rankers": {"mera": {"weighted_f1": 0.286}}},
            "chapter": {"true_codes_without": 0, "rankers": {"mera": {"weighted_f1": 0.5}}},
        },
        "distance": {
            "mera": {"wrong_codes": 10, "mean": 2.46, "same_category": 0.1, "same_block": 0.2, "same_chapter": 0.1}
        },
        "heart_failure": {
            "rankers": {"mera": {"auc": 0.784, "f1": 0.35}},
            "intervals": {"mera": {"auc": [0.76, 0.8]}},
        },
    }


def test_each_breakdown_in_a_sentence():
    assert breakdown_sentences(breakdowns()) == [
        "MERA's R@20 of codes seen 5 times or less in training 3.1 %, seen more than 100 times 70.0 %, new to the patient "
        "50.0 %.",
        "By sex, R@20 is highest for male and lowest for female, 1.2 points apart; chosen on half of the patients, male and "
        "female are -0.4 points apart on the other half (95 % interval -3.0 to 2.0).",
        "Weighted F1 at the true size of coarser labels: CCS groups 28.6 % (without 4,194 true codes that are in "
        "no single group), chapters 50.0 %.",
        "Of the wrong codes, 40.0 % lie in the chapter of a true code, 10.0 % in its category; 2.5 steps in the tree on "
        "average.",
        "Heart failure at the next visit: AUC 78.4 % (95 % interval 76.0 to 80.0), F1 at 0.5 35.0 %.",
    ]


def test_what_is_missing_is_not_spoken_of():
    assert breakdown_sentences(metrics_dict()) == []
    assert breakdown_sentences(
        {"heart_failure": {"skipped": "no such code"}, "distance": {"mera": {"wrong_codes": 0}}}
    ) == ["Heart failure at the next visit: not measured, no such code."]


def test_merged_seeds_are_told_with_their_spread():
    runs = []
    for seed in range(2):
        run = metrics_dict(**breakdowns())
        runs.append(run | {"run": run["run"] | {"seed": seed}})
    runs[1]["heart_failure"]["rankers"]["mera"]["auc"] = 0.8
    told = breakdown_sentences(merge_metrics(runs))
    assert told[1] == "By sex, R@20 is highest for male and lowest for female, 1.2 points apart."
    assert "AUC 79.2 ± 1.1 %, F1 at 0.5 35.0 %." in told[-1] and spread([0.784, 0.8])["mean"] == 0.792
