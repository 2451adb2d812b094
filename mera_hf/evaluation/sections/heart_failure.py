"""Heart failure at the next visit, the field's second task: any code 428 (ICD-9-CM) or I50 (ICD-10-CM) among the true codes.

The score of a ranker with probabilities is the chance of at least one of these codes, 1 - prod(1 - p), as if they were
independent (this project's choice). Unlike a sum it stays between 0 and 1, so F1 can cut it at 0.5 as the field does. A ranker
that has scores but no probabilities, as copying the history, is scored by its best such code: it has an AUC but no F1. Both
are scikit-learn's. The place of a code in a ranking is no score here: a place says little between patients, since it
depends on how much else the patient has. So a ranker that has only its ranking is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Table
from mera_hf.evaluation.bootstrap import BLOCK_RESAMPLES, RESAMPLES, all_draws, interval
from mera_hf.evaluation.figures import FEWEST_PATIENTS, TOO_FEW, columns_of, percent, ranker_rows
from mera_hf.evaluation.rankings.ranked import RankedPatients, Ranking


if TYPE_CHECKING:
    import numpy as np

CATEGORIES = ("ICD9CM:428", "ICD10CM:I50")


def measure(patients: RankedPatients, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """The section `heart_failure` of `metrics.json`.

    Args:
        patients (`RankedPatients`): the patients and the rankers.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): bootstrap over patients, for `mera`.

    Returns:
        `dict`: `{"patients_with", "rankers": {name: {"auc", "f1"}}, "intervals": {"mera": {metric: [low, high]}}}`, or
        `{"skipped": reason}` if no candidate is such a code, or if fewer than 10 patients have one or lack one.
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
    section: dict[str, Any] = {"patients_with": int(truth.sum()), "rankers": {}, "intervals": {}}
    weights = all_draws(len(patients), resamples, seed)  # (patients, draws)
    for name, ranking in patients.rankings.items():
        scores = _scores(ranking, is_code)
        if scores is None:
            continue
        figures = {"auc": float(roc_auc_score(truth, scores))}
        if ranking.probabilities is not None:
            figures["f1"] = float(f1_score(truth, scores > 0.5, zero_division=0))
        section["rankers"][name] = figures
        if name == "mera":
            draws = {"auc": _resampled_auc(truth, scores, weights)}
            if ranking.probabilities is not None:
                draws["f1"] = _resampled_f1(truth, scores > 0.5, weights)
            section["intervals"][name] = {
                metric: interval(figures[metric], values, 0) for metric, values in draws.items()
            }
    return section


def _scores(ranking: Ranking, is_code: np.ndarray) -> np.ndarray | None:
    """A score of heart failure for each patient, (patients,) float64, from probabilities or else from scores."""
    import numpy as np

    has_chances = ranking.probabilities is not None
    values = ranking.probabilities if has_chances else ranking.scores
    if values is None:
        return None
    found = np.empty(len(ranking.order))
    for start in range(0, len(ranking.order), 1024):
        rows = slice(start, start + 1024)
        chosen = is_code[ranking.order[rows]]  # (rows, K)
        if has_chances:
            chances = np.minimum(values[rows][chosen].astype(float), 1 - 1e-12)
            absent = np.bincount(chosen.nonzero()[0], weights=np.log1p(-chances), minlength=len(chosen))  # (rows,) log
            found[rows] = -np.expm1(absent)
        else:
            found[rows] = np.where(chosen, values[rows], -np.inf).max(axis=1)
    return found


def _resampled_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The AUC of resampled patients, (draws,): the share of pairs (one patient with, one without) in the right order,
    with ties as halves. scikit-learn's own function takes only one weighting at a time."""
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


LABEL, HEADING = "Heart failure", "Heart failure"
COUNTS = ("patients_with",)


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    metrics = report["metrics"]
    heart, found = metrics.get("heart_failure", {}), table(metrics)
    if "skipped" in heart:
        return [Paragraph(f"Not measured: {heart['skipped']}.")]
    if found is None:
        return []
    lead = "The field's second task: will any code of heart failure be recorded at the next visit?"
    if heart.get("patients_with") is not None:
        lead += f" It was for {heart['patients_with']:,} of {metrics['dataset']['patients']:,} patients."
    lead += (
        " AUC is the chance that a patient with heart failure is ranked above one without; 50 is guessing. Patients are "
        "ranked by the probability of any such code, which F1 cuts at 0.5. Copying the history has no probabilities: its "
        "scores give an AUC and no F1."
    )
    return [Paragraph(lead), found]


def table(metrics: Mapping[str, Any]) -> Table | None:
    """AUC and F1 of each ranker, with intervals where they were measured."""
    heart = metrics.get("heart_failure", {})
    rankers = {name: figures for name, figures in heart.get("rankers", {}).items() if figures}
    columns = columns_of(rankers.values(), ("auc", "f1"))
    if not columns:
        return None
    rows = ranker_rows(rankers, columns, intervals=heart.get("intervals", {}))
    headings = ["ranker", *({"auc": "AUC", "f1": "F1"}[column] for column in columns)]
    return Table("Heart failure at the next visit, percent", headings, rows)


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """MERA's AUC and F1, or why they were not measured."""
    task = metrics.get("heart_failure", {})
    if "skipped" in task:
        return [f"Heart failure at the next visit: not measured, {task['skipped']}."]
    figures = task.get("rankers", {}).get("mera")
    if figures is None:
        return []
    text = f"Heart failure at the next visit: AUC {percent(figures['auc'])} %"
    interval = task.get("intervals", {}).get("mera", {}).get("auc")
    if interval:
        text += f" (95 % interval {' to '.join(map(percent, interval))})"
    return [f"{text}, F1 at 0.5 {percent(figures['f1'])} %." if "f1" in figures else f"{text}."]
