"""The plots of experiments: what EOV says of sizes and severity, and what was memorized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.plots.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    PURPLE,
    TEAL,
    WARM,
    new_figure,
    spread_out,
    styled,
    write_beside,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = {  # label, colour, marker, line
    "true": ("true codes", WARM, "D", (0, (4, 1.5))),
    "predicted": ("codes above EOV", ACCENT, "o", "solid"),
    "comorbidities": ("comorbidities", TEAL, "^", (0, (6, 1.5, 1.5, 1.5))),
    "drg_severity": ("DRG severity", INK, "s", (0, (1, 1.5))),
}


@styled
def eov_plot(groups: dict[str, Sequence[dict]]) -> Figure:
    """Above, the probability of EOV by the numbers of predicted codes, true codes and comorbidities, and by DRG
    severity. Below, the size of the set by true size, comorbidities and DRG severity.

    Args:
        groups (`dict[str, Sequence[dict]]`):
            `predicted`, `true` and, if known, `comorbidities` and `drg_severity` to groups as
            [`groups_by`](mera_hf.evaluation.sections.severity.groups_by) has them; groups without means are left empty.
    """
    figure, (above, below) = new_figure(5.4, 2, 1)
    widest = max(1 + int(of[-1][name].rstrip("+")) for name, of in groups.items() if of)
    _lines(above, groups, "eov_probability", 100)
    above.set_title("mean probability of EOV (%) by number of … (hollow: or more)", color=MUTED)
    _lines(below, {name: of for name, of in groups.items() if name != "predicted"}, "set_size", 1)
    below.set_title("mean number of codes above EOV by number of …", color=MUTED)
    top = below.get_ylim()[1]
    below.plot([0, top], [0, top], color=PURPLE, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    end = min(top, widest - 1)
    below.annotate("as many as true", (0.5 * end, 0.5 * end), (6, -8), textcoords="offset points", color=PURPLE)
    for axes in (above, below):
        axes.set_ylim(0, axes.get_ylim()[1])
        axes.set_xlim(-0.3, widest - 0.7)
        axes.set_xticks(range(widest))
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.spines["left"].set_visible(False)
    figure.subplots_adjust(left=0.08, right=0.69, bottom=0.06, top=0.94, hspace=0.32)
    return figure


def measured(groups: Mapping[str, Sequence[dict]], measure: str = "set_size") -> dict[str, list[dict]]:
    """The groups that are large enough to have means."""
    found = {name: [group for group in of if measure in group] for name, of in groups.items()}
    return {name: of for name, of in found.items() if of}


def _lines(axes, groups: dict[str, Sequence[dict]], measure: str, scale: float) -> None:
    """One line each, with the label at its end; a hollow last point stands for that number or more."""
    shown = measured(groups, measure)
    ys = {name: [scale * group[measure] for group in of] for name, of in shown.items()}
    top = 1.12 * max(map(max, ys.values())) or 1.0
    axes.set_ylim(0, top)
    labels = spread_out({name: values[-1] for name, values in ys.items()}, top / 9)
    for name, of in shown.items():
        label, color, marker, line = LINES[name]
        xs = [int(group[name].rstrip("+")) for group in of]
        axes.plot(xs, ys[name], color=color, marker=marker, linestyle=line, linewidth=1.8, markersize=5)
        if of[-1][name].endswith("+"):
            axes.plot(
                xs[-1], ys[name][-1], marker=marker, color=color, markersize=7, markerfacecolor="white", zorder=4
            )
        write_beside(axes, label, labels[name], color)


WAYS = {  # label, colour, marker
    "before": ("before", WARM, "D"),
    "unseen": ("after, in other words", TEAL, "^"),
    "seen": ("after, in words trained on", ACCENT, "o"),
}


@styled
def memorization_plot(rows: Sequence[tuple[str, dict[str, float]]]) -> Figure:
    """One row per question, and one dot per way to ask it.

    Args:
        rows (`Sequence[tuple[str, dict[str, float]]]`):
            The question and the share of right answers `before` memorizing, and afterwards in a wording `seen` in
            training and in an `unseen` one; fractions.
    """
    height = 0.34 * len(rows) + 1.05
    figure, axes = new_figure(height)
    for y, (_, shares) in enumerate(rows):
        axes.plot([0, 100], [y, y], color=FAINT, linewidth=0.8, zorder=1)
        for lane, (name, (_, color, marker)) in enumerate(WAYS.items()):
            offset = 0.2 * (lane - 1)  # lanes, so that equal figures do not hide each other
            axes.plot(
                100 * shares[name], y + offset, marker=marker, color=color, markersize=6, zorder=3, clip_on=False
            )
        write_beside(axes, f"{100 * shares['seen']:.1f}", y, ACCENT, x=1.04)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), [question for question, _ in rows])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    left = min(0.42, 0.05 + 0.0165 * max(len(question) for question, _ in rows))
    figure.subplots_adjust(left=left, right=0.88, top=1 - 0.62 / height, bottom=0.3 / height)
    figure.text(0, 1 - 0.13 / height, "answers that are right to the last token (%)", color=MUTED, va="center")
    for x, (label, color, marker) in zip((0.0, 0.2, 0.56), WAYS.values(), strict=True):
        top = 1 - 0.4 / height
        figure.text(x + 0.035, top, label, color=color, fontweight="bold", va="center", fontsize=9.5)
        figure.add_artist(_marker(x + 0.015, top, color, marker))
    return figure


def _marker(x: float, y: float, color: str, marker: str):
    from matplotlib.lines import Line2D

    return Line2D([x], [y], marker=marker, color=color, markersize=6, linestyle="none")
