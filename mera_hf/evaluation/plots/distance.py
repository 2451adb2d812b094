"""How near wrong codes lie to a true one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.evaluation.figures import mean_of, title_of
from mera_hf.evaluation.plots.style import ACCENT, INK, MUTED, looks_of, new_figure, shortened, styled


if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {
    "same_category": "same category",
    "same_block": "same block",
    "same_chapter": "same chapter",
    "other_chapter": "another chapter",
}
ALPHAS = (0.55, 0.34, 0.17, 0.0)  # nearer is darker; dark text is readable on all of them


@styled
def distance_plot(distance: dict[str, dict]) -> Figure:
    """One bar per ranker: its wrong codes by the smallest group that they share with a true code of the patient.

    Args:
        distance (`dict[str, dict]`):
            The section `distance` of `metrics.json`.
    """
    parts = [part for part in PARTS if all(part in shares for shares in distance.values())]
    height = 0.42 * len(distance) + 0.75
    figure, axes = new_figure(height)
    looks = looks_of(distance)
    for y, shares in enumerate(distance.values()):
        left = 0.0
        for part in parts:
            width = 100 * mean_of(shares[part])
            alpha = ALPHAS[list(PARTS).index(part)]
            axes.barh(y, width, left=left, height=0.66, color=ACCENT, alpha=alpha, linewidth=0)
            axes.barh(y, width, left=left, height=0.66, facecolor="none", edgecolor=MUTED, linewidth=0.7)
            if width >= 9:
                axes.text(left + width / 2, y, f"{width:.1f}", ha="center", va="center", fontsize=9.5)
            left += width
    for i, part in enumerate(parts):  # the legend, in two lines
        x, top = 0.5 * (i % 2), 1 - (0.13 + 0.22 * (i // 2)) / height
        alpha = ALPHAS[list(PARTS).index(part)]
        figure.add_artist(_swatch(0.225 + x * 0.7, top, height, ACCENT, alpha, "none"))
        figure.add_artist(_swatch(0.225 + x * 0.7, top, height, "none", 1, MUTED))
        figure.text(0.225 + x * 0.7 + 0.04, top, PARTS[part], va="center", color=MUTED)
    axes.set(xlim=(0, 100.5), ylim=(len(distance) - 0.5, -0.5), xticks=[0, 25, 50, 75, 100])
    axes.set_xlabel("wrong codes (%)")
    axes.set_yticks(range(len(distance)), [shortened(title_of(name), 16) for name in distance])
    for label, name in zip(axes.get_yticklabels(), distance, strict=True):
        label.set_color(looks[name]["color"] if looks[name]["zorder"] == 3 else INK)
        label.set_fontweight("bold" if looks[name]["zorder"] == 3 else "normal")
    axes.spines[["left", "bottom"]].set_visible(False)
    figure.subplots_adjust(left=0.225, right=0.965, top=1 - 0.45 / height, bottom=0.52 / height)
    return figure


def _swatch(x: float, y: float, height: float, color: str, alpha: float, edge: str):
    from matplotlib.patches import Rectangle

    tall = 0.12 / height
    return Rectangle((x, y - tall / 2), 0.025, tall, facecolor=color, alpha=alpha, edgecolor=edge, linewidth=0.7)
