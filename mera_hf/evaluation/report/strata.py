"""The sections on groups of patients and codes: strata, and the gaps between groups of patients."""

from __future__ import annotations

from collections.abc import Mapping

from mera_hf.evaluation.plots import title_of
from mera_hf.evaluation.plots.differences import signed_points
from mera_hf.evaluation.report.table import Row, Table, count_text, heading_of, plain_name, with_interval
from mera_hf.evaluation.results import COLUMNS, MORE_COLUMNS, format_figure, mean_of


# Headings, and what a stratum holds, in words for readers who do not know the field.
STRATIFICATIONS = {
    "training_frequency": ("How often the code was seen in training", "True codes by their number in training."),
    "repeated_last_visit": (
        "Repeated from the last visit, or new",
        "True codes by whether the visit before the target already had them.",
    ),
    "repeated_history": ("Repeated from any visit, or new", "True codes by whether any earlier visit had them."),
    "chapter": ("ICD chapter", "True codes by their chapter of the ICD."),
    "earlier_visits": ("Earlier visits", "Patients by how many visits came before the target."),
    "age": ("Age", "Patients by age group."),
    "sex": ("Sex", "Patients by recorded sex."),
    "race": ("Race", "Patients by recorded race, where it is known."),
    "visit_size": ("Size of the target visit", "Patients by how many codes the target visit has."),
}


def has_figures(strata: Mapping[str, Mapping]) -> bool:
    """Whether MERA was measured in at least one stratum."""
    return any(entry.get("rankers", {}).get("mera") for entry in strata.values())


def main_metric(strata: Mapping[str, Mapping]) -> str:
    """The metric that a stratification's plot shows: recall@20, or the first that MERA has."""
    metrics = [metric for entry in strata.values() for metric in entry.get("rankers", {}).get("mera", {})]
    return "recall@20" if "recall@20" in metrics else metrics[0]


def shown_rankers(metrics: Mapping) -> list[str]:
    """The rankers of the plots: MERA, copying, and the best of the other references by recall@20 over all patients."""
    others = {
        name: mean_of(figures["recall@20"])
        for name, figures in metrics["rankers"].items()
        if name not in ("mera", "copy_history")
    }
    best = [max(others, key=others.get)] if others else []
    return ["mera", *(["copy_history"] if "copy_history" in metrics["rankers"] else []), *best]


def strata_section(metrics: Mapping) -> list[dict] | None:
    """Per stratification its name, heading, meaning and tables; the plot `strata_<name>` belongs to it.

    `rows` is how many rows of the page's grid it takes: one for every seven strata.
    """
    return [
        {
            "name": name,
            "heading": STRATIFICATIONS.get(name, (plain_name(name).capitalize(), ""))[0],
            "meaning": STRATIFICATIONS.get(name, ("", ""))[1],
            "tables": _strata_tables(strata, list(metrics["rankers"])),
            "rows": -(-len(strata) // 7),
        }
        for name, strata in metrics.get("strata", {}).items()
        if has_figures(strata)
    ] or None


def _strata_tables(strata: Mapping[str, Mapping], rankers: list[str]) -> list[Table]:
    metric = main_metric(strata)
    names = [name for name in rankers if any(metric in _figures(entry, name) for entry in strata.values())]
    counts = [key for key in ("patients", "true_codes") if any(key in entry for entry in strata.values())]
    rows = []
    for stratum, entry in strata.items():
        numbers = [count_text(entry.get(key)) for key in counts]
        if not _figures(entry, "mera"):
            rows.append(Row(plain_name(stratum), [*numbers, "too few", *["–"] * (len(names) - 1)]))
            continue
        values = [_figures(entry, name).get(metric) for name in names]
        best = max(mean_of(value) for value in values if value is not None)
        texts = [with_interval(metric, values[0], _interval(entry, metric))]
        texts += [format_figure(metric, value) for value in values[1:]]
        marks = [len(names) > 1 and value is not None and mean_of(value) == best for value in values]
        rows.append(Row(plain_name(stratum), [*numbers, *texts], [False] * len(counts) + marks))
    headings = ["stratum", *(key.replace("_", " ") for key in counts), *map(title_of, names)]
    interval_note = (
        ", MERA with its 95 % interval" if any(_interval(entry, metric) for entry in strata.values()) else ""
    )
    tables = [Table(f"{heading_of(metric)} in percent{interval_note}", headings, rows)]
    others = [
        other
        for other in {**COLUMNS, **MORE_COLUMNS}
        if other != metric and any(other in _figures(entry, "mera") for entry in strata.values())
    ]
    if others:
        rows = [
            Row(plain_name(stratum), [format_figure(other, _figures(entry, "mera").get(other)) for other in others])
            for stratum, entry in strata.items()
        ]
        tables.append(Table("MERA in other measures, percent", ["stratum", *map(heading_of, others)], rows))
    return tables


def _figures(entry: Mapping, ranker: str) -> Mapping:
    return entry.get("rankers", {}).get(ranker, {})


def _interval(entry: Mapping, metric: str) -> list[float] | None:
    return entry.get("intervals", {}).get("mera", {}).get(metric)


def fairness_section(metrics: Mapping) -> dict | None:
    """A row per kind of group and metric: who is served best and worst, and the gap between them."""
    every_gap = [gap for gaps in metrics.get("fairness", {}).values() for gap in gaps.values()]
    halves, intervals = (any(part in gap for gap in every_gap) for part in ("held_out", "interval"))
    rows = [
        Row(
            f"{STRATIFICATIONS.get(kind, (plain_name(kind),))[0]}, {heading_of(metric)}",
            [
                *_gap_texts(metric, gap, "gap"),
                *(_gap_texts(metric, gap.get("held_out"), "difference") if halves else ()),
            ],
        )
        for kind, gaps in metrics.get("fairness", {}).items()
        for metric, gap in gaps.items()
        if gap.get("gap") is not None
    ]
    headings = ["groups, measure", "best and worst", f"gap{' (95 % interval)' * intervals}"]
    headings += ["named on one half", "gap on the other half"] if halves else []
    caption = "Largest gaps between groups of patients, MERA, points of percent"
    return {"table": Table(caption, headings, rows), "halves": halves} if rows else None


def _gap_texts(metric: str, gap: Mapping | None, key: str) -> list[str]:
    if gap is None or gap.get(key) is None:
        return ["–", "–"]
    pair = f"{plain_name(str(gap.get('best', '–')))}, {plain_name(str(gap.get('worst', '–')))}"
    low_high = gap.get("interval")
    text = signed_points(mean_of(gap[key])) if key == "difference" else format_figure(metric, gap[key])
    if low_high:
        text += " ({} to {})".format(*map(signed_points, low_high))
    return [pair, text]
