"""Sections of blocks as HTML."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mera_hf.blocks import (
    Block,
    Bullets,
    Card,
    Details,
    Facts,
    Grid,
    Note,
    Paragraph,
    Plot,
    Section,
    Table,
    Terms,
    VisitList,
)
from mera_hf.evaluation.plots.style import COLORS, save


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Sections whose last block is optional, and which therefore end in a line break
_OPEN_ENDED = ("findings", "intervals", "heart_failure", "controls")


def section_html(section: Section) -> str:
    """A section of the page, with its heading."""
    title = f"{section.name}-title"
    opening = f'<section id="{section.name}" aria-labelledby="{title}">'
    body = [f'<h2 id="{title}">{_text(section.heading)}</h2>', *map(_block, section.blocks)]
    return "\n".join([opening, *body]) + "\n" * (section.name in _OPEN_ENDED) + "</section>"


def _block(block: Block) -> str:
    """A block; the caller adds the line break after it."""
    match block:
        case Table():
            return _table(block)
        case Paragraph():
            return _paragraph(block)
        case Note():
            heading = [f"<h3>{_quoted(block.heading)}</h3>"] if block.heading else []
            inside = [*heading, *(_paragraph(each, _quoted) for each in block.paragraphs)]
            return _lines(f"<div{_class(f'note {block.kind}'.strip())}>", inside, "</div>")
        case Bullets():
            items = [f"<li>{_quoted(item)}</li>" for item in block.items]
            return _lines('<div class="note warn"><ul>', items, "</ul></div>")
        case Plot():
            caption = [f"<figcaption>{_text(block.caption)}</figcaption>"] if block.caption else []
            return _lines("<figure>", [_plot(block), *caption], "</figure>")
        case Grid():
            return _lines('<div class="grid">', map(_block, block.blocks), "</div>")
        case Card():
            inside = [_plot(each) if isinstance(each, Plot) else _block(each) for each in block.blocks]
            opening = f'<div class="stratum" style="grid-row: span {block.rows}">'
            return _lines(opening, [f"<h3>{_text(block.title)}</h3>", *inside], "</div>")
        case Details():
            return _lines(
                "<details>", [f"<summary>{_text(block.summary)}</summary>", *map(_block, block.blocks)], "</details>"
            )
        case Terms():
            pairs = [f"<dt>{_quoted(term)}</dt><dd>{_quoted(meaning)}</dd>" for term, meaning in block.pairs]
            terms = _lines("<dl>", pairs, "</dl>")
            if not block.summary:
                return terms
            summary = f"<summary>{_text(block.summary)}</summary>"
            return _lines('<details class="meanings">', [summary, terms], "</details>\n")
        case Facts():
            rows = [f'<tr><th scope="row">{_quoted(k)}</th><td>{_quoted(v)}</td></tr>' for k, v in block.pairs]
            title = f"<caption><span>{_text(block.caption)}</span></caption>"
            table = _lines('<table class="run">', [title, _lines("<tbody>", rows, "</tbody>")], "</table>")
            return _lines('<div class="table">', [table], "</div>")
        case VisitList():
            listed = [", ".join(f"<code>{_quoted(code)}</code>" for code in visit) for visit in block.visits]
            first = f' value="{block.start}"' if block.start > 1 else ""
            items = [f"<li{first if i == 0 else ''}>{codes}</li>" for i, codes in enumerate(listed)]
            return _lines('<ol class="visits">', items, "</ol>")


def _paragraph(paragraph: Paragraph, escape: Callable[[str], str] | None = None) -> str:
    escape = escape or _text
    strong = f"<strong>{escape(paragraph.strong)}</strong> " if paragraph.strong else ""
    return f"<p{_class(paragraph.kind)}>{strong}{escape(paragraph.text)}</p>"


def _table(table: Table) -> str:
    columns = len(table.headings)
    body = []
    for number, row in enumerate(table.rows):
        if row.kind == "group":
            body += ["</tbody>", "<tbody>"] if number else []
            body.append(f'<tr class="group"><th scope="rowgroup" colspan="{columns}">{_quoted(row.title)}</th></tr>')
            continue
        cells = "".join(f"<td{_class('best' * mark)}>{_quoted(text)}</td>" for text, mark in row.marked)
        body.append(f'<tr{_class(row.kind)}><th scope="row">{_quoted(row.title)}</th>{cells}</tr>')
    headings = "".join(f'<th scope="col">{_quoted(heading)}</th>' for heading in table.headings)
    lines = [
        f"<div{_class('table narrow' if columns <= 3 else 'table')}>",
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_quoted(table.caption)}">',
        "<table>",
        f"<caption><span>{_quoted(table.caption)}</span></caption>",
        f"<thead><tr>{headings}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody>",
        "</table>",
        "</div>",
        "</div>\n",
    ]
    return "\n".join(lines)


def _plot(plot: Plot) -> str:
    told, svg = _quoted(plot.alternative), inline_svg(plot.figure, plot.name)
    return f'<div class="plot" role="img" aria-label="{told}">{svg}</div>\n'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _lines(opening: str, inside: Iterable[str], closing: str) -> str:
    return "\n".join([opening, *inside, closing])


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _quoted(text: str) -> str:
    """The text, escaped for attributes too."""
    return _text(text).replace('"', "&#34;").replace("'", "&#39;")


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element: the page's colours and fonts, own ids (prefixed with `name`), no metadata."""
    file = io.StringIO()
    figure.set_facecolor("none")
    save(figure, file, "svg")
    svg = file.getvalue()
    (view,) = re.findall(r'viewBox="[^"]*"', svg)[:1]
    body = svg[svg.index("</defs>") + len("</defs>") :]  # after the metadata and the global style
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
