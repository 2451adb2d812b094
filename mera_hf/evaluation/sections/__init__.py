"""One file per section of `metrics.json`: how it is measured, and what a page, a card and a terminal say about it.

The sections in [`SECTIONS`] share one form. Each has

- `measure(patients)`, from [`~mera_hf.evaluation.rankings.ranked.RankedPatients`] to the section of `metrics.json`;
- `COUNTS`, the names in it that are not fractions;
- `LABEL` and `HEADING`, in the contents of a page and above the section;
- `blocks(report)`, what a page shows (nothing if not measured), and `sentences(metrics)`, what a terminal says.

The others are measured each in its own way, see `evaluate`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypedDict

from mera_hf.evaluation.sections import alike, coarse, cuts, distance, fairness, heart_failure, strata
from mera_hf.evaluation.sections.findings import Finding


SECTIONS = (alike, cuts, strata, fairness, coarse, distance, heart_failure)  # in the order of a page


class Sections(TypedDict, total=False):
    """What a `metrics.json` holds besides the rankers' figures; each module's docstring describes its part."""

    alike: dict[str, Any]  # every ranker after the same fit, see `alike.py`
    cuts: dict[str, Any]  # where MERA's ranking is cut, see `cuts.py`
    strata: dict[str, Any]  # within groups of patients and codes, see `strata.py`
    fairness: dict[str, Any]  # gaps between groups of patients, see `fairness.py`
    coarse: dict[str, Any]  # rankings of groups of codes, see `coarse.py`
    distance: dict[str, Any]  # how far wrong codes are off in the tree, see `distance.py`
    heart_failure: dict[str, Any]  # the field's second task, see `heart_failure.py`
    drops: dict[str, dict[str, list[float]]]  # of each control, intervals of MERA minus it, see `controls.py`
    findings: list[Finding]  # signs of a training that went wrong, see `findings.py`
    calibration: dict[str, Any]  # probabilities, sets of a known coverage, what EOV knows, see `calibration.py`


COUNTS = {name for section in SECTIONS for name in section.COUNTS}  # numbers that are not fractions


def name_of(section: ModuleType) -> str:
    """The key of a section in `metrics.json`: the name of its module."""
    return section.__name__.rpartition(".")[2]
