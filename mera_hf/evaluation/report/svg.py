"""A matplotlib figure as an SVG element of a page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from mera_hf.evaluation.plots import save
from mera_hf.evaluation.plots.style import COLORS


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element: the page's colours and fonts, ids of its own (behind `name`), no metadata."""
    file = io.StringIO()
    figure.set_facecolor("none")
    save(figure, file, "svg")
    svg = file.getvalue()
    view = re.search(r'viewBox="[^"]*"', svg)[0]
    body = svg[svg.index("</defs>") + len("</defs>") :]  # behind the metadata and the global style
    svg = f'<svg {view} aria-hidden="true">{body}'
    for color, value in COLORS.items():
        svg = svg.replace(value, f"var(--{color})")
    svg = svg.replace("#ffffff", "var(--paper)")  # hollow markers
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    used = set(re.findall(r"(?:href=\"#|url\(#)([\w.]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    for reference in used:
        svg = re.sub(rf'(id="|href="#|url\(#){re.escape(reference)}(?=["\)])', rf"\g<1>{name}-{reference}", svg)
    return re.sub(r">\s+<", "><", svg)
