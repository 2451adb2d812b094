"""What a page is made of: tables, plots and texts ready to show. A table is also written as Markdown and for a terminal here;
`mera_hf.report.html` writes all of them as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias


if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(NamedTuple):
    """A row: its title, its texts, which of them are the best, and its kind, which the style sheet uses.

    Kinds are `mera`, `control`, and `group` for a row that only names the rows below it.
    """

    title: str
    texts: Sequence[str] = ()
    best: Sequence[bool] = ()
    kind: str = ""

    @property
    def marked(self) -> Iterable[tuple[str, bool]]:
        """Each text, and whether it is the best of its column."""
        return zip(self.texts, self.best or [False] * len(self.texts), strict=True)


class Table(NamedTuple):
    """A table: a one-line caption, the headings from the first column on, and the rows."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Row]


class Paragraph(NamedTuple):
    """A paragraph, with optional first words in `strong`; the kind `muted` marks what a reader may skip."""

    text: str
    kind: str = ""
    strong: str = ""


class Note(NamedTuple):
    """A box with paragraphs and perhaps a heading; its kind is `warn` or none."""

    paragraphs: Sequence[Paragraph]
    kind: str = ""
    heading: str = ""


class Bullets(NamedTuple):
    """A list in a box that warns."""

    items: Sequence[str]


class Plot(NamedTuple):
    """A plot, its file name, a description for readers who cannot see it, and the text below it."""

    name: str
    figure: Figure
    alternative: str
    caption: str = ""


class Grid(NamedTuple):
    """Blocks beside one another where the page is wide enough."""

    blocks: Sequence[Block]


class Card(NamedTuple):
    """A titled part of a grid, `rows` grid rows high; its plots have no frame."""

    title: str
    blocks: Sequence[Block]
    rows: int = 1


class Details(NamedTuple):
    """Blocks folded behind a summary."""

    summary: str
    blocks: Sequence[Block]


class Terms(NamedTuple):
    """Terms with their meanings, folded if there is a summary."""

    pairs: Sequence[tuple[str, str]]
    summary: str = ""


class Facts(NamedTuple):
    """A table of names and values without headings."""

    caption: str
    pairs: Sequence[tuple[str, str]]


class VisitList(NamedTuple):
    """The codes of visits, in order; the first is number `start`."""

    visits: Sequence[Sequence[str]]
    start: int = 1


Block: TypeAlias = Table | Paragraph | Note | Bullets | Plot | Grid | Card | Details | Terms | Facts | VisitList


class Section(NamedTuple):
    """A section of a page: its name for links, its label in the table of contents, its heading and its blocks."""

    name: str
    label: str
    heading: str
    blocks: Sequence[Block]


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without caption; the first text of each row is its title."""
    return Table("", headings, [Row(title, texts) for title, *texts in rows])


def plots_of(blocks: Sequence[Block]) -> list[Plot]:
    """All plots among the blocks, in order."""
    found = []
    for block in blocks:
        if isinstance(block, Plot):
            found.append(block)
        elif isinstance(block, Grid | Card | Details):
            found += plots_of(block.blocks)
    return found


def markdown_table(table: Table, left: int = 1, spaced: bool = False) -> str:
    """A table as Markdown: the best of each column and the titles of row groups in bold, controls in italics.

    Args:
        table (`Table`): its caption is not written.
        left (`int`, defaults to 1): number of first columns aligned to the left; the others are aligned to the right.
        spaced (`bool`, defaults to `False`): whether the line below the headings has spaces.
    """
    rule = ["---"] * min(left, len(table.headings)) + ["---:"] * (len(table.headings) - left)
    lines = [_line(table.headings), _line(rule) if spaced else f"|{'|'.join(rule)}|"]
    for row in table.rows:
        cells = [f"**{text}**" if mark else text for text, mark in row.marked]
        cells = cells or [""] * (len(table.headings) - 1)
        mark = {"group": "**", "control": "*"}.get(row.kind, "")
        lines.append(_line([f"{mark}{row.title}{mark}", *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def text_table(table: Table) -> str:
    """A table for a terminal: aligned, the best of each column marked `*`, controls below a second rule."""
    marked = any(any(row.best) for row in table.rows)
    room = " " * marked  # for the marks
    header = [table.headings[0], *(heading + room for heading in table.headings[1:])]
    cells = [[row.title, *(text + ("*" if mark else room) for text, mark in row.marked)] for row in table.rows]
    widths = [max(len(line[i].rstrip()) for line in [header, *cells]) + marked for i in range(len(header))]
    widths[0] -= marked

    def line(of: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(of[1:], widths[1:], strict=True))
        return "  ".join([of[0].ljust(widths[0]), *rest]).rstrip()

    rule = "─" * len(line(header))
    controls = next((i for i, row in enumerate(table.rows) if row.kind == "control"), len(cells))
    lines = [line(header), rule, *map(line, cells[:controls])]
    if cells[controls:]:
        lines += [rule, *map(line, cells[controls:])]
    return "\n".join(lines)
