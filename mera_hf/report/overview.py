"""The sections of a page that every page has: the rankers, how sure their figures are, how it was run, and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mera_hf.blocks import Block, Bullets, Details, Facts, Grid, Paragraph, Plot, Row, Section, Table, Terms
from mera_hf.evaluation import plots
from mera_hf.evaluation.figures import (
    COLUMNS,
    METRICS,
    MORE_COLUMNS,
    SIZE_METRICS,
    columns_of,
    heading_of,
    mean_of,
    ranker_rows,
    ranker_table,
    title_of,
    with_interval,
)


LIMITS = (
    "Not for clinical decisions: a research result on past records, without any clinical validation.",
    "Recorded codes are what was billed or documented, which is not the same as what a patient had.",
    "The figures hold for this data set, this split and these candidate codes, not for another hospital.",
    "A code that copying already finds (R@20, repeated) is little news to a clinician; the new part is harder.",
)


def rankers(report: Mapping[str, Any]) -> Section:
    """The table of all rankers, the table of more metrics, and what their columns mean."""
    metrics = report["metrics"]
    marks = "* best ranker of the column."
    marks += " Rows in italics are controls, not rankers." if metrics["controls"] else ""
    more = more_measures(metrics)
    rivals = [Paragraph(rivals_sentence(metrics))] if "mera" in metrics["rankers"] else []
    blocks: list[Block] = [
        ranker_table(metrics, caption="All rankers on the same patients, percent", corner="ranker"),
        *rivals,
        Paragraph(f"{marks} Set size is in codes.", "muted"),
        *([Details("More measures", [more])] if more else []),
        Terms(meanings(metrics), "What the columns mean"),
    ]
    return Section("rankers", "All rankers", "All rankers, measured alike", blocks)


def more_measures(metrics: Mapping[str, Any]) -> Table | None:
    """The table for readers of other papers."""
    more = columns_of(metrics["rankers"].values(), MORE_COLUMNS)
    rows = ranker_rows(metrics["rankers"], more)
    caption = "More measures of the same rankings, percent"
    return Table(caption, ["ranker", *map(heading_of, more)], rows) if more else None


def meanings(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the columns of both tables mean."""
    columns = columns_of(metrics["rankers"].values(), [*COLUMNS, *MORE_COLUMNS])
    found = ((METRICS[column].heading, METRICS[column].meaning) for column in columns)
    return [(heading, meaning) for heading, meaning in found if meaning]


def rivals_sentence(metrics: Mapping[str, Any]) -> str:
    """Which reference rankers are ahead of MERA, and in what."""
    rankers = metrics["rankers"]
    ahead: dict[str, list[str]] = {}
    for column, heading in COLUMNS.items():
        values = {name: mean_of(figures[column]) for name, figures in rankers.items() if column in figures}
        if column in SIZE_METRICS or "mera" not in values:
            continue
        best = max(values, key=lambda name: values[name])
        if values[best] > values["mera"]:
            ahead.setdefault(title_of(best), []).append(heading)
    if not ahead:
        return "No reference ranker is ahead of MERA in any column."
    return "Ahead of MERA: " + "; ".join(f"{title} in {', '.join(columns)}" for title, columns in ahead.items()) + "."


def quality(report: Mapping[str, Any]) -> Section:
    """The plots of recall at every k and of the table."""
    metrics, curves = report["metrics"], report.get("curves")
    text = "The table as dots; each panel has its own scale, and the best figure is bold."
    if metrics.get("intervals"):
        text += " A thin line through a dot is the 95 % interval over patients."
    if any(isinstance(value, dict) for figures in metrics["rankers"].values() for value in figures.values()):
        text += " A thick bar is the standard deviation over seeds."
    alternative = f"Dot plots of the table above, one panel per measure, for {len(metrics['rankers'])} rankers."
    shown = [Plot("quality", plots.quality_plot(metrics), alternative, text)]
    if curves:
        kmax = len(next(iter(curves.values())))
        ends = ", ".join(f"{title_of(name)} {100 * curve[-1]:.1f} %" for name, curve in curves.items())
        told = f"Line plot of recall at k for k from 1 to {kmax}. At k = {kmax}: {ends}."
        text = "How many of a patient's true codes stand among the first k of the ranking, for every k."
        shown.insert(0, Plot("recall", plots.recall_plot(curves), told, text))
    return Section("quality", "Ranking quality", "Ranking quality", [Grid(shown)])


def intervals(report: Mapping[str, Any]) -> Section | None:
    """Bootstrap intervals, where they were measured."""
    metrics = report["metrics"]
    main, more = interval_tables(metrics)
    if main is None:
        return None
    lead = (
        f"The intervals say how much a figure owes to which patients are in the {metrics['dataset']['split']} split. "
        "They do not say how much it owes to the seed of the training."
    )
    folded = [Details("More measures", [more])] if more else []
    return Section("intervals", "How sure", "How sure these figures are", [Paragraph(lead), main, *folded])


def interval_tables(metrics: Mapping[str, Any]) -> tuple[Table | None, Table | None]:
    """Bootstrap intervals, one row per ranker and one column per metric: main metrics and the others."""
    measured = {name: pairs for name, pairs in metrics.get("intervals", {}).items() if pairs}

    def table(wanted: Sequence[str], caption: str) -> Table | None:
        columns = [column for column in columns_of(measured.values(), wanted) if column not in SIZE_METRICS]
        rows = [
            Row(
                title_of(name),
                [with_interval(c, metrics["rankers"][name].get(c), pairs.get(c)) for c in columns],
                kind="mera" * (name == "mera"),
            )
            for name, pairs in measured.items()
        ]
        return Table(caption, ["ranker", *map(heading_of, columns)], rows) if columns else None

    later = "recall@40"  # with it the first table would be wider than a laptop's page
    main = table(
        [column for column in COLUMNS if column != later],
        "Figures and 95 % intervals from drawing the patients anew (bootstrap), percent",
    )
    return main, table([later, *MORE_COLUMNS], "Intervals of more measures, percent") if main else None


def set_sizes(report: Mapping[str, Any]) -> Section | None:
    """How the predicted sets' sizes compare with the true ones."""
    sets = report.get("sets")
    if not sets:
        return None
    import numpy as np

    predicted, true = np.asarray(sets["predicted"]), np.asarray(sets["true"])
    empty, larger, smaller = (100 * share.mean() for share in (predicted == 0, predicted > true, predicted < true))
    lead = (
        "EOV, the end-of-visit token, takes a place in the ranking, and the codes above it are the predicted set: "
        f"{predicted.mean():.1f} codes a patient, where {true.mean():.1f} were true. {larger:.0f} % of the sets are "
        f"larger than the true one, {smaller:.0f} % smaller, and {empty:.1f} % are empty."
    )
    plot = Plot(
        "set_sizes",
        plots.set_size_plot(sets["predicted"], sets["true"]),
        f"Histogram and heat map of set sizes: {predicted.mean():.1f} codes above EOV on average against "
        f"{true.mean():.1f} true codes; {larger:.0f} % of the sets are larger than the true ones, {smaller:.0f} % smaller.",
        "Above, both sizes on their own; below, one against the other: the darker a cell, the more patients of its row.",
    )
    return Section("set_sizes", "Size of the sets", "How many codes MERA names", [Paragraph(lead), plot])


def run(report: Mapping[str, Any]) -> Section:
    """How it was run."""
    facts = Facts("Data, recipe and machine", run_facts(report["metrics"]))
    return Section("run", "How it was run", "How it was run", [facts])


def run_facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Data, protocol, recipe and machine: names and values."""
    dataset, protocol, run = metrics["dataset"], metrics["protocol"], metrics["run"]

    def text(value: object, unit: str = "") -> str:
        if value is None:
            return "not recorded"
        if isinstance(value, dict):
            return f"{value['mean']:,.0f} ± {value['std']:,.0f}{unit}"
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return f"{value:,.0f}{unit}" if isinstance(value, int | float) and unit else f"{value}"

    versions = run["versions"] or {}
    return [
        ("Data", f"{dataset['name']}, {dataset['split']} split, fingerprint {dataset['fingerprint']}"),
        ("Patients, candidate codes", f"{dataset['patients']:,} patients, {dataset['codes']:,} codes"),
        ("Protocol", "; ".join(f"{key}: {value}" for key, value in protocol.items())),
        ("Recipe", text(run["recipe"])),
        ("Seeds" if isinstance(run["seed"], list) else "Seed", text(run["seed"])),
        ("Time", text(run["seconds"], " s")),
        ("Peak memory", text(run["peak_memory_mb"], " MB")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"),
    ]


def limits(report: Mapping[str, Any]) -> Section:
    """What the figures do not say."""
    return Section("limits", "Limits", "Limits", [Bullets(LIMITS)])
