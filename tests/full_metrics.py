"""A `metrics.json` with every section of the schema, the same each time: figures from a seed, none alike."""

import numpy as np

from mera_hf.evaluation.figures import mean_of, spread
from mera_hf.evaluation.metrics import KS


SHARES = ("same_category", "same_block", "same_chapter", "other_chapter")
RANKERS = {"mera": 0.06, "prevalence": -0.12, "copy_history": 0.0, "ridge": 0.03, "logistic": 0.02, "gru": 0.04}
STRATA = {
    "training_frequency": ["<= 5", "6-20", "21-100", "> 100", "< 100"],
    "repeated_last_visit": ["repeated", "new"],
    "repeated_history": ["repeated", "new"],
    "chapter": [
        "ICD9CM:001-139 Infectious And Parasitic Diseases",
        "ICD9CM:140-239 Neoplasms",
        "ICD9CM:240-279 Endocrine, Nutritional And Metabolic Diseases, And Immunity Disorders",
        "ICD9CM:280-289 Diseases Of The Blood And Blood-Forming Organs",
        "ICD9CM:290-319 Mental Disorders",
        "ICD9CM:320-389 Diseases Of The Nervous System And Sense Organs",
        "ICD9CM:390-459 Diseases Of The Circulatory System",
        "ICD9CM:460-519 Diseases Of The Respiratory System",
        "ICD9CM:520-579 Diseases Of The Digestive System",
        "ICD9CM:580-629 Diseases Of The Genitourinary System",
        "ICD9CM:630-679 Complications Of Pregnancy, Childbirth, And The Puerperium",
        "ICD9CM:680-709 Diseases Of The Skin And Subcutaneous Tissue",
        "ICD9CM:710-739 Diseases Of The Musculoskeletal System And Connective Tissue",
        "ICD9CM:780-799 Symptoms, Signs, And Ill-Defined Conditions",
        "ICD9CM:800-999 Injury And Poisoning",
        "ICD9CM:V01-V91 Supplementary Classification Of Factors Influencing Health Status And Contact",
    ],
    "earlier_visits": ["1", "2", "3-4", "5+"],
    "age": ["20-39", "40-49", "50-59", "60-69", "70-79", "80 and over", "unknown"],
    "sex": ["female", "male"],
    "race": ["African American", "Asian", "Caucasian", "Hispanic", "Other"],
    "visit_size": ["1", "2-3", "4-6", "7+"],
}


def full_metrics(seed: int = 0) -> dict:
    """Every section, rankers in a plausible order, and one stratum that is too small to measure."""
    rng = np.random.default_rng(seed)

    def near(value, noise=0.02):
        return float(np.clip(value + rng.uniform(-noise, noise), 0.001, 0.999))

    def around(value, width=0.012):
        return [float(value - rng.uniform(0.5, 1) * width), float(value + rng.uniform(0.5, 1) * width)]

    def figures(lead):
        result = {"weighted_f1": near(0.2 + lead), "weighted_f1_eov": near(0.21 + lead)}
        for i, k in enumerate(KS):
            recall, share = near(0.47 + 0.1 * i + lead, 0.01), near(0.5)
            result |= {f"recall@{k}": recall, f"repeated_recall@{k}": recall * share}
            result |= {f"new_recall@{k}": recall * (1 - share)}
            result |= {f"precision@{k}": near(0.24 - 0.04 * i + lead / 4, 0.01), f"ndcg@{k}": near(0.4 + lead)}
            result |= {f"accuracy@{k}": near(0.3 + lead)}
        result |= {name: near(0.15 + lead) for name in ("map", "micro_f1", "macro_f1", "micro_f1_eov", "macro_f1_eov")}
        sizes = {"mean_set_size": float(rng.uniform(2.5, 4.5)), "mean_true_size": 2.94}
        return result | sizes | {"empty_set_share": near(0.01, 0.009)}

    rankers = {name: figures(lead) for name, lead in RANKERS.items()}
    chosen = ("recall@10", "recall@20", "weighted_f1")

    def stratum(shift):
        own = {name: {metric: near(rankers[name][metric] + shift) for metric in chosen} for name in RANKERS}
        return {
            "patients": int(rng.integers(40, 3000)),
            "true_codes": int(rng.integers(100, 9000)),
            "rankers": own,
            "intervals": {"mera": {metric: around(own["mera"][metric], 0.03) for metric in chosen}},
        }

    strata = {name: {label: stratum(rng.uniform(-0.15, 0.15)) for label in labels} for name, labels in STRATA.items()}
    strata["race"]["Asian"] = {"patients": "< 10"}

    def gap(labels, size):
        pairs = [rng.choice(labels, size=2, replace=False).tolist() for _ in range(2)]
        whole, half = ({"best": best, "worst": worst} for best, worst in pairs)
        half |= {"difference": size - 0.03, "interval": [size - 0.09, size + 0.02]}
        return whole | {"gap": size, "interval": [size * 0.3, size * 1.9], "held_out": half}

    def reliability():
        bins = [
            {"predicted": float(x), "observed": near(0.9 * x + 0.03), "count": int(rng.integers(5, 4000))}
            for x in np.linspace(0.02, 0.8, 10) ** 2
        ]
        return {"ece": near(0.02, 0.01), "brier": near(0.08), "bins": bins}

    def of_sets(bias):
        groups = [
            {"patients": 336, "probability": x / 5, "expected": float(x), "actual": float(bias * x)}
            for x in np.linspace(0.3, 2.4, 8)
        ]
        return reliability() | {"expected": 1.21, "actual": 1.13, "groups": groups}

    def coverage(nominal):
        figures = {"threshold": near(0.002, 0.001), "nominal": nominal, "reached": near(nominal, 0.01)}
        figures |= {"interval": around(nominal), "standard_error": near(0.007, 0.002)}
        return figures | {
            "mean_size": 300 * nominal**4,
            "sizes": [200 * nominal**4, 290 * nominal**4, 420 * nominal**4],
        }

    def correlation():
        rho = float(rng.uniform(-0.3, 0.3))
        return {"rho": rho, "interval": [rho - 0.04, rho + 0.04]}

    def wrong():
        shares = dict(zip(SHARES, map(float, rng.dirichlet([2, 1, 2, 5])), strict=True))
        return {"wrong_codes": int(rng.integers(4000, 9000)), "mean": float(rng.uniform(4, 6))} | shares

    return {
        "dataset": {"name": "synthetic", "fingerprint": "abc123", "split": "test", "patients": 3356, "codes": 793},
        "protocol": {"target": "last", "candidates": "cohort", "history": "codes + profile"},
        "rankers": rankers,
        "controls": {"shuffled_history": figures(-0.14), "shuffled_profile": figures(0.05)},
        "run": {
            "recipe": "tiny-cpu/train",
            "seed": 0,
            "versions": {"python": "3.11.7", "mera_hf": "0.1.0", "torch": "2.13.0"},
            "seconds": 61.3,
            "peak_memory_mb": 812.0,
        },
        "intervals": {"mera": {name: around(x) for name, x in rankers["mera"].items() if "size" not in name}},
        "strata": strata,
        "fairness": {
            kind: {"recall@20": gap(STRATA[kind], near(0.05)), "weighted_f1": gap(STRATA[kind], near(0.04))}
            for kind in ("sex", "age", "race")
        },
        "coarse": {
            name: {
                "groups": groups,
                "true_codes_without": groups // 30,
                "rankers": {
                    ranker: {
                        **{f"recall@{k}": near(0.4 + 0.1 * i + lead) for i, k in enumerate((5, 10, 20)) if k < groups},
                        "weighted_f1": near(0.35 + lead),
                    }
                    for ranker, lead in RANKERS.items()
                },
            }
            for name, groups in (("category", 612), ("ccs", 241), ("ccsr", 318), ("chapter", 18))
        },
        "distance": {name: wrong() | {"eov": wrong()} for name in RANKERS},
        "heart_failure": {
            "patients_with": 641,
            "rankers": {name: {"auc": near(0.75 + lead), "f1": near(0.5 + lead)} for name, lead in RANKERS.items()},
            "intervals": {"mera": {"auc": [0.79, 0.83], "f1": [0.52, 0.58]}},
        },
        "calibration": {
            "fitted_on": "validation",
            "patients": 3356,
            **{name: reliability() | {"first": reliability()} for name in ("codes", "before", "softmax")},
            "improvement": {name: {"ece": 0.004, "interval": [0.002, 0.006]} for name in ("all", "first")},
            "set": of_sets(0.95),
            "set_before": of_sets(1.3),
            "conformal": {
                "source": "evaluation",
                "patients_fitted": 1639,
                **{kind: {f"{x}": coverage(x) for x in (0.8, 0.9, 0.95)} for kind in ("codes", "visits")},
            },
            "severity": {
                "correlations": {
                    name: {other: correlation() for other in ("true_size", "comorbidities", "charlson")}
                    for name in ("eov_probability", "set_size", "expected_codes")
                },
                "groups": [
                    {
                        "comorbidities": label,
                        "patients": 700 - 90 * i,
                        **{
                            name: 2.8 + x * i
                            for name, x in (("set_size", 0.1), ("expected_codes", 0.06), ("true_size", 0.02))
                        },
                        "eov_probability": 0.2 + 0.02 * i,
                    }
                    for i, label in enumerate(("0", "1", "2", "3", "4", "5+"))
                ],
            },
        },
        "findings": [
            {
                "signature": "poor_head",
                "says": "Of the true codes among the first 20, few are among the first 10: found, and poorly ordered.",
                "knob": "L_CL: `contrastive_weight` up, `tau` down",
            }
        ],
        "comparisons": [
            {"a": "mera", "b": name, "metric": metric, "difference": x, "interval": around(x)}
            | {"p": p, "p_holm": min(1.0, 2 * p)}
            for metric in ("recall@10", "recall@20", "new_recall@20", "weighted_f1")
            for name, x, p in (
                ("copy_history", near(0.055, 0.01), 0.0002),
                ("ridge", near(0.019, 0.005), 0.004),
                ("gru", near(0.002, 0.004), 0.4312),
            )
        ],
    }


def full_report(seed: int = 0) -> dict:
    """What the page takes: `full_metrics` with curves, sizes and a patient."""
    rng = np.random.default_rng(seed)
    metrics = full_metrics(seed)
    ks = np.arange(1, 41)
    curves = {
        name: np.minimum(1, figures["recall@40"] * (ks / 40) ** 0.45) for name, figures in metrics["rankers"].items()
    }
    names = ("Chronic ulcer of skin", "Heart failure", "Essential hypertension", "Diabetes mellitus", "Cellulitis")
    ranking = [
        {
            "rank": rank,
            "code": f"ICD9CM:{400 + 7 * rank}",
            "description": names[rank % 5] + ", not elsewhere classified",
            "probability": 0.5 / rank,
            "true": rank in (2, 3),
            "repeated": rank % 2 == 0,
        }
        for rank in range(1, 11)
    ]
    return {
        "metrics": metrics,
        "curves": curves,
        "sets": {"predicted": rng.poisson(3.3, 300), "true": 1 + rng.poisson(2, 300)},
        "example": {
            "profile": {"sex": "F", "age": 75.0},
            "visits": [["ICD9CM:707", "ICD9CM:496"], ["ICD9CM:599"], ["ICD9CM:428"]],
            "set_size": 4,
            "true_size": 3,
            "ranking": ranking,
            "missed": [ranking[0] | {"rank": 23, "true": True, "probability": 0.01}],
        },
    }


def comparison_report(seed: int = 0) -> dict:
    """Two checkpoints of three seeds, one without seeds, and references: what the page of `mera compare` takes."""
    report = full_report(seed)
    metrics, curves = report["metrics"], report["curves"]
    rng = np.random.default_rng(seed)
    names = {"hierarchy-all": 0.02, "hierarchy-none": 0.017, "runs/memorized-and-ranked": 0.01}
    rankers = {}
    for name, lead in names.items():
        figures = {
            key: min(x + lead, 0.99) for key, x in metrics["rankers"]["mera"].items() if key != "mean_true_size"
        }
        if name.startswith("hierarchy"):
            figures = {key: spread([x + rng.normal() / 400 for _ in range(3)]) for key, x in figures.items()}
        rankers[name] = figures
        curves[name] = np.minimum(1, curves["mera"] * (1 + lead))
    rankers |= {name: metrics["rankers"][name] for name in ("copy_history", "gru")}
    comparisons = []
    for metric in ("recall@20", "weighted_f1"):
        for name in list(rankers)[1:]:
            x = mean_of(rankers["hierarchy-all"][metric]) - mean_of(rankers[name][metric])
            interval = [x - 0.011, x + 0.012]
            row = {"a": "hierarchy-all", "b": name, "metric": metric, "difference": x, "interval": interval}
            comparisons.append(row | {"p": 0.21 if x < 0.01 else 0.0004, "p_holm": 0.42 if x < 0.01 else 0.0008})
    kept = {key: metrics[key] for key in ("dataset", "protocol", "run")}
    return {
        "metrics": kept | {"rankers": rankers, "controls": {}, "comparisons": comparisons},
        "curves": {name: curves[name] for name in rankers},
    }
