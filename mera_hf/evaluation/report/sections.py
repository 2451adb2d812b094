"""The sections of the report: from `metrics.json` to texts and tables, `None` where the data is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mera_hf.evaluation.controls import CONTROLS, control_sentences
from mera_hf.evaluation.plots import title_of
from mera_hf.evaluation.plots.differences import signed_points
from mera_hf.evaluation.report.table import (
    Row,
    Table,
    columns_of,
    count_text,
    heading_of,
    plain_name,
    ranker_rows,
    with_interval,
)
from mera_hf.evaluation.report.words import MEANINGS, rivals_sentence, tied
from mera_hf.evaluation.results import COLUMNS, MORE_COLUMNS, SIZE_METRICS, format_figure, mean_of, table_rows


COARSE = {
    "category": "Three-digit category",
    "ccs": "CCS group",
    "ccsr": "CCSR group",
    "block": "Block",
    "chapter": "Chapter",
}


def rankers_section(metrics: Mapping) -> dict:
    """The table of all rankers, the one with more measures, and what their columns mean."""
    columns, rows = table_rows(metrics)
    kinds = [
        *("mera" if name == "mera" else "" for name in metrics["rankers"]),
        *["control"] * len(metrics["controls"]),
    ]
    table = Table(
        "All rankers on the same patients, percent",
        ["ranker", *(COLUMNS[column] for column in columns)],
        [Row(*row, kind) for row, kind in zip(rows, kinds, strict=True)],
    )
    more = columns_of(metrics["rankers"].values(), MORE_COLUMNS)
    return {
        "table": table,
        "rivals": rivals_sentence(metrics) if "mera" in metrics["rankers"] else None,
        "meanings": [(heading_of(column), MEANINGS[column]) for column in (*columns, *more) if column in MEANINGS],
        "more": Table(
            "More measures of the same rankings, percent",
            ["ranker", *map(heading_of, more)],
            ranker_rows(metrics["rankers"], more),
        )
        if more
        else None,
    }


def quality_section(metrics: Mapping) -> dict:
    """What the lines through the dots of the plot are."""
    spreads = (isinstance(value, dict) for figures in metrics["rankers"].values() for value in figures.values())
    return {"intervals": bool(metrics.get("intervals")), "seeds": any(spreads)}


def intervals_section(metrics: Mapping) -> dict | None:
    """Bootstrap intervals: a row a ranker, a column a measure; `more` for the measures of the second table."""
    intervals = {name: pairs for name, pairs in metrics.get("intervals", {}).items() if pairs}

    def table(wanted: Mapping[str, str], caption: str) -> Table | None:
        columns = [column for column in columns_of(intervals.values(), wanted) if column not in SIZE_METRICS]
        rows = [
            Row(
                title_of(name),
                [with_interval(c, metrics["rankers"][name].get(c), pairs.get(c)) for c in columns],
                kind="mera" * (name == "mera"),
            )
            for name, pairs in intervals.items()
        ]
        return Table(caption, ["ranker", *map(heading_of, columns)], rows) if columns else None

    later = {"recall@40": COLUMNS["recall@40"]}  # with it the first table is wider than a laptop's page
    main = table(
        {column: heading for column, heading in COLUMNS.items() if column not in later},
        "Figures and 95 % intervals from drawing the patients anew (bootstrap), percent",
    )
    return (
        {"table": main, "more": table(later | MORE_COLUMNS, "Intervals of more measures, percent")} if main else None
    )


def coarse_section(metrics: Mapping) -> dict | None:
    """Rankings of groups of codes instead of codes."""
    coarse = {name: entry for name, entry in metrics.get("coarse", {}).items() if entry.get("rankers")}
    rankers = [figures for entry in coarse.values() for figures in entry["rankers"].values()]
    columns = list(dict.fromkeys(metric for figures in rankers for metric in figures))
    if not columns:
        return None
    rows = []
    for name, entry in coarse.items():
        title = COARSE.get(name, plain_name(name))
        if entry.get("groups") is not None:
            title += f", {entry['groups']:,} groups"
        if entry.get("true_codes_without"):
            title += f"; {entry['true_codes_without']:,} true codes without a group left out"
        rows.append(Row(title, kind="group"))
        rows += ranker_rows(entry["rankers"], columns)
    caption = "Rankings of groups of codes, by the summed probabilities of their codes, percent"
    return {"table": Table(caption, ["ranker", *map(heading_of, columns)], rows)}


def distance_section(metrics: Mapping) -> dict | None:
    """How far wrong codes are from the true ones in the tree: of sets as long as the true ones, and of own sets."""
    distance = metrics.get("distance", {})
    own_sets = {name: entry["eov"] for name, entry in distance.items() if entry.get("eov")}
    shares = columns_of(distance.values(), ("same_category", "same_block", "same_chapter", "other_chapter"))
    if not shares:
        return None
    rows = []
    for title, entries in (("As many codes as are true", distance), ("The set that the ranker chose", own_sets)):
        if own_sets:
            rows.append(Row(title, kind="group"))
        rows += [
            Row(
                title_of(name),
                [
                    count_text(entry.get("wrong_codes")),
                    "–" if entry.get("mean") is None else f"{mean_of(entry['mean']):.2f}",
                    *(format_figure(share, entry.get(share)) for share in shares),
                ],
                kind="mera" if name == "mera" else "",
            )
            for name, entry in entries.items()
        ]
    headings = ["ranker", "wrong codes", "mean steps", *map(plain_name, shares)]
    return {"table": Table("Wrong codes by what they share with a true code, percent of them", headings, rows)}


def heart_failure_section(metrics: Mapping) -> dict | None:
    """The field's second task."""
    heart = metrics.get("heart_failure", {})
    if "skipped" in heart:
        return {"skipped": heart["skipped"]}
    rankers = {name: figures for name, figures in heart.get("rankers", {}).items() if figures}
    columns = columns_of(rankers.values(), ("auc", "f1"))
    if not columns:
        return None
    rows = ranker_rows(rankers, columns)
    intervals = heart.get("intervals", {})
    for i, name in enumerate(rankers):
        texts = [with_interval(c, rankers[name].get(c), intervals.get(name, {}).get(c)) for c in columns]
        rows[i] = rows[i]._replace(texts=texts)
    headings = ["ranker", *({"auc": "AUC", "f1": "F1"}[column] for column in columns)]
    return {
        "patients_with": heart.get("patients_with"),
        "table": Table("Heart failure at the next visit, percent", headings, rows),
    }


def controls_section(metrics: Mapping) -> dict | None:
    """Each control beside MERA, with what it would mean if it did as well."""
    controls = metrics["controls"]
    if not controls or "mera" not in metrics["rankers"]:
        return None
    rankers = {"mera": metrics["rankers"]["mera"]} | controls
    columns = columns_of(
        rankers.values(), ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "new_recall@20")
    )
    rows = [
        Row(title_of(name), [format_figure(c, figures.get(c)) for c in columns], kind="mera" * (name == "mera"))
        for name, figures in rankers.items()
    ]
    return {
        "sentences": [tied(sentence) for sentence in control_sentences(metrics)],
        "table": Table("MERA and its controls, percent", ["run", *map(heading_of, columns)], rows),
        "meanings": [(title_of(name), CONTROLS[name].meaning) for name in controls if name in CONTROLS],
    }


def comparisons_section(metrics: Mapping) -> dict | None:
    """Paired differences between two rankers on the same patients."""
    comparisons = [entry for entry in metrics.get("comparisons", ()) if entry.get("difference") is not None]
    if not comparisons:
        return None
    corrected = any("p_holm" in entry for entry in comparisons)
    rows = []
    for a, b in dict.fromkeys((entry["a"], entry["b"]) for entry in comparisons):
        rows.append(Row(f"{title_of(a)} minus {title_of(b)}", kind="group"))
        rows += [
            Row(
                heading_of(entry["metric"]),
                [
                    signed_points(mean_of(entry["difference"])),
                    "–" if not entry.get("interval") else "{} to {}".format(*map(signed_points, entry["interval"])),
                    p_text(entry.get("p")),
                    *([p_text(entry.get("p_holm"))] if corrected else []),
                ],
            )
            for entry in comparisons
            if (entry["a"], entry["b"]) == (a, b)
        ]
    headings = ["measure", "difference", "95 % interval", "p", *(["p, corrected (Holm)"] if corrected else [])]
    return {
        "table": Table("Paired differences on the same patients, points of percent", headings, rows),
        "metrics": list(dict.fromkeys(entry["metric"] for entry in comparisons)),
    }


def p_text(p: float | None) -> str:
    """A p-value as papers print it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def set_sizes_section(sets: Mapping | None) -> dict | None:
    """How the predicted sets' sizes compare with the true ones, in figures ready to show."""
    if not sets:
        return None
    import numpy as np

    predicted, true = np.asarray(sets["predicted"]), np.asarray(sets["true"])
    return {
        "predicted": f"{predicted.mean():.1f}",
        "true": f"{true.mean():.1f}",
        "empty": f"{100 * (predicted == 0).mean():.1f}",
        "larger": f"{100 * (predicted > true).mean():.0f}",
        "smaller": f"{100 * (predicted < true).mean():.0f}",
    }


def run_section(metrics: Mapping) -> Sequence[tuple[str, str]]:
    """How it was run: names and values."""
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
