"""Tables of the report: texts ready to show, made from figures of `metrics.json` and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mera_hf.evaluation.plots import title_of
from mera_hf.evaluation.results import COLUMNS, MORE_COLUMNS, SIZE_METRICS, format_figure, mean_of


PATTERNS = {
    "recall": "R",
    "precision": "P",
    "accuracy": "acc",
    "ndcg": "nDCG",
    "repeated_recall": "repeated R",
    "new_recall": "new R",
    "occurred": "occurred",
    "not_occurred": "not occurred",
}


class Row(NamedTuple):
    """A row: its title, its texts, which of them are the best, and its kind, which the style sheet knows.

    Kinds are `mera`, `control`, and `group` for a row that only names the rows below it.
    """

    title: str
    texts: Sequence[str] = ()
    best: Sequence[bool] = ()
    kind: str = ""


class Table(NamedTuple):
    """A table: what it shows in a line, the headings from the first column on, and the rows."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Row]


def heading_of(metric: str) -> str:
    """A metric's short name as tables show it."""
    known = COLUMNS | MORE_COLUMNS
    if metric in known:
        return known[metric]
    name, _, k = metric.partition("@")
    return f"{PATTERNS.get(name, name)}@{k}" if k else metric.replace("_", " ")


def columns_of(rankers: Iterable[Mapping], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted metrics that at least one ranker has."""
    rankers = list(rankers)
    return [metric for metric in wanted if any(metric in figures for figures in rankers)]


def ranker_rows(rankers: Mapping[str, Mapping], columns: Sequence[str]) -> list[Row]:
    """A row a ranker; the highest figure of a column is its best, where more is better."""
    best = {}
    for column in columns:
        values = [mean_of(figures[column]) for figures in rankers.values() if column in figures]
        if len(values) > 1 and column not in SIZE_METRICS:
            best[column] = max(values)
    return [
        Row(
            title_of(name),
            [format_figure(column, figures.get(column)) for column in columns],
            [column in best and column in figures and mean_of(figures[column]) == best[column] for column in columns],
            "mera" if name == "mera" else "",
        )
        for name, figures in rankers.items()
    ]


def with_interval(metric: str, value: float | dict | None, interval: Sequence[float] | None) -> str:
    """A figure and its interval, as `65.0 (64.0–66.0)`."""
    text = format_figure(metric, value)
    if not interval:
        return text
    low, high = (format_figure(metric, end) for end in interval)
    return f"{text} ({low}–{high})"


def count_text(count: int | str | dict | None) -> str:
    """A number of patients or codes, or its mean over seeds; small ones come as `< 10`."""
    if count is None or isinstance(count, str):
        return count or "–"
    return f"{mean_of(count):,.0f}"


def plain_name(key: str) -> str:
    """A key of `metrics.json` as words; codes and ranges stay as they are."""
    key = re.sub(r"^ICD(9|10)CM:", "", key)
    return key.replace("_", " ") if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", key) else key
