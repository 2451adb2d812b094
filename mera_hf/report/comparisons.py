"""Paired differences between rankers: on a page, in Markdown and in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mera_hf.blocks import (
    Block,
    Details,
    Grid,
    Paragraph,
    Plot,
    Row,
    Section,
    Table,
    markdown_table,
    plain_table,
    text_table,
)
from mera_hf.evaluation import plots
from mera_hf.evaluation.figures import (
    MORE_COLUMNS,
    format_figure,
    heading_of,
    mean_of,
    p_text,
    ranker_table,
    signed_points,
    title_of,
)


def comparisons(report: Mapping[str, Any]) -> Section | None:
    """The section of a page, where rankers were compared."""
    metrics = report["metrics"]
    found = table(metrics)
    if found is None:
        return None
    lead = (
        "Both rankers on the same patients: the difference of the first and the second, with its 95 % interval. Hollow "
        "dots: the interval holds zero, so that the two may well be equal. p is the chance of such a difference if the two "
        "were equal."
    )
    blocks: list[Block] = [Paragraph(lead), Grid(_plots(metrics)), Details("The figures as a table", [found])]
    return Section("comparisons", "Paired comparisons", "Paired comparisons", blocks)


def table(metrics: Mapping[str, Any]) -> Table | None:
    """Each difference with its interval and its p-values."""
    entries = metrics.get("comparisons", ())
    rows = []
    for a, b in dict.fromkeys((entry["a"], entry["b"]) for entry in entries):
        rows.append(Row(f"{title_of(a)} minus {title_of(b)}", kind="group"))
        rows += [
            Row(
                heading_of(entry["metric"]),
                [
                    signed_points(entry["difference"]),
                    "{} to {}".format(*map(signed_points, entry["interval"])),
                    p_text(entry["p"]),
                    p_text(entry["p_holm"]),
                ],
            )
            for entry in entries
            if (entry["a"], entry["b"]) == (a, b)
        ]
    headings = ["measure", "difference", "95 % interval", "p", "p, corrected (Holm)"]
    return Table("Paired differences on the same patients, points of percent", headings, rows) if rows else None


def _plots(metrics: Mapping[str, Any]) -> list[Plot]:
    """A forest plot for every metric that was compared."""
    shown = []
    for metric in dict.fromkeys(entry["metric"] for entry in metrics["comparisons"]):
        chosen = [entry for entry in metrics["comparisons"] if entry["metric"] == metric]
        one = len({entry["a"] for entry in chosen}) == 1
        rows = [
            (
                title_of(entry["b"]) if one else f"{title_of(entry['a'])} − {title_of(entry['b'])}",
                entry["difference"],
                entry["interval"],
            )
            for entry in chosen
        ]
        against = f"{title_of(chosen[0]['a'])} minus …" if one else "first minus second"
        told = "; ".join(
            "{} {} (interval {} to {})".format(label, *map(signed_points, (difference, *interval)))
            for label, difference, interval in rows
        )
        shown.append(
            Plot(
                f"differences_{metric}",
                plots.difference_plot(rows, f"{heading_of(metric)}, points: {against}"),
                f"Forest plot of paired differences, {heading_of(metric)}, {against.removesuffix(' …')}: {told}.",
            )
        )
    return shown


def comparison_sentence(metrics: Mapping[str, Any]) -> str:
    """Which ranker finds most of the true codes among its first 20, and from which others it differs reliably."""
    recalls = {name: figures["recall@20"] for name, figures in metrics["rankers"].items() if "recall@20" in figures}
    if not recalls:
        return f"{len(metrics['rankers'])} rankers on the same patients."
    best = max(recalls, key=lambda name: mean_of(recalls[name]))
    text = (
        f"{title_of(best)} finds most: {format_figure('recall@20', recalls[best])} % of a patient's true codes among "
        "its first 20."
    )
    unclear = [
        title_of(entry["b"] if entry["a"] == best else entry["a"])
        for entry in metrics.get("comparisons", ())
        if best in (entry["a"], entry["b"])
        and entry["metric"] == "recall@20"
        and entry.get("interval")
        and entry["interval"][0] <= 0 <= entry["interval"][1]
    ]
    if unclear:
        text += f" Its lead may be chance over {', '.join(unclear)}."
    return text


def comparison_text(metrics: Mapping[str, Any]) -> str:
    """Both tables and the paired differences for a terminal."""
    lines = [text_table(ranker_table(metrics)), "", text_table(ranker_table(metrics, MORE_COLUMNS))]
    titles: set[str] = set()
    for title, *cells in differences(metrics):
        if title not in titles:
            heading = f"{_first(metrics)} less {title}, points"
            lines += ["", f"{heading:<40}{'':>8}{'95 % interval':>18}{'p':>10}{'p (Holm)':>10}"]
        titles.add(title)
        lines.append("  {:<38}{:>8}{:>18}{:>10}{:>10}".format(*cells))
    return "\n".join(lines)


def comparison_markdown(metrics: Mapping[str, Any]) -> str:
    """The tables and differences in Markdown."""
    headings = [f"{_first(metrics)} less", "", "points", "95 % interval", "p", "p (Holm)"]
    tables = [ranker_table(metrics), ranker_table(metrics, MORE_COLUMNS)]
    # A column without a heading: one space between its bars, as GitHub writes it
    last = markdown_table(plain_table(headings, differences(metrics)), left=2).replace("|  |", "| |", 1)
    return "\n\n".join([*map(markdown_table, tables), last])


def differences(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The paired differences for both, in percentage points: the other ranker's title, the metric's heading, the
    difference, its interval, p and the corrected p."""

    def points(value: float) -> str:
        return f"{100 * value:+.1f}"

    return [
        (
            title_of(row["b"]),
            heading_of(row["metric"]),
            points(row["difference"]),
            " to ".join(map(points, row["interval"])),
            p_text(row["p"]),
            p_text(row["p_holm"]),
        )
        for row in metrics["comparisons"]
    ]


def _first(metrics: Mapping[str, Any]) -> str:
    """The title of the ranker that the others are compared with."""
    return title_of(metrics["comparisons"][0]["a"])
