"""The plots of `ontology.json`, from its figures alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mera_hf.evaluation.plots.style import ACCENT, FAINT, INK, MUTED, WARM, new_figure, shortened, styled
from mera_hf.experiments.ontology.words import (
    GROUPINGS,
    LIKENESS,
    panels,
    shared_title,
    worst_groups,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Beginnings of chapter names that are dropped, as the rest says more
_FILLING = re.compile(r"(diseases of the |supplementary classification of )", re.IGNORECASE)


def ontology_plots(compared: dict) -> dict[str, Figure]:
    """The plots of one version, by name.

    Args:
        compared (`dict`): the version's part of `ontology_analysis`.

    Returns:
        `dict[str, Figure]`: `groupings`, `together_by_level`, `rows_by_level` (with a model or an encoder), `worst_groups`
        and `chapters`.
    """
    figures = {"groupings": groupings_plot(compared)}
    figures |= {plot: level_plot(compared, names) for plot, names in panels(compared).items()}
    if worst_groups(compared):
        figures["worst_groups"] = worst_groups_plot(compared)
    if len(compared["chapters"]["chapters"]) > 1:
        figures["chapters"] = chapters_plot(compared["chapters"])
    return figures


@styled
def groupings_plot(compared: dict) -> Figure:
    """One panel per kind of likeness, one dot per grouping: how often codes of one group are more alike than of two."""
    kinds = list(compared["likeness"])
    names = [name for name in compared["likeness"]["visit"]["agreement"] if name != "tree"]
    n_rows = -(-len(kinds) // 2)
    height = n_rows * (0.55 + 0.24 * len(names)) + 0.4
    figure, axes = new_figure(height, n_rows, 2)
    for i, panel in enumerate(axes.flat):
        if i >= len(kinds):
            panel.set_visible(False)
            continue
        panel.axvline(50, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        for y, name in enumerate(names):
            found = compared["likeness"][kinds[i]]["agreement"][name]
            if found is None:
                panel.text(50, y, "  too few codes", va="center", color=MUTED, fontsize=9.5)
                continue
            color, marker = (WARM, "D") if name in ("ccs", "ccsr") else (ACCENT, "o")
            low, high = found["auc_interval"]
            panel.plot([100 * low, 100 * high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt", alpha=0.5)
            panel.plot(100 * found["auc"], y, marker=marker, color=color, markersize=5.5)
        panel.set(xlim=(35, 102), ylim=(len(names) - 0.5, -0.5), xticks=[50, 75, 100])
        panel.set_title(LIKENESS[kinds[i]])
        panel.set_yticks(range(len(names)), [GROUPINGS[name] if i % 2 == 0 else "" for name in names])
        panel.tick_params(axis="y", labelcolor=INK)
        panel.spines["left"].set_visible(False)
    figure.text(
        0.99,
        0.1 / height,
        "codes of one group more alike (%), with 95 % interval; 50 is chance",
        ha="right",
        color=MUTED,
    )
    figure.subplots_adjust(left=0.22, right=0.98, top=1 - 0.3 / height, bottom=0.55 / height, hspace=0.6, wspace=0.12)
    return figure


@styled
def level_plot(compared: dict, names: list[str]) -> Figure:
    """Likeness by the finest level that two codes share: the box spans the quartiles of the pairs, with a line at the
    median, whiskers from 5 to 95 % and a diamond at the mean."""
    height = sum(0.7 + 0.26 * len(compared["likeness"][name]["by_level"]) for name in names) + 0.35
    figure, axes = new_figure(height, len(names), 1)
    for panel, name in zip([axes] if len(names) == 1 else axes, names, strict=True):
        rows = compared["likeness"][name]["by_level"]
        for y, row in enumerate(rows):
            panel.annotate(
                f"n {row['pairs']:,}",
                (1.01, y),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                fontsize=9.5,
            )
            if "mean" not in row:
                panel.text(0, y, " too few pairs", va="center", color=MUTED, fontsize=9.5)
                continue
            low, first, middle, third, high = row["quantiles"]
            panel.plot([low, high], [y, y], color=ACCENT, linewidth=1, solid_capstyle="butt")
            panel.barh(y, third - first, left=first, height=0.5, color=ACCENT, alpha=0.35, linewidth=0)
            panel.plot([middle, middle], [y - 0.25, y + 0.25], color=ACCENT, linewidth=2, solid_capstyle="butt")
            panel.plot(row["mean"], y, marker="D", color=WARM, markersize=5)
        panel.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_yticks(range(len(rows)), [shared_title(row["shared"]) for row in rows])
        panel.tick_params(axis="y", labelcolor=INK)
        kind = "positive PMI" if name in ("visit", "next_visit") else "cosine"
        panel.set_title(f"{LIKENESS[name]} ({kind})")
        panel.spines["left"].set_visible(False)
    figure.text(0.01, 0.1 / height, "by what two codes share in the tree; n pairs; diamond: mean", color=MUTED)
    figure.subplots_adjust(left=0.25, right=0.84, top=1 - 0.3 / height, bottom=0.6 / height, hspace=0.5)
    return figure


@styled
def worst_groups_plot(compared: dict) -> Figure:
    """The groups whose codes share the least company: one dot each, over the grey range of random groups."""
    lines: list[tuple[str, dict | None]] = []
    for name, groups in worst_groups(compared).items():
        lines.append((GROUPINGS[name], None))
        lines += [(group["group"], group) for group in groups]
    row = 0.37  # inches
    height = row * len(lines) + 0.8
    figure, axes = new_figure(height)
    largest = max(max(group["within"], group["chance_range"][1]) for _, group in lines if group)
    for y, (title, group) in enumerate(lines):
        if group is None:
            axes.text(0, y + 0.62, title, va="center", fontweight="bold")
            continue
        axes.text(0, y + 0.22, shortened(title, 50), va="center", fontsize=9.5)
        low, high = group["chance_range"]
        axes.plot([low, high], [y + 0.66] * 2, color=FAINT, linewidth=6, solid_capstyle="butt")
        axes.plot([group["chance"]] * 2, [y + 0.54, y + 0.78], color=MUTED, linewidth=1.2)
        inside = group["within"] <= high
        axes.plot(
            group["within"], y + 0.66, marker="D" if inside else "o", color=WARM if inside else ACCENT, markersize=5.5
        )
        axes.annotate(
            f"z {group['z']:.1f}, {group['codes']} codes",
            (1.02, y + 0.66),
            xycoords=("axes fraction", "data"),
            va="center",
            ha="left",
            color=MUTED,
            fontsize=9.5,
        )
    axes.set(xlim=(0, 1.08 * largest), ylim=(len(lines) + 0.1, 0), yticks=[])
    axes.spines["left"].set_visible(False)
    text = "how alike the company of the group's codes is (mean cosine)\ngrey: random groups; diamond: no better than these"
    figure.text(0.02, 0.08 / height, text, color=MUTED)
    figure.subplots_adjust(left=0.03, right=0.77, top=1 - 0.02 / height, bottom=0.72 / height)
    return figure


@styled
def chapters_plot(chapters: dict) -> Figure:
    """How much more (blue) or less (orange) often than by chance two chapters meet in a visit."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    names, lifts = chapters["chapters"], np.array(chapters["log2_lift"])
    titles = [_FILLING.sub("", name).split(" ", 1) for name in names]
    cell = 0.155  # inches
    height = cell * len(names) + 1.4
    figure, axes = new_figure(height)
    limit = max(1.0, min(3.0, float(np.abs(lifts).max())))  # factors of 8 and more look the same
    colors = LinearSegmentedColormap.from_list("lift", [WARM, "#ffffff", ACCENT])
    image = axes.imshow(lifts, cmap=colors, vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(names)), [code for code, _ in titles], rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), [shortened(f"{code} {words}", 30) for code, words in titles], fontsize=8)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.add_axes((0.45, 0.3 / height, 0.51, 0.1 / height))
    figure.colorbar(image, cax=bar, orientation="horizontal")
    bar.set_xticks([-limit, 0, limit], [f"{2**-limit:.2g}", "as by chance", f"{2**limit:.2g}+"], fontsize=9)
    bar.set_title("times as often in one visit as by chance", fontsize=9.5, color=MUTED)
    figure.subplots_adjust(left=0.45, right=0.98, top=1 - 0.1 / height, bottom=1.3 / height)
    return figure
