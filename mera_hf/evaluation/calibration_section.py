"""The section `calibration` of `metrics.json`: are the probabilities and the sets what they say they are?

    {"fitted_on": "validation", "patients": n,
     "codes": R, "before": R, "softmax": R, "temperature": {**R, "temperature", "offset"},
     "improvement": {"all" | "first": {"ece", "interval"}},                                 of `codes` over `before`
     "set": {"ece", "brier", "bins", "expected", "actual", "groups"}, "set_before": the same,
     "conformal": {"source", "patients_fitted", "codes" | "visits": {"0.9": {"reached", "interval", ...}}},
     "severity": {"correlations", "groups", "known", "drg_groups"}}       the last two where visits have a DRG severity
    R = {"ece", "brier", "bins": [{"predicted", "observed", "count"}], "first": {the same over each patient's first 40 codes}}

`codes` are the probabilities that the checkpoint gives, `before` those without its calibration, sigmoid(code logit - EOV
logit), `softmax` the shares of the softmax over codes, and `temperature` a calibration of two numbers, a temperature and an
offset of EOV, beside the checkpoint's. None of the four changes the order of the codes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample, prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.conformal import FEWEST, KINDS, conformal_coverage, conformal_thresholds
from mera_hf.evaluation.model_ranking import rank_samples
from mera_hf.evaluation.reliability import (
    BINS,
    fit_temperature,
    improvement,
    reliability,
    set_figures,
    true_places,
)
from mera_hf.evaluation.severity import comorbidities, eov_measures, history_sizes, severity_figures


if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis, MeraRanking

FIRST = 40  # codes of each patient that a reader may see


def calibration_section(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    ranking: MeraRanking,
    samples: Sequence[Sample],
    validation: Dataset,
    batch_size: int = 64,
    drg_severity: np.ndarray | None = None,
) -> dict | None:
    """Measure calibration, coverage and what EOV knows, on patients that nothing was fitted on.

    Args:
        model (`MeraForDiagnosis`), tokenizer (`PreTrainedTokenizerBase`): the checkpoint.
        ranking (`MeraRanking`): of all codes for the samples.
        samples (`Sequence[Sample]`): what was to be predicted.
        validation (`Dataset`): visits dataset of the validation patients, which the temperature is fitted on, and the
            conformal sets where the checkpoint has none. With fewer than 20 of them these are left out.
        batch_size (`int`, defaults to 64): patients in a forward pass.
        drg_severity (`np.ndarray`, *optional*): of the visits that were to be predicted, see `target_severity`.

    Returns:
        the section, see the module's text; `None` with fewer than 20 samples, which say nothing about probabilities.
    """
    import torch

    if len(samples) < FEWEST:
        return None
    config = model.config
    truth = true_places(ranking.order.numpy(), samples)  # (patients, codes)
    sizes = ranking.set_sizes.numpy()
    margins = ranking.logits - ranking.eov_logits[:, None]
    section = {"fitted_on": "validation", "patients": len(samples)}
    fitted, before = (
        _reliabilities(ranking.probabilities, truth, sizes),
        _reliabilities(margins.sigmoid(), truth, sizes),
    )
    shares = torch.softmax(ranking.logits, -1)
    section["codes"], section["before"] = _figures(fitted), _figures(before)
    section["softmax"] = _figures(_reliabilities(shares, truth, sizes))
    section["improvement"] = {name: improvement(before[name], fitted[name]) for name in ("all", "first")}
    section |= {
        name: parts["set"].figures() | set_figures(parts["set"])
        for name, parts in (("set", fitted), ("set_before", before))
        if sizes.any()
    }
    measures = eov_measures(ranking)
    measures |= {"set_size": sizes, "true_size": truth.sum(axis=1), "history_codes": history_sizes(samples)}

    thresholds, source = config.conformal, "checkpoint"
    fitting = prediction_samples(validation, config.codes, "last")
    if len(fitting) >= FEWEST:
        other = rank_samples(model, tokenizer, fitting, batch_size, "validation")
        other_truth = true_places(other.order.numpy(), fitting)
        temperature, offset = fit_temperature((other.logits - other.eov_logits[:, None]).numpy(), other_truth)
        parts = _reliabilities(((margins - offset) / temperature).sigmoid(), truth, sizes)
        section["temperature"] = _figures(parts) | {"temperature": temperature, "offset": offset}
        if thresholds is None:
            thresholds, source = (
                conformal_thresholds(torch.softmax(other.logits, -1).numpy(), other_truth),
                "evaluation",
            )
    if thresholds is not None:
        section["conformal"] = {"source": source, **conformal_coverage(shares.numpy(), truth, thresholds)}

    if drg_severity is not None:
        measures["drg_severity"] = drg_severity
    section["severity"] = severity_figures(measures | (comorbidities(samples, config.codes) or {}))
    return section


def _reliabilities(probabilities, truth, sizes) -> dict:
    probabilities = probabilities.numpy()
    return {
        name: reliability(probabilities, truth, w) for name, w in (("all", None), ("first", FIRST), ("set", sizes))
    }


def _figures(parts: dict) -> dict:
    return parts["all"].figures() | {"first": parts["first"].figures()}


def check_calibration(section: dict, source: str) -> None:
    """Check the section of a `metrics.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: naming the part that is missing, no number, or no fraction.
    """

    def require(condition: object, message: str) -> None:
        if not condition:
            raise InputError(f"{source}: {message}")

    def fractions(part: object, place: str, *names: str) -> None:
        require(isinstance(part, dict), f"`{place}` must be an object.")
        for name in names:
            value = part.get(name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            require(number and 0 <= value <= 1, f"`{place}.{name}` must be a fraction, not {value!r}.")

    require(isinstance(section, dict), "`calibration` must be an object.")
    for name in ("codes", "before", "softmax", "temperature", "set", "set_before"):
        if name not in ("codes", "before") and name not in section:
            continue
        part, place = section.get(name), f"calibration.{name}"
        fractions(part, place, "ece", "brier")
        first = {} if name.startswith("set") else {f"{place}.first": part.get("first")}
        for where, figures in {place: part, **first}.items():
            fractions(figures, where, "ece", "brier")
            require(len(figures.get("bins", ())) <= BINS, f"`{where}.bins` has more than {BINS} bins.")
            for entry in figures.get("bins", ()):
                fractions(entry, f"{where}.bins", "predicted", "observed")
    for kind in KINDS if "conformal" in section else ():
        for level, figures in section["conformal"].get(kind, {}).items():
            fractions(figures, f"calibration.conformal.{kind}.{level}", "threshold", "nominal", "reached")
