"""Sets with a coverage guarantee, by conformal risk control (huggingface.co/papers/2208.02814).

A set holds the codes whose share of the softmax over codes is at least a threshold: the head of the ranking. The lower
the threshold, the larger the set and the smaller a patient's loss, from 1 to 0. The threshold is the largest with

    (sum of the losses of n validation patients + 1) / (n + 1) <= 1 - level                          (their equation 4, B = 1)

where the 1 is the largest loss that the next patient can have. Then that patient's expected loss is at most 1 - level, for any
model and any n. There are two losses: the share of the visit's codes that the set misses (`codes`), and whether it
misses any (`visits`). For the latter, this is split conformal prediction.

The guarantee needs patients like those it was fitted on: exchangeable with them, from the same hospitals and years. It
is an average over patients, not a promise for each kind of patient. Nothing else may be fitted on the validation
patients. Therefore the share is used, which comes from training alone, and not the calibrated probability. (Choosing
the best checkpoint on validation bends this rule a little.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.reliability import places_hit


if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.data.samples import Sample
    from mera_hf.evaluation.rankings.ranked import ModelRanking
    from mera_hf.modeling_mera import MeraForDiagnosis

LEVELS = (0.8, 0.9, 0.95)
KINDS = ("codes", "visits")
FEWEST = 20  # patients; with fewer, the level 0.95 needs every code


def fit_conformal(model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, patients: Dataset) -> bool:
    """Fit the thresholds for the last visit of each patient, and write them into `model.config.conformal`.

    Args:
        model (`MeraForDiagnosis`): with or without a PEFT wrapper; its config is changed.
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        patients (`Dataset`): visits dataset of the validation patients, who were not used to train the weights.

    Returns:
        whether anything was fitted. With fewer than 20 patients nothing is, and the field is `None`.
    """
    model = getattr(model, "get_base_model", lambda: model)()
    samples = prediction_samples(patients, model.config.codes, "last")
    ranking = rank_samples(model, tokenizer, samples) if len(samples) >= FEWEST else None
    return fit_to_ranking(model.config, ranking, samples)


def fit_to_ranking(config: MeraConfig, ranking: ModelRanking | None, samples: Sequence[Sample]) -> bool:
    """Like [`fit_conformal`], for patients that are already ranked.

    Args:
        config (`MeraConfig`): the model's config; its field `conformal` is written.
        ranking (`ModelRanking`, *optional*): ranking of all codes for the samples; not needed for fewer than 20.
        samples (`Sequence[Sample]`): the last visit of each validation patient.
    """
    config.conformal = None
    if ranking is None or len(samples) < FEWEST:
        return False
    config.conformal = conformal_thresholds(ranking.shares(), places_hit(ranking.order, samples))
    return True


def conformal_thresholds(shares: np.ndarray, truth: np.ndarray, levels: tuple[float, ...] = LEVELS) -> dict:
    """Thresholds under `codes` and `visits` for each level, and the number of `patients`, as `MeraConfig.conformal` has them.

    Args:
        shares (`np.ndarray` of shape (patients, codes)): any score; a larger score means a likelier code.
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
    """The largest threshold that keeps the risk low enough; codes below it add their loss. 0 if it takes all codes."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    missed = np.concatenate([[0.0], losses[order].cumsum()[:-1]])  # by a threshold at each score
    held = (missed + 1) / (n + 1) <= 1 - level + 1e-12
    if not held.any():
        return 0.0
    # Rounded down, since another batch size gives shares that differ in their last bits
    return float(scores[order[held.nonzero()[0][-1]]]) * (1 - 1e-5)


def require_coverage(config: MeraConfig, coverage: float | None, coverage_of: str) -> None:
    """Raise an [`~mera_hf.errors.InputError`] if the checkpoint has no sets of this coverage."""
    if coverage is not None:
        try:
            config.conformal_threshold(coverage, coverage_of)
        except ValueError as error:
            raise InputError(f"`coverage` {coverage:g}: {error}") from error
