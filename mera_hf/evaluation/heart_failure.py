"""Heart failure at the next visit, the field's second task: any code 428 (ICD-9-CM) or I50 (ICD-10-CM) among the true codes.

The score of a ranker with probabilities is the chance of at least one of these codes, 1 - prod(1 - p), as if they were
independent of each other (this project's choice: it stays between 0 and 1, which a sum does not, so that F1 can cut it at 0.5
as the field does). A ranker without probabilities is scored by the place of its first such code: it has an AUC and no F1.
AUC and F1 are those of scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.evaluation.ranked_patients import RankedPatients
from mera_hf.evaluation.small_groups import FEWEST_PATIENTS, TOO_FEW
from mera_hf.evaluation.strata import BLOCK_RESAMPLES, RESAMPLES, draw_patients, interval


if TYPE_CHECKING:
    import numpy as np

CATEGORIES = ("ICD9CM:428", "ICD10CM:I50")


def measure_heart_failure(patients: RankedPatients, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """The section `heart_failure` of `metrics.json`.

    Args:
        patients (`RankedPatients`): the patients and the rankers.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): of the bootstrap over patients, for `mera`.

    Returns:
        `dict`: `{"patients_with", "rankers": {name: {"auc", "f1"}}, "intervals": {"mera": {metric: [low, high]}}}`, or
        `{"skipped": reason}` where no candidate is such a code, or fewer than 10 patients have one or have none.
    """
    import numpy as np
    from sklearn.metrics import f1_score, roc_auc_score

    is_code = np.array([code.startswith(CATEGORIES) for code in patients.codes])
    if not is_code.any():
        return {"skipped": "no candidate code is one of heart failure (428, I50)"}
    truth = np.bincount(patients.true.patient, weights=is_code[patients.true.code], minlength=len(patients)) > 0
    for count, what in ((truth.sum(), "with"), ((~truth).sum(), "without")):
        if count < FEWEST_PATIENTS:
            return {"skipped": f"{TOO_FEW} patients {what} heart failure at the visit to be predicted"}
    section = {"patients_with": int(truth.sum()), "rankers": {}, "intervals": {}}
    weights = draw_patients(len(patients), resamples, seed)  # (patients, draws)
    for name, ranking in patients.rankings.items():
        scores = _scores(ranking.order, ranking.probabilities, is_code)
        figures = {"auc": float(roc_auc_score(truth, scores))}
        if ranking.probabilities is not None:
            figures["f1"] = float(f1_score(truth, scores > 0.5, zero_division=0))
        section["rankers"][name] = figures
        if name == "mera":
            draws = {"auc": _resampled_auc(truth, scores, weights)}
            if ranking.probabilities is not None:
                draws["f1"] = _resampled_f1(truth, scores > 0.5, weights)
            section["intervals"][name] = {metric: interval(values) for metric, values in draws.items()}
    return section


def _scores(order: np.ndarray, probabilities: np.ndarray | None, is_code: np.ndarray) -> np.ndarray:
    """A score of heart failure for each patient, (patients,) float64."""
    import numpy as np

    scores = np.empty(len(order))
    for start in range(0, len(order), 1024):
        rows = slice(start, start + 1024)
        chosen = is_code[order[rows]]  # (rows, K)
        if probabilities is not None:
            chances = np.minimum(probabilities[rows][chosen].astype(float), 1 - 1e-12)
            absent = np.bincount(chosen.nonzero()[0], weights=np.log1p(-chances), minlength=len(chosen))  # (rows,) log
            scores[rows] = -np.expm1(absent)
        else:
            scores[rows] = -np.where(chosen.any(axis=1), chosen.argmax(axis=1), order.shape[1])
    return scores


def _resampled_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The AUC of patients drawn anew, (draws,): the share of pairs of a patient with and one without that are told apart,
    ties as halves. scikit-learn's own takes one weighting at a time."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    truth, scores = truth[order], scores[order]
    below, upto = (np.searchsorted(scores, scores[truth], side=side) for side in ("left", "right"))
    areas = []
    for start in range(0, weights.shape[1], BLOCK_RESAMPLES):
        block = weights[order, start : start + BLOCK_RESAMPLES].astype(float)  # (patients, block) by score
        without = np.cumsum(np.where(truth[:, None], 0, block), axis=0)
        without = np.concatenate([np.zeros_like(without[:1]), without])  # of the patients before each
        told_apart = (block[truth] * (without[below] + without[upto]) / 2).sum(axis=0)
        with np.errstate(invalid="ignore"):
            areas.append(told_apart / (block[truth].sum(axis=0) * without[-1]))
    return np.concatenate(areas)


def _resampled_f1(truth: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    import numpy as np

    return 2 * (truth & positive) @ weights / np.maximum(truth @ weights + positive @ weights, 1)
