"""Random and hand-made cases that several tests share."""

import dataclasses

import numpy as np

from mera_hf.data.samples import Sample
from mera_hf.evaluation.metrics import order_from_scores
from mera_hf.evaluation.rankings.ranked import Cut, RankedPatients, Ranking


def random_samples(rng, patients=40, codes=30, most=6):
    """Patients with one to three earlier visits, some of whose codes come back."""

    def visit():
        return rng.choice(codes, size=rng.integers(1, most + 1), replace=False).tolist()

    samples = []
    for patient in range(patients):
        history = [visit() for _ in range(rng.integers(1, 4))]
        target = list(dict.fromkeys([*visit(), *(code for code in history[-1] if rng.random() < 0.5)]))
        samples.append(Sample(patient, history, target, {"sex": "F", "age": 60.0}))
    return samples


def learnable_samples(rng, patients, codes=24):
    """Visits of two codes: one that a patient keeps, and one that follows the last visit's in a circle."""
    samples = []
    for patient in range(patients):
        kept, moving = int(rng.integers(codes // 2)), int(rng.integers(codes // 2))
        visits = [[kept, codes // 2 + (moving + t) % (codes // 2)] for t in range(4)]
        samples += [Sample(patient, visits[:t], visits[t], {}) for t in range(1, 4)]
    return samples


def random_orders(rng, samples, codes=30):
    return np.stack([rng.permutation(codes) for _ in samples]).astype(np.int32)


def ranked(order, sizes=None, probabilities=None, scores=None):
    """A `Ranking` of these codes, cut at `sizes` where there are any."""
    return Ranking(order, None if sizes is None else Cut(sizes, "file"), probabilities, scores=scores)


def metrics_dict(**overrides):
    """A `metrics.json` of four rankers."""

    def figures(f1, recall, repeated):
        return {
            "weighted_f1": f1,
            "weighted_f1_eov": f1 + 0.004,
            "recall@10": recall - 0.12,
            "recall@20": recall,
            "recall@30": recall + 0.07,
            "recall@40": recall + 0.12,
            "repeated_recall@20": repeated,
            "new_recall@20": recall - repeated,
            "occurred@20": repeated,
            "not_occurred@20": recall - repeated,
            "mean_set_size": 3.62,
            "mean_true_size": 2.94,
            "empty_set_share": 0.01,
        }

    metrics = {
        "dataset": {"name": "synthetic", "fingerprint": "abc123", "split": "test", "patients": 321, "codes": 77},
        "protocol": {"target": "last", "candidates": "cohort", "history": "codes"},
        "rankers": {
            "mera": figures(0.241, 0.6412, 0.317),
            "prevalence": figures(0.043, 0.507, 0.209),
            "copy_history": figures(0.263, 0.5954, 0.3176),
            "gru": figures(0.226, 0.6238, 0.2964),
        },
        "controls": {"shuffled_history": figures(0.062, 0.435, 0.173)},
        "run": {
            "recipe": "tiny.yaml",
            "seed": 0,
            "versions": {"mera_hf": "0.1.0", "torch": "2.13.0"},
            "seconds": 61.3,
            "peak_memory_mb": 812.0,
        },
    }
    return metrics | overrides


# Four chapters, blocks, categories with codes below them and one code that is a category itself
ICD_CODES = [
    *("ICD9CM:250", "ICD9CM:250.00", "ICD9CM:250.01", "ICD9CM:272.4", "ICD9CM:276.8", "ICD9CM:401.9", "ICD9CM:410.71"),
    *("ICD9CM:428.0", "ICD9CM:428.1", "ICD9CM:486", "ICD9CM:V58.67"),
]


def random_patients(
    rng, patients=60, codes=ICD_CODES, rankers=("mera", "copy_history"), probabilities=True, train_visits=()
):
    """`RankedPatients` of random rankings of ICD codes, `mera` with probabilities, others with scores; profiles have gaps."""
    samples = [
        dataclasses.replace(
            sample,
            profile={
                "sex": rng.choice(["F", "M", None]),
                "age": rng.choice([None, 15.0, 45.0, 72.5, 95.0]),
                "race": None,
            },
        )
        for sample in random_samples(rng, patients, len(codes), most=4)
    ]
    rankings = {}
    for name in rankers:
        scores = rng.random((patients, len(codes))).astype(np.float32)
        order = order_from_scores(scores)
        scores = np.take_along_axis(scores, order, axis=1)
        given = {"probabilities" if probabilities and name == "mera" else "scores": scores}
        rankings[name] = ranked(order, rng.integers(0, 5, patients), **given)
    return RankedPatients(samples, codes, rankings, train_visits)
