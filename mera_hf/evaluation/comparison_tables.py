"""The tables of `mera compare`, for terminals and as Markdown."""

from __future__ import annotations

from mera_hf.evaluation.results import COLUMNS, MORE_COLUMNS, TITLES, table_markdown, table_text


def comparison_text(metrics: dict) -> str:
    """Both tables and the paired differences for a terminal."""
    lines = [table_text(metrics), "", table_text(metrics, MORE_COLUMNS)]
    titles = set()
    for title, *cells in differences(metrics):
        if title not in titles:
            heading = f"{_first(metrics)} less {title}, points"
            lines += ["", f"{heading:<40}{'':>8}{'95 % interval':>18}{'p':>10}{'p (Holm)':>10}"]
        titles.add(title)
        lines.append("  {:<38}{:>8}{:>18}{:>10}{:>10}".format(*cells))
    return "\n".join(lines)


def comparison_markdown(metrics: dict) -> str:
    """The same in Markdown."""
    lines = [f"| {_first(metrics)} less | | points | 95 % interval | p | p (Holm) |", "|---|---|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in differences(metrics)]
    return "\n\n".join([table_markdown(metrics), table_markdown(metrics, MORE_COLUMNS), "\n".join(lines)])


def differences(metrics: dict) -> list[tuple[str, ...]]:
    """The paired differences as every table shows them, in percentage points: the other ranker's title, the metric's, the
    difference, its interval, p and the corrected p."""
    headings = COLUMNS | MORE_COLUMNS

    def points(value: float) -> str:
        return f"{100 * value:+.1f}"

    def chance(p: float) -> str:
        return "< 0.001" if p < 0.001 else f"{p:.3f}"

    return [
        (
            TITLES.get(row["b"], row["b"]),
            headings[row["metric"]],
            points(row["difference"]),
            " to ".join(map(points, row["interval"])),
            chance(row["p"]),
            chance(row["p_holm"]),
        )
        for row in metrics["comparisons"]
    ]


def _first(metrics: dict) -> str:
    """The title of the ranker that the others are compared with."""
    name = metrics["comparisons"][0]["a"]
    return TITLES.get(name, name)
