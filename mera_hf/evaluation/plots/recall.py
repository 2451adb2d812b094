"""Recall over the number of codes that a reader looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.errors import InputError
from mera_hf.evaluation.figures import title_of
from mera_hf.evaluation.plots.style import (
    FAINT,
    INK,
    MUTED,
    looks_of,
    new_figure,
    shortened,
    spread_out,
    styled,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def recall_plot(curves: dict[str, Sequence[float]]) -> Figure:
    """Recall over the number of codes that a reader looks at.

    Args:
        curves (`dict[str, Sequence[float]]`):
            Ranker to `recall@k` for k = 1 .. kmax, fractions.
    """
    height = max(3.7, 0.34 * len(curves))
    figure, axes = new_figure(height)
    lengths = {len(curve) for curve in curves.values()}
    if len(lengths) != 1:
        raise InputError(f"`curves` must have one length for all rankers, not {sorted(lengths)}.")
    kmax = lengths.pop()
    top = max(max(curve) for curve in curves.values())
    ks = range(1, kmax + 1)
    looks = looks_of(curves)
    labels = {name: shortened(title_of(name), 24) for name in curves}
    for name, curve in curves.items():
        axes.plot(ks, [100 * value for value in curve], **{**looks[name], "marker": None})
    gap = 100 * top / 13 * 3.7 / height  # a line of text
    label_ys = spread_out({name: 100 * curve[-1] for name, curve in curves.items()}, gap)
    for name, y in label_ys.items():
        axes.annotate(
            labels[name],
            xy=(kmax, 100 * curves[name][-1]),
            xytext=(kmax * 1.05, y),
            va="center",
            color=INK if looks[name]["color"] == MUTED else looks[name]["color"],
            fontweight="bold" if looks[name]["zorder"] == 3 else "normal",
            arrowprops={"arrowstyle": "-", "color": FAINT, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 1},
        )
    axes.set(xlim=(1, kmax), ylim=(0, max(100 * top, *label_ys.values()) + gap / 2))
    axes.set_xlabel("codes that the reader looks at (k)")
    axes.set_xticks([1, *range(10, kmax + 1, 10)])
    axes.set_title("true codes among the first k (%)", color=MUTED)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.spines["left"].set_visible(False)
    figure.subplots_adjust(
        left=0.085, right=0.955 - 0.0175 * max(12, *map(len, labels.values())), bottom=0.14, top=0.92
    )
    return figure
