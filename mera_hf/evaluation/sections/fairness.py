"""Gaps between groups of sex, age and race: how much better the ranker serves one than another (this project's choice).

A gap is the largest figure minus the smallest, among groups of at least 100 patients. (Even their intervals are some
points wide.) It is never negative and biased upward: even among groups that are served alike, one is ahead by chance,
more so with more and smaller groups. The bootstrap interval of the pair's difference has the same bias, since the pair
was chosen on the same patients. `held_out` is free of this bias: the best and the worst group are chosen on a random
half of the patients, and their signed difference is measured on the other half. Take a gap as real only if the
interval of `held_out` lies above zero. That interval is wider, as it comes from half the patients.

A gap says that figures differ, not why. Groups differ in how ill they are and in how many codes their visits have. The
weighted F1 of a group also depends on how often its codes occur in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Row, Table
from mera_hf.evaluation.bootstrap import RESAMPLES, all_draws, interval
from mera_hf.evaluation.figures import Value, format_figure, heading_of, mean_of, percent, plain_name, signed_points
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.sections.strata import (
    STRATIFICATIONS,
    UNKNOWN,
    Strata,
    profile_stratifications,
)


if TYPE_CHECKING:
    import numpy as np

FEWEST_IN_GROUP = 100
METRICS = ("recall@20", "weighted_f1", "weighted_f1_eov")


def measure(patients: RankedPatients, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """The section `fairness` of `metrics.json`, for `mera`.

    Args:
        patients (`RankedPatients`): the patients and their rankings.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): draws, and seed of draws and halves.

    Returns:
        `dict`: `{"sex" | "age" | "race": {metric: {"best", "worst", "gap", "interval", "held_out": {"best", "worst",
        "difference", "interval"}}}}`. A part of the profile with fewer than two groups of 100 known patients is left out.
    """
    import numpy as np

    profiles = profile_stratifications(patients)
    if not profiles:
        return {}
    strata = Strata(patients, profiles, ks=(20,))
    n = len(patients)
    half = np.zeros(n, dtype=bool)
    half[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    once = strata.resampled("mera", np.stack([np.ones(n), half, ~half], axis=1))
    draws = strata.resampled("mera", all_draws(n, resamples, seed))
    of_second_half = np.zeros((n, resamples), dtype=np.float32)
    of_second_half[~half] = all_draws(n - n // 2, resamples, seed)
    held_out_draws = strata.resampled("mera", of_second_half)

    section: dict[str, Any] = {}
    for profile in profiles:
        groups = [
            i
            for i, (name, group) in enumerate(strata.labels)
            if name == profile.name and group != UNKNOWN and (strata.sizes[i] > 0).sum() >= FEWEST_IN_GROUP
        ]
        if len(groups) < 2:
            continue
        section[profile.name] = {}
        for metric in [metric for metric in METRICS if metric in once]:
            whole, first, second = once[metric].T  # (groups,) each
            best, worst = _extremes(groups, whole)
            named_best, named_worst = _extremes(groups, first)
            gap, difference = float(whole[best] - whole[worst]), float(second[named_best] - second[named_worst])
            section[profile.name][metric] = {
                "best": strata.labels[best][1],
                "worst": strata.labels[worst][1],
                "gap": gap,
                "interval": interval(gap, draws[metric][best] - draws[metric][worst]),
                "held_out": {
                    "best": strata.labels[named_best][1],
                    "worst": strata.labels[named_worst][1],
                    "difference": difference,
                    "interval": interval(
                        difference, held_out_draws[metric][named_best] - held_out_draws[metric][named_worst]
                    ),
                },
            }
    return section


def _extremes(groups: list[int], values: np.ndarray) -> tuple[int, int]:
    """The group with the largest value and the one with the smallest."""
    return max(groups, key=lambda group: values[group]), min(groups, key=lambda group: values[group])


LABEL, HEADING = "Fairness gaps", "Fairness: is a group served worse?"
COUNTS = ()


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    found = table(report["metrics"])
    lead = (
        "The gap is the figure of the group that MERA serves best minus that of the group it serves worst. The gap of "
        "the best and the worst group is never negative, and small groups make it large by chance: look at the interval."
    )
    if has_halves(report["metrics"]):
        lead += (
            " The last two columns are free of that: best and worst are named on one half of the patients, and their "
            "gap is measured on the other. Read a gap as one where that interval lies above zero."
        )
    return [Paragraph(lead), found] if found else []


def has_halves(metrics: Mapping[str, Any]) -> bool:
    """Whether gaps were also measured on the half of the patients not used to choose the groups."""
    return any("held_out" in gap for gaps in metrics.get("fairness", {}).values() for gap in gaps.values())


def table(metrics: Mapping[str, Any]) -> Table | None:
    """One row per kind of group and metric: who is served best and worst, and the gap between them."""
    halves = has_halves(metrics)
    intervals = any("interval" in gap for gaps in metrics.get("fairness", {}).values() for gap in gaps.values())
    rows = [
        Row(
            f"{STRATIFICATIONS.get(kind, (plain_name(kind),))[0]}, {heading_of(metric)}",
            [
                *_gap_texts(metric, gap, "gap"),
                *(_gap_texts(metric, gap.get("held_out"), "difference") if halves else ()),
            ],
        )
        for kind, gaps in metrics.get("fairness", {}).items()
        for metric, gap in gaps.items()
        if gap.get("gap") is not None
    ]
    headings = ["groups, measure", "best and worst", f"gap{' (95 % interval)' * intervals}"]
    headings += ["named on one half", "gap on the other half"] if halves else []
    caption = "Largest gaps between groups of patients, MERA, points of percent"
    return Table(caption, headings, rows) if rows else None


def _gap_texts(metric: str, gap: Mapping | None, key: str) -> list[str]:
    if gap is None or gap.get(key) is None:
        return ["–", "–"]
    pair = f"{plain_name(str(gap.get('best', '–')))}, {plain_name(str(gap.get('worst', '–')))}"
    low_high = gap.get("interval")
    text = signed_points(mean_of(gap[key])) if key == "difference" else format_figure(metric, gap[key])
    if low_high:
        text += " ({} to {})".format(*map(signed_points, low_high))
    return [pair, text]


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Who is served best and worst by R@20, for each part of the profile."""
    return [text for profile, gaps in metrics.get("fairness", {}).items() if (text := _sentence(profile, gaps))]


def _sentence(profile: str, gaps: Mapping[str, Any]) -> str | None:
    gap = gaps.get("recall@20")
    if gap is None or "best" not in gap or "worst" not in gap:  # seeds may differ in which group they serve worst
        return None
    text = (
        f"By {profile}, R@20 is highest for {gap['best']} and lowest for {gap['worst']}, {_points(gap['gap'])} apart"
    )
    held_out = gap["held_out"]
    if "interval" not in held_out:
        return f"{text}."
    low, high = (f"{100 * end:.1f}" for end in held_out["interval"])
    return (
        f"{text}; chosen on half of the patients, {held_out['best']} and {held_out['worst']} are "
        f"{_points(held_out['difference'])} apart on the other half (95 % interval {low} to {high})."
    )


def _points(value: Value) -> str:
    return f"{percent(value)} points"
