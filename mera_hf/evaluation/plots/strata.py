"""MERA and two references within groups of patients or codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.figures import format_figure, mean_of, title_of
from mera_hf.evaluation.plots.style import FAINT, MUTED, looks_of, new_figure, styled, wrapped, write_beside


if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 0.42  # inches


@styled
def strata_plot(strata: dict[str, dict], metric: str, heading: str, rankers: Sequence[str]) -> Figure:
    """One row per stratum and one dot per ranker; the first ranker's dot has its interval.

    Args:
        strata (`dict[str, dict]`):
            One stratification of `metrics.json`; a stratum without figures is shown as too small to measure.
        metric (`str`):
            What to show, a fraction.
        heading (`str`):
            Heading of the metric.
        rankers (`Sequence[str]`):
            At most three; the plot is about the first.
    """
    from matplotlib.ticker import MaxNLocator

    looks = looks_of(rankers)
    values = {
        stratum: {
            name: 100 * mean_of(entry["rankers"][name][metric])
            for name in rankers
            if metric in entry.get("rankers", {}).get(name, {})
        }
        for stratum, entry in strata.items()
    }
    intervals = {
        stratum: [100 * end for end in entry.get("intervals", {}).get(rankers[0], {}).get(metric, ())]
        for stratum, entry in strata.items()
    }
    shown = [x for row in values.values() for x in row.values()] + [x for pair in intervals.values() for x in pair]
    low, high = min(shown), max(shown)
    margin = 0.06 * (high - low) or 1.0
    height = ROW * len(strata) + 0.65
    figure, axes = new_figure(height)
    for y, stratum in enumerate(strata):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color=FAINT, alpha=0.22, linewidth=0)
        row = values[stratum]
        if not row:
            axes.text(low, y, "too few to measure", va="center", fontstyle="italic", color=MUTED)
        for lane, name in enumerate(rankers):
            if name not in row:
                continue
            offset = 0.24 * (lane - (len(rankers) - 1) / 2)  # lanes, so that equal figures do not hide each other
            look = looks[name]
            if lane == 0 and intervals[stratum]:
                axes.plot(intervals[stratum], [y + offset] * 2, color=look["color"], linewidth=2, zorder=2)
            axes.plot(row[name], y + offset, marker=look["marker"], color=look["color"], markersize=5.5, zorder=3)
        if rankers[0] in row:
            figures = strata[stratum]["rankers"][rankers[0]]
            write_beside(axes, format_figure(metric, figures[metric]), y, looks[rankers[0]]["color"])
    axes.set(xlim=(low - margin, high + margin), ylim=(len(strata) - 0.5, -0.5))
    axes.set_yticks(range(len(strata)), [wrapped(stratum) for stratum in strata])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    lines = [line for stratum in strata for line in wrapped(stratum).split("\n")]
    left = min(0.42, 0.04 + 0.0165 * max(map(len, lines)))
    figure.subplots_adjust(left=left, right=0.9, top=1 - 0.32 / height, bottom=0.28 / height)
    top = 1 - 0.14 / height
    figure.text(0, top, f"{heading} (%)", color=MUTED, va="center")
    x = 0.08 + 0.0165 * len(heading)
    for name in rankers:
        figure.add_artist(_marker(x + 0.02, top, looks[name]))
        color = looks[name]["color"]
        weight = "bold" if name == rankers[0] else "normal"
        figure.text(x + 0.04, top, title_of(name), color=color, fontweight=weight, va="center")
        x += 0.085 + 0.0142 * len(title_of(name))
    return figure


def _marker(x: float, y: float, look: dict):
    from matplotlib.lines import Line2D

    return Line2D([x], [y], marker=look["marker"], color=look["color"], markersize=5.5, linestyle="none")
