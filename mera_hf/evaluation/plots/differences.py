"""Differences with their intervals, against zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.figures import signed_points
from mera_hf.evaluation.plots.style import ACCENT, FAINT, INK, MUTED, new_figure, styled, wrapped, write_beside


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def difference_plot(rows: Sequence[tuple[str, float, Sequence[float] | None]], heading: str) -> Figure:
    """A forest plot: one row per difference, with its interval; hollow and grey if the interval contains zero.

    Args:
        rows (`Sequence[tuple[str, float, Sequence[float] | None]]`):
            Label, difference and `[low, high]`, in fractions.
        heading (`str`):
            What is shown, in percentage points.
    """
    labels = [wrapped(label) for label, _, _ in rows]
    lines = [line for label in labels for line in label.split("\n")]
    height = (0.34 if len(lines) == len(labels) else 0.42) * len(rows) + 0.7
    figure, axes = new_figure(height)
    ends = [0.0]
    for y, (_, difference, interval) in enumerate(rows):
        low, high = (100 * end for end in interval or (difference, difference))
        ends += [low, high]
        clear = low > 0 or high < 0
        color = ACCENT if clear else MUTED
        axes.plot([low, high], [y, y], color=color, linewidth=2 if clear else 1.4, solid_capstyle="butt")
        axes.plot(
            100 * difference,
            y,
            marker="o",
            markersize=6,
            markeredgecolor=color,
            markerfacecolor=color if clear else "white",
            markeredgewidth=1.4,
        )
        weight = "bold" if clear else "normal"
        write_beside(axes, signed_points(difference), y, INK if clear else MUTED, weight=weight)
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    axes.set(xlim=(min(ends) - margin, max(ends) + margin), ylim=(len(rows) - 0.5, -0.5))
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_title(heading, color=MUTED)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    left = min(0.42, 0.05 + 0.0165 * max(map(len, lines)))
    figure.subplots_adjust(left=left, right=0.88, top=1 - 0.3 / height, bottom=0.32 / height)
    return figure
