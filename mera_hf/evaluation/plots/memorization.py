"""How much of what was to be memorized is answered to the last token, by question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.plots.style import ACCENT, FAINT, INK, MUTED, TEAL, WARM, new_figure, styled, write_beside


if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {  # label, colour, marker
    "before": ("before", WARM, "D"),
    "unseen": ("after, in other words", TEAL, "^"),
    "seen": ("after, in words trained on", ACCENT, "o"),
}


@styled
def memorization_plot(rows: Sequence[tuple[str, dict[str, float]]]) -> Figure:
    """A row a question and a dot a way to ask it.

    Args:
        rows (`Sequence[tuple[str, dict[str, float]]]`):
            The question and the share of right answers `before` memorizing, and after it in a wording that was `seen` in
            training and in one that was `unseen`; fractions.
    """
    height = 0.34 * len(rows) + 1.05
    figure, axes = new_figure(height)
    for y, (_, shares) in enumerate(rows):
        axes.plot([0, 100], [y, y], color=FAINT, linewidth=0.8, zorder=1)
        for lane, (name, (_, color, marker)) in enumerate(LOOKS.items()):
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
    for x, (label, color, marker) in zip((0.0, 0.2, 0.56), LOOKS.values(), strict=True):
        y = 1 - 0.4 / height
        figure.text(x + 0.035, y, label, color=color, fontweight="bold", va="center", fontsize=9.5)
        figure.add_artist(_marker(x + 0.015, y, color, marker))
    return figure


def _marker(x: float, y: float, color: str, marker: str):
    from matplotlib.lines import Line2D

    return Line2D([x], [y], marker=marker, color=color, markersize=6, linestyle="none")
