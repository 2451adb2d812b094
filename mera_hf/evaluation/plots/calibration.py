"""Are probabilities and sets what they say they are? Predicted against recorded, and sizes against severity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mera_hf.evaluation.plots.style import ACCENT, FAINT, INK, MUTED, WARM, new_figure, spread_out, styled


if TYPE_CHECKING:
    from matplotlib.figure import Figure


BY = {
    "comorbidities": "Elixhauser comorbidities in the history",
    "drg_severity": "DRG severity of the visit, 1 to 4",
}


@styled
def reliability_plot(calibration: dict) -> Figure:
    """Predicted probability against share recorded, over each patient's first codes, with and without calibration.

    Args:
        calibration (`dict`):
            The section `calibration` of a `metrics.json`.
    """
    looks = {
        "codes": (calibration["codes"]["first"]["bins"], "predicted", "observed"),
        "before": (calibration["before"]["first"]["bins"], "predicted", "observed"),
    }
    figure, axes = _against_diagonal(looks, 100)
    axes.set_title("recorded (%)", color=MUTED)
    axes.set_xlabel("probability (%)")
    return figure


@styled
def expected_plot(calibration: dict) -> Figure:
    """Expected against actual right codes in the predicted set, in groups of patients by the set's mean probability.

    Args:
        calibration (`dict`):
            The section `calibration` of a `metrics.json`, with the parts `set` and `set_before`.
    """
    looks = {
        "codes": (calibration["set"]["groups"], "expected", "actual"),
        "before": (calibration["set_before"]["groups"], "expected", "actual"),
    }
    figure, axes = _against_diagonal(looks, 1)
    axes.set_title("right codes in the set, mean of a group of patients", color=MUTED)
    axes.set_xlabel("expected: the sum of the probabilities")
    return figure


@styled
def severity_plot(groups: Sequence[dict], by: str = "comorbidities") -> Figure:
    """How many codes are true, expected and predicted, by the number of comorbidities in the history or by DRG severity.

    Args:
        groups (`Sequence[dict]`):
            `calibration.severity.groups` of a `metrics.json`, or `drg_groups`; groups without figures are left empty.
        by (`str`, defaults to `"comorbidities"`):
            Or `"drg_severity"`.
    """
    figure, axes = new_figure(3.4)
    measured = [(x, group) for x, group in enumerate(groups) if "set_size" in group]
    styles: dict[str, tuple[str, str, dict[str, Any]]] = {
        "true_size": ("true", WARM, {"marker": "D", "linestyle": (0, (4, 1.5))}),
        "set_size": ("above EOV", ACCENT, {"marker": "o", "linestyle": "solid"}),
        "expected_codes": ("expected", INK, {"marker": "s", "linestyle": (0, (1, 1.5))}),
    }
    ends = {name: measured[-1][1][name] for name in styles}
    top = 1.15 * max(group[name] for _, group in measured for name in styles)
    for name, y in spread_out(ends, top / 12).items():
        label, color, style = styles[name]
        ys = [group[name] for _, group in measured]
        axes.plot([x for x, _ in measured], ys, color=color, linewidth=1.8, markersize=5, **style)
        axes.text(measured[-1][0] + 0.25, y, label, va="center", color=color, fontweight="bold")
    axes.set(ylim=(0, top), xlim=(-0.3, len(groups) - 0.8))
    names = [f"{group[by]}\nn {group['patients']:,}" for group in groups]
    axes.set_xticks(range(len(groups)), names, fontsize=9.5)
    axes.set_xlabel(f"{BY[by]} (n patients)")
    axes.set_title("codes per patient", color=MUTED)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.spines["left"].set_visible(False)
    figure.subplots_adjust(left=0.08, right=0.8, bottom=0.23, top=0.91)
    return figure


def _against_diagonal(looks: dict[str, tuple], scale: float) -> tuple:
    """Points with and without calibration on square axes, and the line where both sides are equal."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter

    figure, axes = new_figure(4.9)
    points = {name: [(scale * e[x], scale * e[y]) for e in entries] for name, (entries, x, y) in looks.items()}
    values = [value for pairs in points.values() for pair in pairs for value in pair]
    low, high = (0, 1.06 * max(values)) if scale > 1 else (0.95 * min(values), 1.05 * max(values))
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.text(1, 1.1, "· · · exactly as said", transform=axes.transAxes, ha="right", color=MUTED)
    styles: dict[str, tuple[str, str, dict[str, Any], float]] = {
        "before": ("◇ without calibration", WARM, {"marker": "D", "markerfacecolor": "none"}, 1.1),
        "codes": ("● as the checkpoint gives them", ACCENT, {"marker": "o"}, 1.16),
    }
    for name, (label, color, style, y) in styles.items():
        axes.plot(*zip(*points[name], strict=True), color=color, linestyle="none", markersize=6.5, **style)
        axes.text(0, y, label, transform=axes.transAxes, color=color, fontweight="bold")
    if scale > 1:
        roots = {"functions": (lambda v: np.sqrt(np.abs(v)), np.square)}
        axes.set_xscale("function", **roots)
        axes.set_yscale("function", **roots)
        ticks = [tick for tick in (0, 1, 5, 10, 20, 30, 40, 60, 80, 100) if tick <= high]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set(xlim=(low, high), ylim=(low, high))
    axes.grid(color=FAINT, linewidth=0.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.11, top=0.82)
    return figure, axes
