"""Tables of the report as Markdown, for cards."""

from __future__ import annotations

from collections.abc import Sequence

from mera_hf.evaluation.report.table import Table


def markdown_table(table: Table) -> str:
    """A table of the report; the best of a column and titles of groups of rows in bold, controls in italics."""
    lines = [_line(table.headings), "|---|" + "---:|" * (len(table.headings) - 1)]
    for row in table.rows:
        texts = row.texts or [""] * (len(table.headings) - 1)
        marks = row.best or [False] * len(texts)
        cells = [f"**{text}**" if mark else text for text, mark in zip(texts, marks, strict=True)]
        mark = {"group": "**", "control": "*"}.get(row.kind, "")
        lines.append(_line([f"{mark}{row.title}{mark}", *cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
