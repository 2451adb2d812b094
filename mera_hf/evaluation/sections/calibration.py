"""The section `calibration` of `metrics.json`: are the probabilities and the sets what they say they are?

    {"fitted_on": "validation", "patients": n,
     "codes": R, "before": R, "softmax": R, "temperature": {**R, "temperature", "offset"},
     "improvement": {"all" | "first": {"ece", "interval"}},                                 of `codes` over `before`
     "set": {"ece", "brier", "bins", "expected", "actual", "groups"}, "set_before": the same,
     "conformal": {"source", "patients_fitted", "codes" | "visits": {"0.9": {"reached", "interval", ...}}},
     "severity": {"correlations", "groups", "known", "drg_groups"}}       the last two if visits have a DRG severity
    R = {"ece", "brier", "bins": [{"predicted", "observed", "count"}], "first": {the same over each patient's first 40 codes}}

`codes` are the probabilities that the checkpoint gives, `before` those without its calibration, sigmoid(code logit - EOV
logit), `softmax` the shares of the softmax over codes, and `temperature` those of a calibration of two numbers, a
temperature and an offset of EOV, for comparison with the checkpoint's. None of the four changes the order of the codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Grid, Paragraph, Plot, Row, Table
from mera_hf.data.samples import Sample
from mera_hf.errors import InputError
from mera_hf.evaluation import plots
from mera_hf.evaluation.conformal import FEWEST, KINDS, conformal_thresholds
from mera_hf.evaluation.reliability import (
    BINS,
    Reliability,
    fit_temperature,
    improvement,
    places_hit,
    reliability,
    set_figures,
)
from mera_hf.evaluation.sections import coverage
from mera_hf.evaluation.sections.severity import comorbidities, eov_measures, history_sizes, severity_figures


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.evaluation.rankings.ranked import ModelRanking

LABEL, HEADING = "Calibration", "Are the probabilities right?"
FIRST = 40  # codes of each patient that a reader may see


def measure(
    config: MeraConfig,
    ranking: ModelRanking,
    samples: Sequence[Sample],
    other: ModelRanking | None,
    validation: Sequence[Sample],
    drg_severity: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """Measure calibration, coverage and what EOV knows, on patients that were not used for fitting.

    Args:
        config (`MeraConfig`): of the checkpoint.
        ranking (`ModelRanking`): of all codes for the samples, by the checkpoint.
        samples (`Sequence[Sample]`): what was to be predicted.
        other (`ModelRanking`, *optional*), validation (`Sequence[Sample]`): the same of the last visits of the validation
            patients. The temperature is fitted on them, and the conformal sets if the checkpoint has none. With fewer than
            20 patients these are left out.
        drg_severity (`np.ndarray`, *optional*): severity of the visits to be predicted, see `target_severity`.

    Returns:
        the section, see the module's text; `None` with fewer than 20 samples, too few to judge probabilities.
    """
    if len(samples) < FEWEST:
        return None
    truth = places_hit(ranking.order, samples)  # (patients, codes)
    sizes, margins, shares = ranking.set_sizes, ranking.margins(), ranking.shares()
    fitted = _reliabilities(ranking.probabilities, truth, sizes)
    before = _reliabilities(_sigmoid(margins), truth, sizes)
    section: dict[str, Any] = {"fitted_on": "validation", "patients": len(samples)}
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
    if other is not None and len(validation) >= FEWEST:
        other_truth = places_hit(other.order, validation)
        temperature, offset = fit_temperature(other.margins(), other_truth)
        parts = _reliabilities(_sigmoid((margins - offset) / temperature), truth, sizes)
        section["temperature"] = _figures(parts) | {"temperature": temperature, "offset": offset}
        if thresholds is None:
            thresholds, source = conformal_thresholds(other.shares(), other_truth), "evaluation"
    if thresholds is not None:
        section["conformal"] = {"source": source, **coverage.measure(shares, truth, thresholds)}

    if drg_severity is not None:
        measures["drg_severity"] = drg_severity
    section["severity"] = severity_figures(measures | (comorbidities(samples, config.codes) or {}))
    return section


def _sigmoid(margins: np.ndarray) -> np.ndarray:
    import torch

    return torch.from_numpy(margins).sigmoid().numpy()


def _reliabilities(probabilities: np.ndarray, truth: np.ndarray, sizes: np.ndarray) -> dict[str, Reliability]:
    return {
        name: reliability(probabilities, truth, w) for name, w in (("all", None), ("first", FIRST), ("set", sizes))
    }


def _figures(parts: dict[str, Reliability]) -> dict[str, Any]:
    return parts["all"].figures() | {"first": parts["first"].figures()}


def check_calibration(section: Any, source: str) -> None:
    """Check the section of a `metrics.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: names the part that is missing, not a number, or not a fraction.
    """

    def require(condition: object, message: str) -> None:
        if not condition:
            raise InputError(f"{source}: {message}")

    def fractions(part: Any, place: str, *names: str) -> None:
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


METHODS = {
    "codes": "as the checkpoint gives them",
    "before": "without its calibration",
    "temperature": "a temperature and an EOV offset",
    "softmax": "shares of the softmax",
}


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    metrics = report["metrics"]
    found = table(metrics)
    if found is None:
        return []
    sets = of_sets(metrics)
    lead = f"{of_codes(metrics)}{f' {sets}' if sets else ''} The calibration changes no order by itself."
    note = "Error: expected calibration error. Brier: mean squared difference of probability and outcome. Lower is better."
    return [Paragraph(lead), Grid(_plots(metrics["calibration"], sets)), found, Paragraph(note, "muted")]


def of_codes(metrics: Mapping[str, Any]) -> str:
    """How far probabilities are from what was recorded, in words."""
    section = metrics["calibration"]
    first, before = (section[name]["first"] for name in ("codes", "before"))
    low, high = section["improvement"]["first"]["interval"]
    change = "better" if low > 0 else "worse" if high < 0 else "neither better nor worse than chance would have it"
    text = (
        f"Among the first 40 codes of each patient, probabilities and what was recorded differ by {_points(first['ece'])} "
        f"percentage points on average (expected calibration error), and by {_points(before['ece'])} without the calibration "
        f"that was fitted on validation: {change} (difference {_points(before['ece'] - first['ece'])}, 95 % interval "
        f"{_points(low)} to {_points(high)})."
    )
    if metrics["dataset"]["split"] == "validation":
        text += " These are the patients that it was fitted on, so that it looks better than it is."
    return text


def of_sets(metrics: Mapping[str, Any]) -> str | None:
    """How many codes of the sets should be right and how many are, in words; `None` if every set is empty."""
    parts = metrics["calibration"].get("set")
    if parts is None:
        return None
    return (
        f"By its probabilities, the codes above EOV should hold {parts['expected']:.2f} right ones a patient; they hold "
        f"{parts['actual']:.2f}."
    )


def _plots(section: Mapping[str, Any], sets: str | None) -> list[Plot]:
    said = ", ".join(
        f"{_points(b['predicted'])} % said, {_points(b['observed'])} % recorded"
        for b in section["codes"]["first"]["bins"][-3:]
    )
    shown = [
        Plot(
            "reliability",
            plots.reliability_plot(section),
            f"Reliability diagram of the first 40 codes. The likeliest bins: {said}.",
            "Each patient's first 40 codes, in bins of equal numbers. On the dotted line a code said to be 20 % likely is "
            "recorded for 20 of 100 patients. Both axes are of square roots, so that small probabilities can be read.",
        )
    ]
    if section.get("set", {}).get("groups"):
        shown.append(
            Plot(
                "expected",
                plots.expected_plot(section),
                f"Expected against actual right codes in the predicted sets. {sets}",
                "The predicted sets: how many codes should be right, and how many are. Patients are grouped by the mean "
                "probability of their set.",
            )
        )
    return shown


def table(metrics: Mapping[str, Any]) -> Table | None:
    """Errors of the probabilities, compared with other ways to compute them."""
    section = metrics.get("calibration")
    if section is None:
        return None
    headings = ["probabilities", "error, first 40", "Brier, first 40", "error, all codes", "Brier, all codes"]
    rows = [
        Row(
            title,
            [_points(part[key]) for part in (section[name]["first"], section[name]) for key in ("ece", "brier")],
        )
        for name, title in METHODS.items()
        if name in section
    ]
    return Table("Calibration errors, percent", headings, rows)


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Calibration and coverage in a line each, for the terminal."""
    if "calibration" not in metrics:
        return []
    first, before = (100 * metrics["calibration"][name]["first"]["ece"] for name in ("codes", "before"))
    text = f"calibration error of the first 40 codes: {first:.2f} points ({before:.2f} before calibration)"
    return [text, *coverage.sentences(metrics)]


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
