"""How large the sets above EOV are, against the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.figures import FEWEST_PATIENTS, TOO_FEW
from mera_hf.evaluation.plots.style import ACCENT, FAINT, MUTED, WARM, new_figure, styled


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def set_size_plot(predicted: Sequence[int], true: Sequence[int]) -> Figure:
    """How large the sets above EOV are, against the true ones: both distributions, and one against the other. True
    sizes of fewer than 10 patients are left out.

    Args:
        predicted (`Sequence[int]`):
            Codes above EOV, per patient.
        true (`Sequence[int]`):
            True codes, per patient.
    """
    import numpy as np
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    said, were = np.asarray(predicted), np.asarray(true)
    largest = int(max(np.quantile(said, 0.99), np.quantile(were, 0.99), 1))  # the tail goes into the last bin
    width = -(-(largest + 1) // 20)  # codes per bin, 20 bins at most
    n_bins = largest // width + 1
    table = np.zeros((n_bins, n_bins))  # (true, predicted)
    np.add.at(table, (np.minimum(were // width, n_bins - 1), np.minimum(said // width, n_bins - 1)), 1)
    filled = table.sum(axis=1).nonzero()[0]
    rows = np.arange(filled.min(), filled.max() + 1)
    heights = (1.1, min(2.6, 0.3 * len(rows)))  # inches
    height = sum(heights) + 1.25
    figure, (bars, heat) = new_figure(height, 2, 1, height_ratios=heights, sharex=True)
    edges = np.arange(n_bins + 1) - 0.5
    looks = (("– – true", WARM, (0, (4, 1.5)), 1, 1.0), ("— above EOV", ACCENT, "solid", 0, 0.8))
    for label, color, style, axis, x in looks:
        bars.stairs(100 * table.sum(axis=axis) / len(true), edges, color=color, linewidth=1.8, linestyle=style)
        bars.text(x, 1.05, label, transform=bars.transAxes, ha="right", va="bottom", color=color, fontweight="bold")
    bars.set_title("patients (%) by set size", color=MUTED)
    bars.set_ylim(0, None)
    bars.grid(axis="y", color=FAINT, linewidth=0.5)
    bars.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bars.spines["left"].set_visible(False)
    for row in rows:
        enough = table[row].sum() >= FEWEST_PATIENTS
        for column in table[row].nonzero()[0] if enough else ():
            share = table[row, column] / table[row].max()
            heat.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=ACCENT, alpha=share, linewidth=0))
        heat.add_patch(Rectangle((row - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=WARM, linewidth=1.4, zorder=2))
        if len(rows) <= 12:
            patients = f"{table[row].sum():,.0f}" if enough else TOO_FEW
            heat.text(n_bins - 0.4, row, f"n {patients}", va="center", color=MUTED, fontsize=9.5)
    heat.set(xlim=(edges[0], edges[-1]), ylim=(rows[0] - 0.5, rows[-1] + 0.5), xlabel="codes above EOV")
    heat.set_title("true codes (n patients); outlined: the right size", color=MUTED)
    every = -(-n_bins // (10 if width == 1 else 6))

    def name_of(i: int) -> str:
        if i == n_bins - 1:
            return f"{i * width}+"
        return str(i) if width == 1 else f"{i * width}–{(i + 1) * width - 1}"

    heat.set_xticks(range(0, n_bins, every), [name_of(i) for i in range(0, n_bins, every)])
    heat.set_yticks(rows[:: -(-len(rows) // 8)], [name_of(i) for i in rows[:: -(-len(rows) // 8)]])
    heat.spines[["left", "bottom"]].set_visible(False)
    bars.tick_params(labelbottom=False)
    figure.subplots_adjust(
        left=0.1, right=0.87, bottom=0.55 / height, top=1 - 0.3 / height, hspace=0.45 / (sum(heights) / 2)
    )
    return figure
