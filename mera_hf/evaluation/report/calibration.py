"""The sections on calibration: probabilities, sets of a known coverage, and what EOV knows of severity."""

from __future__ import annotations

from collections.abc import Mapping

from mera_hf.evaluation.calibration_words import calibration_words
from mera_hf.evaluation.report.table import Row, Table


def calibration_sections(metrics: Mapping) -> dict[str, dict]:
    """The sections `calibration`, `coverage` and `severity` of the page; empty where nothing was measured."""
    words = calibration_words(metrics)
    if words is None:
        return {}
    methods = Table(
        "Calibration errors, percent",
        ["probabilities", "error, first 40", "Brier, first 40", "error, all codes", "Brier, all codes"],
        [Row(*row) for row in words["methods"]],
    )
    sections = {"calibration": {"lead": words["lead"], "sets": words["sets"], "table": methods}}
    if words["coverage"]:
        headings = ["sets made to hold", "at least", "reached (95 % interval)", "standard error", "codes in the set"]
        sections["coverage"] = {
            "patients_fitted": words["patients_fitted"],
            "table": Table("Conformal sets, percent", headings, [Row(*row) for row in words["coverage"]]),
        }
    caption = "Rank correlations (Spearman) of what the model says, with 95 % intervals"
    severity = Table(caption, ["with", *words["measures"]], [Row(*row) for row in words["severity"]])
    sections["severity"] = {"missing": words["missing"], "drg": words["drg"], "table": severity}
    return sections
