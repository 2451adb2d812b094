"""The plots of reports and cards: each a function that returns a matplotlib `Figure`, drawn without a display.

All are narrow (five inches), so that a phone shows them at full size. Colours are told apart by colour-blind readers
and never carry a meaning alone.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.errors import InputError
from mera_hf.evaluation.results import COLUMNS, TITLES, format_figure, mean_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, FAINT, ACCENT, WARM = "#1c2127", "#5d6670", "#c9d0d7", "#0b61a4", "#b3500c"
WIDTH = 5.0  # inches
PANELS = ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "repeated_recall@20", "new_recall@20")
STYLE = {
    "font.size": 10.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "mera_hf",
}


def installed() -> bool:
    """Whether the packages of the extra `report` are there."""
    return all(importlib.util.find_spec(name) for name in ("matplotlib", "jinja2"))


def require_package(name: str) -> None:
    """Reports are an extra: say how to install it where one of its packages is missing."""
    if importlib.util.find_spec(name) is None:
        raise InputError(f"Reports and plots need {name}, which is not installed: pip install 'mera_hf[report]'")


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under `STYLE`: matplotlib reads its settings whenever a text or a line is made, not once a figure."""

    @functools.wraps(draw)
    def styled(*args, **kwargs) -> Figure:
        require_package("matplotlib")
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def title_of(ranker: str) -> str:
    """A ranker's name as readers see it."""
    return TITLES.get(ranker, ranker)


@_styled
def recall_plot(curves: dict[str, Sequence[float]]) -> Figure:
    """Recall over the number of codes that a reader looks at.

    Args:
        curves (`dict[str, Sequence[float]]`):
            Ranker to `recall@k` for k = 1 .. kmax, fractions.
    """
    figure, axes = _figure(3.7)
    lengths = {len(curve) for curve in curves.values()}
    if len(lengths) != 1:
        raise InputError(f"`curves` must have one length for all rankers, not {sorted(lengths)}.")
    kmax = lengths.pop()
    top = max(max(curve) for curve in curves.values())
    ks = range(1, kmax + 1)
    for name, curve in curves.items():
        axes.plot(ks, [100 * value for value in curve], **{**_look(name), "marker": None})
    gap = 100 * top / 14.5  # a line of text
    label_ys = _spread_out({name: 100 * curve[-1] for name, curve in curves.items()}, gap)
    for name, y in label_ys.items():
        axes.annotate(
            title_of(name),
            xy=(kmax, 100 * curves[name][-1]),
            xytext=(kmax * 1.05, y),
            va="center",
            color=_look(name)["color"] if name in ("mera", "copy_history") else INK,
            fontweight="bold" if name == "mera" else "normal",
            arrowprops={"arrowstyle": "-", "color": FAINT, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 1},
        )
    axes.set(xlim=(1, kmax), ylim=(0, max(100 * top, *label_ys.values()) + gap / 2))
    axes.set_xlabel("codes that the reader looks at (k)")
    axes.set_xticks([1, *range(10, kmax + 1, 10)])
    axes.set_title("true codes among the first k (%)", color=MUTED)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.spines["left"].set_visible(False)
    figure.subplots_adjust(left=0.085, right=0.745, bottom=0.14, top=0.92)
    return figure


@_styled
def quality_plot(metrics: dict) -> Figure:
    """One panel a measure, one dot a ranker; a line through the dot is the standard deviation over seeds.

    Args:
        metrics (`dict`):
            The content of a `metrics.json`.
    """
    rankers = metrics["rankers"]
    columns = [column for column in PANELS if any(column in figures for figures in rankers.values())]
    n_rows = -(-len(columns) // 2)
    figure, axes = _figure(n_rows * (0.45 + 0.2 * len(rankers)), n_rows, 2)
    for i, panel in enumerate(axes.flat):
        if i >= len(columns):
            panel.set_visible(False)
            continue
        column = columns[i]
        values = {name: figures[column] for name, figures in rankers.items() if column in figures}
        low, high = min(map(mean_of, values.values())), max(map(mean_of, values.values()))
        margin = 0.12 * (high - low) or 0.01
        for y, name in enumerate(rankers):
            if name not in values:
                continue
            value, look = values[name], _look(name)
            x, std = mean_of(value), value["std"] if isinstance(value, dict) else 0.0
            panel.plot([low - margin, x], [y, y], color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
            panel.plot([x - std, x + std], [y, y], color=look["color"], linewidth=2.2, solid_capstyle="butt")
            panel.plot(x, y, marker=look["marker"], color=look["color"], markersize=5.5)
            panel.annotate(
                format_figure(column, value),
                xy=(x + std, y),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
                color=INK if x == high or name == "mera" else MUTED,
                fontweight="bold" if x == high else "normal",
            )
        panel.set(xlim=(low - margin, high + (high - low) + margin), ylim=(len(rankers) - 0.4, -0.6), xticks=[])
        panel.set_title(f"{COLUMNS[column]} (%)")
        panel.spines[["left", "bottom"]].set_visible(False)
        panel.set_yticks(range(len(rankers)), [title_of(name) if i % 2 == 0 else "" for name in rankers])
        for label, name in zip(panel.get_yticklabels(), rankers, strict=True):
            label.set(color=ACCENT if name == "mera" else INK)
            label.set_fontweight("bold" if name == "mera" else "normal")
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.225, right=0.99, top=1 - 0.28 / height, bottom=0.05 / height, hspace=0.3, wspace=0.05
    )
    return figure


@_styled
def set_size_plot(predicted: Sequence[int], true: Sequence[int]) -> Figure:
    """How large the sets above EOV are, against the true ones: both distributions, and one against the other.

    Args:
        predicted (`Sequence[int]`):
            Codes above EOV, per patient.
        true (`Sequence[int]`):
            True codes, per patient.
    """
    import numpy as np
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    predicted, true = np.asarray(predicted), np.asarray(true)
    largest = int(max(np.quantile(predicted, 0.99), np.quantile(true, 0.99), 1))  # the tail goes into the last bin
    width = -(-(largest + 1) // 20)  # codes per bin, 20 bins at most
    n_bins = largest // width + 1
    table = np.zeros((n_bins, n_bins))  # (true, predicted)
    np.add.at(table, (np.minimum(true // width, n_bins - 1), np.minimum(predicted // width, n_bins - 1)), 1)
    filled = table.sum(axis=1).nonzero()[0]
    rows = np.arange(filled.min(), filled.max() + 1)
    heights = (1.1, min(2.6, 0.3 * len(rows)))  # inches
    height = sum(heights) + 1.25
    figure, (bars, heat) = _figure(height, 2, 1, height_ratios=heights, sharex=True)
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
        for column in table[row].nonzero()[0]:
            share = table[row, column] / table[row].max()
            heat.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=ACCENT, alpha=share, linewidth=0))
        heat.add_patch(Rectangle((row - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=WARM, linewidth=1.4, zorder=2))
        if len(rows) <= 12:
            heat.text(n_bins - 0.4, row, f"n {table[row].sum():,.0f}", va="center", color=MUTED, fontsize=9.5)
    heat.set(xlim=(edges[0], edges[-1]), ylim=(rows[0] - 0.5, rows[-1] + 0.5), xlabel="codes above EOV")
    heat.set_title("true codes (n patients); outlined: the right size", color=MUTED)
    every = -(-n_bins // (10 if width == 1 else 6))

    def label(i: int) -> str:
        if i == n_bins - 1:
            return f"{i * width}+"
        return str(i) if width == 1 else f"{i * width}–{(i + 1) * width - 1}"

    heat.set_xticks(range(0, n_bins, every), [label(i) for i in range(0, n_bins, every)])
    heat.set_yticks(rows[:: -(-len(rows) // 8)], [label(i) for i in rows[:: -(-len(rows) // 8)]])
    heat.spines[["left", "bottom"]].set_visible(False)
    bars.tick_params(labelbottom=False)
    figure.subplots_adjust(
        left=0.1, right=0.87, bottom=0.55 / height, top=1 - 0.3 / height, hspace=0.45 / (sum(heights) / 2)
    )
    return figure


@_styled
def patient_plot(example: dict) -> Figure:
    """One patient's ranking: a bar a code, the line that EOV draws, true codes marked.

    Args:
        example (`dict`):
            As [`~mera_hf.evaluation.report.example_patient`] makes it.
    """
    ranking = example["ranking"]
    missed = example["missed"]
    lines = [*ranking, *missed]
    row = 0.39  # inches
    height = row * (len(lines) + 0.6 + 0.65 * bool(missed)) + 0.4
    figure, axes = _figure(height)
    longest = max(entry["probability"] for entry in lines) or 1.0
    y, ticks, eov = 0.0, [], False
    for i, entry in enumerate(lines):
        if not eov and entry["rank"] > example["set_size"]:
            y, eov = _eov_line(axes, y, example["set_size"]), True
        if i == len(ranking):
            axes.text(0, y + 0.3, "true codes further down", color=MUTED, fontstyle="italic", va="center")
            y += 0.65
        color, alpha = (WARM, 1.0) if entry["true"] else (MUTED, 0.45)
        axes.barh(y + 0.62, entry["probability"] / longest, height=0.26, color=color, alpha=alpha, linewidth=0)
        status = ("✓ true, " if entry["true"] else "") + ("repeated" if entry["repeated"] else "new")
        axes.text(
            0,
            y + 0.22,
            _shortened(f"{entry['code'].split(':')[-1]} {entry['description']}", 36 if entry["true"] else 44),
            va="center",
            fontweight="bold" if entry["true"] else "normal",
        )
        axes.text(1.0, y + 0.22, status, va="center", ha="right", color=WARM if entry["true"] else MUTED)
        axes.text(1.015, y + 0.62, _percent(entry["probability"]), va="center", fontsize=9.5, color=MUTED)
        ticks.append((y + 0.24, str(entry["rank"])))
        y += 1.0
    if not eov:
        y = _eov_line(axes, y, example["set_size"])
    axes.set(xlim=(0, 1.1), ylim=(y + 0.1, -0.25), xticks=[])
    axes.set_yticks([tick for tick, _ in ticks], [text for _, text in ticks])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title("rank, code, and its probability of being recorded", color=MUTED)
    figure.subplots_adjust(left=0.07, right=0.995, top=1 - 0.32 / height, bottom=0.04 / height)
    return figure


@_styled
def reliability_plot(calibration: dict) -> Figure:
    """Said against recorded, over each patient's first codes: with the checkpoint's calibration and without.

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


@_styled
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


def _against_diagonal(looks: dict[str, tuple], scale: float) -> tuple:
    """Points with the calibration and before it on square axes, and the line where both sides are equal."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter

    figure, axes = _figure(4.9)
    points = {name: [(scale * e[x], scale * e[y]) for e in entries] for name, (entries, x, y) in looks.items()}
    values = [value for pairs in points.values() for pair in pairs for value in pair]
    low, high = (0, 1.06 * max(values)) if scale > 1 else (0.95 * min(values), 1.05 * max(values))
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    axes.text(1, 1.1, "· · · exactly as said", transform=axes.transAxes, ha="right", color=MUTED)
    styles = {
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


@_styled
def severity_plot(groups: Sequence[dict]) -> Figure:
    """How many codes are true, expected and predicted, by the number of comorbidities in the history.

    Args:
        groups (`Sequence[dict]`):
            `calibration.severity.groups` of a `metrics.json`; groups without figures are left empty.
    """
    figure, axes = _figure(3.4)
    measured = [(x, group) for x, group in enumerate(groups) if "set_size" in group]
    styles = {
        "true_size": ("true", WARM, {"marker": "D", "linestyle": (0, (4, 1.5))}),
        "set_size": ("above EOV", ACCENT, {"marker": "o", "linestyle": "solid"}),
        "expected_codes": ("expected", INK, {"marker": "s", "linestyle": (0, (1, 1.5))}),
    }
    ends = {name: measured[-1][1][name] for name in styles}
    top = 1.15 * max(group[name] for _, group in measured for name in styles)
    for name, y in _spread_out(ends, top / 12).items():
        label, color, style = styles[name]
        ys = [group[name] for _, group in measured]
        axes.plot([x for x, _ in measured], ys, color=color, linewidth=1.8, markersize=5, **style)
        axes.text(measured[-1][0] + 0.25, y, label, va="center", color=color, fontweight="bold")
    axes.set(ylim=(0, top), xlim=(-0.3, len(groups) - 0.8))
    names = [f"{group['comorbidities']}\nn {group['patients']:,}" for group in groups]
    axes.set_xticks(range(len(groups)), names, fontsize=9.5)
    axes.set_xlabel("Elixhauser comorbidities in the history (n patients)")
    axes.set_title("codes per patient", color=MUTED)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.spines["left"].set_visible(False)
    figure.subplots_adjust(left=0.08, right=0.8, bottom=0.23, top=0.91)
    return figure


def calibration_plots(calibration: dict) -> dict[str, Figure]:
    """The plots that the section `calibration` has the data for, by name."""
    figures = {"reliability": reliability_plot(calibration)}
    if calibration.get("set", {}).get("groups"):
        figures["expected"] = expected_plot(calibration)
    groups = calibration["severity"].get("groups", ())
    if sum("set_size" in group for group in groups) > 1:
        figures["severity"] = severity_plot(groups)
    return figures


def write_plots(report: dict, folder: str | Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a report's plots as files, for model cards and READMEs: on white, 200 dots an inch.

    Args:
        report (`dict`):
            As [`~mera_hf.evaluation.report.render_report`] takes it.
        folder (`str` or `Path`):
            Made if it is not there; plots of the same name are replaced.

    Returns:
        `list[Path]`: `recall.png`, `quality.png`, `set_sizes.png`, `patient.png`, `reliability.png`, `expected.png`,
        `severity.png`, and the same for the other formats.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in draw_plots(report).items():
        for suffix in formats:
            path = folder / f"{name}.{suffix}"
            part = path.with_name(path.name + ".tmp")
            save(figure, part, suffix)
            paths.append(part.replace(path))
    return paths


def draw_plots(report: dict) -> dict[str, Figure]:
    """The plots that a report has the data for, by name."""
    figures = {"recall": recall_plot(report["curves"]), "quality": quality_plot(report["metrics"])}
    if report.get("sets"):
        figures["set_sizes"] = set_size_plot(report["sets"]["predicted"], report["sets"]["true"])
    if report.get("example"):
        figures["patient"] = patient_plot(report["example"])
    if "calibration" in report["metrics"]:
        figures |= calibration_plots(report["metrics"]["calibration"])
    return figures


def save(figure: Figure, target, suffix: str) -> None:
    """Write a figure, the same bytes for the same figure: no date and no random ids."""
    import matplotlib

    metadata = {"Date": None} if suffix == "svg" else None
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, format=suffix, dpi=200, metadata=metadata)


def _figure(height: float, *grid: int, height_ratios: Sequence[float] | None = None, sharex: bool = False) -> tuple:
    # `Figure` without pyplot: no display, no global state, nothing to close.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    ratios = {"height_ratios": height_ratios} if height_ratios else {}
    return figure, figure.subplots(*grid, sharex=sharex, gridspec_kw=ratios)


def _look(ranker: str) -> dict:
    """MERA in blue with a full line, copying in orange and dashed, the others in grey."""
    if ranker == "mera":
        return {"color": ACCENT, "linewidth": 2.6, "linestyle": "solid", "marker": "o", "zorder": 3}
    if ranker == "copy_history":
        return {"color": WARM, "linewidth": 1.8, "linestyle": (0, (4, 1.5)), "marker": "D", "zorder": 2}
    return {"color": MUTED, "linewidth": 1.1, "linestyle": "solid", "marker": "s", "zorder": 1}


def _spread_out(ys: dict[str, float], gap: float) -> dict[str, float]:
    """Move labels apart to at least `gap`, in their order, as little as needed: blocks around their mean."""
    blocks: list[tuple[list[str], float]] = []  # (names from the bottom up, centre)
    for name, y in sorted(ys.items(), key=lambda item: item[1]):
        names, centre = [name], y
        while blocks and centre - gap * (len(names) - 1) / 2 < blocks[-1][1] + gap * (len(blocks[-1][0]) + 1) / 2:
            names = blocks.pop()[0] + names
            centre = sum(ys[each] for each in names) / len(names)
        blocks.append((names, centre))
    return {
        name: centre + gap * (i - (len(names) - 1) / 2) for names, centre in blocks for i, name in enumerate(names)
    }


def _eov_line(axes, y: float, set_size: int) -> float:
    """Draw it with its text underneath; the result is where the next row begins."""
    axes.axhline(y + 0.08, color=ACCENT, linewidth=1.4)
    text = f"EOV: the predicted set has {set_size} code{'s' * (set_size != 1)}"
    axes.text(1.0, y + 0.34, text, ha="right", va="center", color=ACCENT, fontsize=9.5)
    return y + 0.6


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip(" ,;(") + "…"


def _percent(probability: float) -> str:
    return "<1%" if probability < 0.005 else f"{100 * probability:.0f}%"
