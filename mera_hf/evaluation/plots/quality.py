"""The table of rankers as dots, one panel per metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.evaluation.figures import COLUMNS, columns_of, format_figure, mean_of, title_of
from mera_hf.evaluation.plots.style import FAINT, INK, MUTED, looks_of, new_figure, shortened, styled


if TYPE_CHECKING:
    from matplotlib.figure import Figure


PANELS = ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "repeated_recall@20", "new_recall@20")


@styled
def quality_plot(metrics: dict) -> Figure:
    """One panel per metric and one dot per ranker; a thin line is the interval, a thick one the deviation over seeds.

    Args:
        metrics (`dict`):
            The content of a `metrics.json`.
    """
    rankers = metrics["rankers"]
    columns = columns_of(rankers.values(), PANELS)
    n_rows = -(-len(columns) // 2)
    looks = looks_of(rankers)
    labels = [shortened(title_of(name), 24) for name in rankers]
    figure, axes = new_figure(n_rows * (0.45 + 0.2 * len(rankers)), n_rows, 2)
    for i, panel in enumerate(axes.flat):
        if i >= len(columns):
            panel.set_visible(False)
            continue
        column = columns[i]
        values = {name: figures[column] for name, figures in rankers.items() if column in figures}
        low, high = min(map(mean_of, values.values())), max(map(mean_of, values.values()))
        intervals = {name: metrics.get("intervals", {}).get(name, {}).get(column) for name in values}
        ends = [low, high, *(end for interval in intervals.values() for end in interval or ())]
        left, right = min(ends), max(ends)
        margin = 0.12 * (right - left) or 0.01
        for y, name in enumerate(rankers):
            if name not in values:
                continue
            value, look = values[name], looks[name]
            x, std = mean_of(value), value["std"] if isinstance(value, dict) else 0.0
            panel.plot([left - margin, x], [y, y], color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
            panel.plot([x - std, x + std], [y, y], color=look["color"], linewidth=2.6, solid_capstyle="butt")
            if intervals[name]:
                panel.plot(intervals[name], [y, y], color=look["color"], linewidth=1.1)
            panel.plot(x, y, marker=look["marker"], color=look["color"], markersize=5.5)
            panel.annotate(
                format_figure(column, value),
                xy=(max(x + std, *(intervals[name] or (x,))), y),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
                color=INK if x == high or look["zorder"] == 3 else MUTED,
                fontweight="bold" if x == high else "normal",
            )
        panel.set(xlim=(left - margin, right + (right - left) + margin), ylim=(len(rankers) - 0.4, -0.6), xticks=[])
        panel.set_title(f"{COLUMNS[column]} (%)")
        panel.spines[["left", "bottom"]].set_visible(False)
        panel.set_yticks(range(len(rankers)), [label * (i % 2 == 0) for label in labels])
        for label, name in zip(panel.get_yticklabels(), rankers, strict=True):
            label.set_color(looks[name]["color"] if looks[name]["zorder"] == 3 else INK)
            label.set_fontweight("bold" if looks[name]["zorder"] == 3 else "normal")
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.015 + 0.0175 * max(12, *map(len, labels)),
        right=0.99,
        top=1 - 0.28 / height,
        bottom=0.05 / height,
        hspace=0.3,
        wspace=0.05,
    )
    return figure
