"""One patient's ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.evaluation.plots.style import ACCENT, MUTED, WARM, new_figure, shortened, styled


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def patient_plot(example: dict) -> Figure:
    """One patient's ranking: one bar per code, the cut at EOV as a line, true codes marked.

    Args:
        example (`dict`):
            From [`~mera_hf.evaluation.sections.patient.example_patient`].
    """
    ranking = example["ranking"]
    missed = example["missed"]
    lines = [*ranking, *missed]
    row = 0.39  # inches
    height = row * (len(lines) + 0.6 + 0.65 * bool(missed)) + 0.4
    figure, axes = new_figure(height)
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
            shortened(f"{entry['code'].split(':')[-1]} {entry['description']}", 36 if entry["true"] else 44),
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


def _eov_line(axes, y: float, set_size: int) -> float:
    """Draw the line with its text below; returns where the next row begins."""
    axes.axhline(y + 0.08, color=ACCENT, linewidth=1.4)
    text = f"EOV: the predicted set has {set_size} code{'s' * (set_size != 1)}"
    axes.text(1.0, y + 0.34, text, ha="right", va="center", color=ACCENT, fontsize=9.5)
    return y + 0.6


def _percent(probability: float) -> str:
    return "<1%" if probability < 0.005 else f"{100 * probability:.0f}%"
