"""What all plots share: colours, settings, how a ranker looks, and how a figure becomes a file."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mera_hf.errors import InputError
from mera_hf.evaluation.figures import TITLES


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour-blind readers can tell blue, orange, teal and purple apart; each has a contrast of 4.5 : 1 on white. On the page
# each is a variable of the same name, with a lighter tone for dark screens.
COLORS = {
    "ink": "#1c2127",
    "muted": "#5d6670",
    "faint": "#c9d0d7",
    "accent": "#0b61a4",
    "warm": "#b3500c",
    "teal": "#0b7a6b",
    "purple": "#8a3d94",
}
INK, MUTED, FAINT, ACCENT, WARM, TEAL, PURPLE = COLORS.values()
WIDTH = 5.0  # inches
NAMED_LOOKS = (  # colour, line, marker
    (ACCENT, "solid", "o"),
    (TEAL, (0, (6, 1.5)), "^"),
    (PURPLE, (0, (1.5, 1)), "v"),
    (ACCENT, (0, (6, 1.5, 1.5, 1.5)), "P"),
    (TEAL, "solid", "X"),
    (PURPLE, "solid", "p"),
)
STYLE: dict[Any, Any] = {  # since matplotlib types the names of its settings
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
    """Whether the packages of the extra `report` are installed."""
    return all(importlib.util.find_spec(name) for name in ("matplotlib", "jinja2"))


def require_package(name: str) -> None:
    """Reports are an extra: if one of its packages is missing, say how to install it."""
    if importlib.util.find_spec(name) is None:
        raise InputError(
            f"Reports, plots and cards need {name}, which is not installed: pip install 'mera_hf[report]'"
        )


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under `STYLE`: matplotlib reads its settings whenever a text or a line is made, not once per figure."""

    @functools.wraps(draw)
    def styled(*args, **kwargs) -> Figure:
        require_package("matplotlib")
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def new_figure(height: float, *grid: int, height_ratios: Sequence[float] | None = None, sharex: bool = False) -> tuple:
    """A figure of the common width and its axes, without pyplot: no display, no global state, nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    ratios = {"height_ratios": height_ratios} if height_ratios else {}
    return figure, figure.subplots(*grid, sharex=sharex, gridspec_kw=ratios)


def looks_of(rankers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How each ranker's lines and dots look: MERA in blue, copying in orange, the other references in grey.

    Checkpoints under names of their own share blue, teal and purple, with dashes and markers of their own.
    """
    rankers = list(rankers)
    look: tuple[str, Any, str]
    named = itertools.cycle(NAMED_LOOKS[1:] if "mera" in rankers else NAMED_LOOKS)
    looks: dict[str, dict[str, Any]] = {}
    for name in rankers:
        if name == "mera":
            look, zorder, linewidth = NAMED_LOOKS[0], 3, 2.6
        elif name == "copy_history":
            look, zorder, linewidth = (WARM, (0, (4, 1.5)), "D"), 2, 1.8
        elif name in TITLES:
            look, zorder, linewidth = (MUTED, "solid", "s"), 1, 1.1
        else:
            look, zorder, linewidth = next(named), 3, 2.2
        color, linestyle, marker = look
        looks[name] = {"color": color, "linestyle": linestyle, "marker": marker}
        looks[name] |= {"zorder": zorder, "linewidth": linewidth}
    return looks


def spread_out(ys: dict[str, float], gap: float) -> dict[str, float]:
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


def shortened(text: str, length: int) -> str:
    """The text, cut if it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip(" ,;(") + "…"


def wrapped(label: str) -> str:
    """The label, in two lines if it is long, cut if two lines are too few."""
    return "\n".join(textwrap.wrap(str(label), width=24, max_lines=2, placeholder=" …"))


def save(figure: Figure, target, suffix: str) -> None:
    """Write a figure. The same figure gives the same bytes: no date and no random ids."""
    import matplotlib

    metadata = {"Date": None} if suffix == "svg" else None
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, format=suffix, dpi=200, metadata=metadata)


def write_beside(axes, text: str, y: float, color: str, x: float = 1.02, weight: str = "bold") -> None:
    """A text right of the axes, at a height of the data."""
    place = {"xy": (x, y), "xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
    axes.annotate(text, color=color, fontweight=weight, **place)
