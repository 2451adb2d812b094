"""Sets with a coverage guarantee, by conformal risk control (huggingface.co/papers/2208.02814).

A set holds the codes whose share of the softmax over codes is at least a threshold: the head of the ranking, larger as the
threshold falls. The loss of a patient falls with it, from 1 to 0, and the threshold is the largest with

    (sum of the losses of n validation patients + 1) / (n + 1) <= 1 - level                          (their equation 4, B = 1)

where the 1 is the largest loss that the next patient can have. Then that patient's expected loss is at most 1 - level, for any
model and any n. Two losses: the share of the visit's codes that is missed (`codes`), and whether any is (`visits`), for which
this is split conformal prediction.

The guarantee needs patients like those it was fitted on: exchangeable with them, of the same hospitals and years. It is an
average over patients, not a promise for each kind of patient. Nothing else may have been fitted on the validation patients:
so the share is used, which comes from training alone, and not the calibrated probability. (A checkpoint that was chosen as the
best step on validation bends this a little.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.model_ranking import rank_samples
from mera_hf.evaluation.reliability import true_places


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.modeling_mera import MeraForDiagnosis

LEVELS = (0.8, 0.9, 0.95)
KINDS = ("codes", "visits")
FEWEST = 20  # patients; with fewer the level 0.95 takes every code


def fit_conformal(model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Dataset) -> bool:
    """Fit the thresholds for the last visit of each patient, and write them into `model.config.conformal`.

    Args:
        model (`MeraForDiagnosis`): wrapped by PEFT or not; its config is changed.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        patients (`Dataset`): visits dataset of the validation patients, on whom the weights were not trained.

    Returns:
        whether anything was fitted: not with fewer than 20 patients, where the field is `None`.
    """
    import torch

    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    samples = prediction_samples(patients, model.config.codes, "last")
    model.config.conformal = None
    if len(samples) < FEWEST:
        return False
    ranking = rank_samples(model, tokenizer, samples)
    shares = torch.softmax(ranking.logits, -1).numpy()
    model.config.conformal = conformal_thresholds(shares, true_places(ranking.order.numpy(), samples))
    return True


def conformal_thresholds(shares: np.ndarray, truth: np.ndarray, levels: tuple[float, ...] = LEVELS) -> dict:
    """Thresholds under `codes` and `visits` for each level, and the number of `patients`, as `MeraConfig.conformal` has them.

    Args:
        shares (`np.ndarray` of shape (patients, codes)): any score; the larger, the likelier is the code.
        truth (`np.ndarray` of shape (patients, codes)): bool; at least one true code in each row.
        levels (`tuple[float, ...]`, defaults to `(0.8, 0.9, 0.95)`): coverages.
    """
    import numpy as np

    n = len(shares)
    patient, place = truth.nonzero()
    of_true = shares[patient, place]  # (true codes,)
    lowest = np.where(truth, shares, np.inf).min(axis=1)  # (patients,)
    losses = {"codes": (of_true, 1 / truth.sum(axis=1)[patient]), "visits": (lowest, np.ones(n))}
    return {
        "patients": n,
        **{kind: {f"{level:g}": _threshold(*losses[kind], n, level) for level in levels} for kind in KINDS},
    }


def _threshold(scores: np.ndarray, losses: np.ndarray, n: int, level: float) -> float:
    """The largest threshold that holds the risk: a code scored below it adds its loss. 0 where only all codes hold it."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    missed = np.concatenate([[0.0], losses[order].cumsum()[:-1]])  # by a threshold at each score
    held = (missed + 1) / (n + 1) <= 1 - level + 1e-12
    if not held.any():
        return 0.0
    # Rounded down, since another batch size gives shares that differ in their last bits
    return float(scores[order[held.nonzero()[0][-1]]]) * (1 - 1e-5)


def conformal_coverage(shares: np.ndarray, truth: np.ndarray, thresholds: dict) -> dict:
    """What sets of fitted thresholds cover, on patients that they were not fitted on.

    Args:
        shares, truth (`np.ndarray` of shape (patients, codes)): as in [`conformal_thresholds`].
        thresholds (`dict`): what it returned.

    Returns:
        `dict`: `patients_fitted`, and for each kind and level `threshold`, `nominal`, `reached`, its 95 % `interval` (exact
        binomial for visits, bootstrap over patients for codes), `standard_error` (of `reached - nominal`, from the patients
        fitted on and those measured), `mean_size` and `sizes`, the 5th, 50th and 95th percentile over patients.
    """
    import numpy as np
    from scipy import stats

    n, fitted = len(shares), thresholds["patients"]
    result: dict = {"patients_fitted": fitted}
    for kind in KINDS:
        result[kind] = {}
        for level, threshold in thresholds[kind].items():
            inside = shares >= np.float32(threshold)  # (patients, codes)
            sizes = inside.sum(axis=1)
            covered = (inside & truth).sum(axis=1) / truth.sum(axis=1)  # (patients,)
            if kind == "visits":
                covered = covered == 1
                interval = stats.binomtest(int(covered.sum()), n).proportion_ci(method="exact")
            else:
                draws = stats.bootstrap(
                    (covered,), np.mean, n_resamples=1000, batch=50, method="percentile", random_state=0
                )
                interval = draws.confidence_interval
            result[kind][level] = {
                "threshold": threshold,
                "nominal": float(level),
                "reached": float(covered.mean()),
                "interval": [float(interval.low), float(interval.high)],
                "standard_error": float(covered.std() * (1 / n + 1 / fitted) ** 0.5),
                "mean_size": float(sizes.mean()),
                "sizes": [float(size) for size in np.quantile(sizes, [0.05, 0.5, 0.95])],
            }
    return result


def require_coverage(config: MeraConfig, coverage: float | None, coverage_of: str) -> None:
    """Raise an [`~mera_hf.errors.InputError`] where the checkpoint has no sets of this coverage."""
    if coverage is not None:
        try:
            config.conformal_threshold(coverage, coverage_of)
        except ValueError as error:
            raise InputError(f"`coverage` {coverage:g}: {error}") from error
