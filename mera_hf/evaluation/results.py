"""`metrics.json`: the one schema of every command that measures, and its tables for terminals and cards.

    {"dataset": {"name", "fingerprint", "split", "patients", "codes"},      and "split_sha256": see `split_hash`
     "protocol": {"target": "last", "candidates": "cohort", "history": "codes"},
     "rankers": {"mera": {"recall@20": 0.6, ...}, "copy_history": {...}, ...},
     "controls": {"shuffled_history": {"recall@20": 0.5, ...}},
     "run": {"recipe", "seed", "versions", "seconds", "peak_memory_mb"},
     "drops": {"shuffled_history": {"recall@20": [0.18, 0.21], ...}}     optional: bootstrap of mera less a control
     "findings": [{"signature", "says", "knob"}]                         optional: see `findings.py`
     "intervals": {"mera": {"recall@20": [0.59, 0.61], ...}},            optional: bootstrap over patients
     "comparisons": [{"a": "mera", "b": "gru", "metric": "recall@20",    optional: paired differences, a less b
                      "difference": 0.02, "interval": [0.01, 0.03],
                      "p": 0.001, "p_holm": 0.004}],
     "calibration": {"codes": {"ece", "brier", "bins"}, ...},            optional: see `calibration_section.py`
     "strata": {"sex": {"female": {"patients", "true_codes",             optional, as all that follow: see `strata.py`
                                   "rankers": {...}, "intervals": {"mera": {...}}},
                        "male": {"patients": "< 10"}}},                  too few to be measured
     "fairness": {"sex": {"recall@20": {"best", "worst", "gap", "interval",
                                        "held_out": {"best", "worst", "difference", "interval"}}}},
     "coarse": {"category": {"groups", "patients", "codes_without", "true_codes_without", "rankers": {...}}},
     "distance": {"mera": {"wrong_codes", "mean", "same_category", "same_block", "same_chapter", "other_chapter",
                           "eov": {...}}},
     "heart_failure": {"patients_with", "rankers": {"mera": {"auc", "f1"}}, "intervals": {...}} or {"skipped": reason}}

Metrics are fractions, not percent. A figure over several seeds is `{"mean", "std", "values"}`, std of the sample.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.evaluation.calibration_section import check_calibration


SECTIONS = {
    "dataset": ("name", "fingerprint", "split", "patients", "codes"),
    "protocol": ("target", "candidates", "history"),
    "rankers": (),
    "controls": (),
    "run": ("recipe", "seed", "versions", "seconds", "peak_memory_mb"),
}
# What metrics are broken down into; the modules of these names, or of nearly these names, say what is in them
BREAKDOWNS = ("strata", "fairness", "coarse", "distance", "heart_failure")
COUNTS = (
    *("patients", "true_codes", "groups", "codes_without", "true_codes_without", "wrong_codes", "patients_with"),
    "mean",  # steps in the tree
)
SIGNED = ("difference", "interval")
F1_METRICS = ("weighted_f1", "macro_f1", "micro_f1")
UNIT_METRICS = ("map", *F1_METRICS, *(f"{name}_eov" for name in F1_METRICS), "empty_set_share")
SIZE_METRICS = ("mean_set_size", "mean_true_size")
METRICS_AT_K = (
    *("recall", "repeated_recall", "new_recall", "occurred", "not_occurred"),
    *("precision", "accuracy", "ndcg"),
)

# The columns of the tables, with their headings; a column that no ranker has is left out.
COLUMNS = {
    "weighted_f1": "w-F1",
    "weighted_f1_eov": "w-F1 of set",
    "recall@10": "R@10",
    "recall@20": "R@20",
    "recall@40": "R@40",
    "repeated_recall@20": "repeated R@20",
    "new_recall@20": "new R@20",
    "mean_set_size": "set size",
}
# Those of a second table, for readers of other papers
MORE_COLUMNS = {
    "ndcg@20": "nDCG@20",
    "map": "MAP",
    "precision@10": "P@10",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "macro_f1_eov": "macro F1 of set",
    "micro_f1_eov": "micro F1 of set",
}
TITLES = {
    "mera": "MERA",
    "prevalence": "prevalence",
    "copy_history": "copy history",
    "ridge": "ridge",
    "logistic": "logistic",
    "gru": "GRU",
    "shuffled_history": "MERA, histories shuffled",
    "shuffled_profile": "MERA, profiles shuffled",
    "shuffled_hierarchy": "MERA, hierarchy shuffled",
    "random_rows": "MERA, random rows",
    "description_rows": "MERA, rows of descriptions",
    "encoder_rows": "MERA, rows of a sentence encoder",
    "shuffled_rows": "MERA, rows shuffled",
    "without_memorizing": "MERA, not memorized",
    "with_memorizing": "MERA, memorized first",
}


def spread(values: Sequence[float]) -> dict:
    """Several runs' values of one figure: `{"mean", "std", "values"}` with the standard deviation of the sample.

    Raises:
        [`~mera_hf.errors.InputError`]: with fewer than two values, where there is no spread.
    """
    values = [float(value) for value in values]
    if len(values) < 2:
        raise InputError(f"A spread needs the values of two runs or more, not {len(values)}.")
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}


def mean_of(value: float | dict) -> float:
    """The figure itself, or the mean of a spread."""
    return value["mean"] if isinstance(value, dict) else value


def build_metrics(dataset: dict, protocol: dict, rankers: dict, controls: dict, run: dict, **optional: dict) -> dict:
    """Put the sections together and check them: see the module's text for the schema.

    Raises:
        [`~mera_hf.errors.InputError`]: as [`validate_metrics`].
    """
    metrics = {"dataset": dataset, "protocol": protocol, "rankers": rankers, "controls": controls, "run": run}
    metrics |= optional
    validate_metrics(metrics)
    return metrics


def validate_metrics(metrics: dict, source: str = "metrics") -> None:
    """Check a `metrics.json` against the schema.

    Args:
        metrics (`dict`):
            The content.
        source (`str`):
            The file's name, for the message.

    Raises:
        [`~mera_hf.errors.InputError`]: naming the section and the value that is missing or wrong.
    """
    _require(isinstance(metrics, dict), f"{source}: expected an object with {', '.join(SECTIONS)}.")
    for section, keys in SECTIONS.items():
        _require(section in metrics, f"{source}: the section `{section}` is missing.")
        _require(isinstance(metrics[section], dict), f"{source}: `{section}` must be an object.")
        for key in keys:
            _require(key in metrics[section], f"{source}: `{section}.{key}` is missing; use null where it is unknown.")
    known = {"intervals", "drops", "findings", "comparisons", "calibration", *BREAKDOWNS}
    others = metrics.keys() - SECTIONS.keys() - known
    _require(not others, f"{source}: unknown section `{', '.join(sorted(others))}`.")
    _require(metrics["rankers"], f"{source}: `rankers` is empty.")
    for section in ("rankers", "controls"):
        for name, figures in metrics[section].items():
            for metric, value in figures.items():
                _check_figure(f"{source}: `{section}.{name}.{metric}`", metric, value)
    for name, figures in metrics.get("intervals", {}).items():
        _require(name in metrics["rankers"], f"{source}: `intervals.{name}` names no ranker.")
        for metric, pair in figures.items():
            place = f"{source}: `intervals.{name}.{metric}`"
            _require(isinstance(pair, list) and len(pair) == 2, f"{place} must be [low, high], not {pair!r}.")
            for value in pair:
                _check_number(place, metric, value)
            _require(pair[0] <= pair[1], f"{place} has its ends swapped: {pair!r}.")
    for section in BREAKDOWNS:
        _check_breakdown(f"{source}: `{section}`", section, metrics.get(section, {}), metrics["rankers"])
    for name in metrics.get("distance", {}):
        _require(name in metrics["rankers"], f"{source}: `distance.{name}` names no ranker.")
    for stratification, strata in metrics.get("strata", {}).items():
        for name, stratum in strata.items():
            place = f"{source}: `strata.{stratification}.{name}`"
            _require("patients" in stratum, f"{place} does not say how many `patients` it has.")
    for name, figures in metrics.get("drops", {}).items():
        _require(name in metrics["controls"], f"{source}: `drops.{name}` names no control.")
        for metric, pair in figures.items():
            right = isinstance(pair, list) and len(pair) == 2 and -1 <= pair[0] <= pair[1] <= 1
            _require(right, f"{source}: `drops.{name}.{metric}` must be [low, high], fractions, not {pair!r}.")
    for i, finding in enumerate(metrics.get("findings", [])):
        right = isinstance(finding, dict) and finding.keys() == {"signature", "says", "knob"}
        _require(right, f"{source}: `findings[{i}]` must have signature, says and knob.")
    _check_comparisons(metrics.get("comparisons", []), metrics["rankers"], source)
    if "calibration" in metrics:
        check_calibration(metrics["calibration"], source)


def write_metrics(metrics: dict, path: str | Path) -> None:
    """Check and write a `metrics.json`: to a temporary name first, so that a reader never sees half a file.

    Raises:
        [`~mera_hf.errors.InputError`]: as [`validate_metrics`].
    """
    validate_metrics(metrics, str(path))
    write_text(metrics_text(metrics), path)


def metrics_text(metrics: dict) -> str:
    """The text of a `metrics.json`."""
    return json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_metrics(path: str | Path) -> dict:
    """Read and check a `metrics.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: if it is missing, is no JSON, or does not fit the schema.
    """
    try:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}).") from error
    validate_metrics(metrics, str(path))
    return metrics


def merge_metrics(runs: Sequence[dict]) -> dict:
    """Runs of one recipe with several seeds as one: every figure becomes a spread, `run.seed` the list of seeds.

    Intervals stay out: they belong to one run's ranking. Of the breakdowns, what every run has is merged; a word or a list
    that differs between runs, such as the group that is served worst, is left out.

    Raises:
        [`~mera_hf.errors.InputError`]: with fewer than two runs, or if the runs differ in data, protocol, rankers,
            recipe or versions, or repeat a seed.
    """
    if len(runs) < 2:
        raise InputError(f"There is nothing to merge: {len(runs)} run, two or more are needed.")
    first = runs[0]
    for i, run in enumerate(runs):
        validate_metrics(run, f"run {i + 1}")
        for section, keys in (("dataset", None), ("protocol", None), ("run", ("recipe", "versions"))):
            for key in keys or first[section]:
                ours, theirs = first[section].get(key), run[section].get(key)
                _require(
                    ours == theirs,
                    f"Run {i + 1} differs from run 1 in `{section}.{key}`: {theirs!r} instead of {ours!r}. "
                    "Only runs on the same data, in the same way, may be merged.",
                )
    seeds = [run["run"]["seed"] for run in runs]
    _require(len(set(seeds)) == len(seeds), f"Two runs have the same seed: {seeds}.")
    merged = {"dataset": first["dataset"], "protocol": first["protocol"]}
    for section in ("rankers", "controls"):
        merged[section] = {}
        for i, run in enumerate(runs):
            _require(
                _shape(run[section]) == _shape(first[section]),
                f"Run {i + 1} does not have the same `{section}` and metrics as run 1.",
            )
        for name, figures in first[section].items():
            merged[section][name] = {
                metric: spread([run[section][name][metric] for run in runs]) for metric in figures
            }
    for section in BREAKDOWNS:
        if all(section in run for run in runs):
            merged[section] = merge_values([run[section] for run in runs])
    merged["run"] = {**first["run"], "seed": seeds}
    for key in ("seconds", "peak_memory_mb"):
        values = [run["run"][key] for run in runs]
        merged["run"][key] = None if None in values else spread(values)
    return merged


def merge_values(values: Sequence) -> object:
    """The same part of several runs as one: objects key by key and lists item by item, numbers to spreads.

    Words and whole numbers that are the same in all runs stay. What cannot be merged is left out, and so are intervals.

    Returns:
        the merged part, `None` if there is none.
    """
    first = values[0]
    if all(isinstance(value, dict) for value in values):
        keys = [key for key in first if all(key in value for value in values) and key not in ("interval", "intervals")]
        merged = {key: merge_values([value[key] for value in values]) for key in keys}
        return {key: value for key, value in merged.items() if value is not None}
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        merged = [merge_values(items) for items in zip(*values, strict=True)]
        return None if None in merged else merged
    if all(value == first for value in values) and not isinstance(first, float):
        return first
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return spread(values)
    return None


def format_figure(metric: str, value: float | dict | None) -> str:
    """A figure as tables show it: percent with one decimal (sizes in codes), a spread as `52.3 ± 0.2`."""
    if value is None:
        return "–"
    scale = 1 if metric in SIZE_METRICS else 100
    text = f"{scale * mean_of(value):.1f}"
    if isinstance(value, dict) and value["std"] > 0:
        text += f" ± {scale * value['std']:.1f}"
    return text


def table_rows(
    metrics: dict, headings: dict[str, str] = COLUMNS
) -> tuple[list[str], list[tuple[str, list[str], list[bool]]]]:
    """What every table shows: the columns' metrics, and per row its title, its texts and which of them are the best.

    The best of a column is sought among rankers; a control and the set size are never best. `headings` maps the metrics
    that are wanted to the columns' headings; one that no ranker has is left out.
    """
    rankers, controls = metrics["rankers"], metrics["controls"]
    columns = [column for column in headings if any(column in figures for figures in rankers.values())]
    best = {
        column: max(mean_of(figures[column]) for figures in rankers.values() if column in figures)
        for column in columns
        if column not in SIZE_METRICS
    }
    rows = []
    for name, figures in [*rankers.items(), *controls.items()]:
        texts = [format_figure(column, figures.get(column)) for column in columns]
        marks = [
            name in rankers and column in best and column in figures and mean_of(figures[column]) == best[column]
            for column in columns
        ]
        rows.append((TITLES.get(name, name), texts, marks))
    return columns, rows


def table_text(metrics: dict, headings: dict[str, str] = COLUMNS) -> str:
    """The table for a terminal: percent, the best ranker of each column marked `*`, the controls under a line."""
    columns, rows = table_rows(metrics, headings)
    header = ["percent", *(headings[column] for column in columns)]
    cells = [
        [title, *(text + ("*" if mark else " ") for text, mark in zip(texts, marks, strict=True))]
        for title, texts, marks in rows
    ]
    widths = [max(len(row[i].rstrip()) for row in [header, *cells]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        first, rest = (
            row[0].ljust(widths[0]),
            (cell.rjust(width + 1) for cell, width in zip(row[1:], widths[1:], strict=True)),
        )
        return "  ".join([first, *rest]).rstrip()

    rule = "─" * len(line([header[0], *(text + " " for text in header[1:])]))
    ranked = len(metrics["rankers"])
    lines = [line([header[0], *(text + " " for text in header[1:])]), rule, *map(line, cells[:ranked])]
    if cells[ranked:]:
        lines += [rule, *map(line, cells[ranked:])]
    return "\n".join(lines)


def table_markdown(metrics: dict, headings: dict[str, str] = COLUMNS) -> str:
    """The same table in Markdown, for READMEs and cards: the best of each column in bold, controls in italics."""
    columns, rows = table_rows(metrics, headings)
    lines = [
        "| percent | " + " | ".join(headings[column] for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for i, (title, texts, marks) in enumerate(rows):
        title = title if i < len(metrics["rankers"]) else f"*{title}*"
        cells = [f"**{text}**" if mark else text for text, mark in zip(texts, marks, strict=True)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_text(text: str, path: str | Path) -> None:
    """Write a file under a temporary name beside it, then rename: it is there whole or not at all."""
    path = Path(path)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False, suffix=".tmp") as file:
        try:
            file.write(text)
            file.flush()
            os.chmod(file.name, 0o644)  # a temporary file is private; what it becomes is for the group to read
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InputError(message)


def _shape(section: dict) -> dict:
    return {name: set(figures) for name, figures in section.items()}


def _check_figure(place: str, metric: str, value: object) -> None:
    known = metric in UNIT_METRICS + SIZE_METRICS or re.fullmatch(rf"({'|'.join(METRICS_AT_K)})@[1-9]\d*", metric)
    _require(known, f"{place} is not a metric of this schema.")
    _check_value(place, metric, value)


def _check_value(place: str, metric: str, value: object) -> None:
    if not isinstance(value, dict):
        _check_number(place, metric, value)
        return
    _require(value.keys() == {"mean", "std", "values"}, f"{place} must have mean, std and values: {sorted(value)}.")
    _require(len(value["values"]) >= 2, f"{place} spreads over fewer than two runs.")
    for number in value["values"]:
        _check_number(place, metric, number)
    expected = spread(value["values"])
    for key in ("mean", "std"):
        _require(
            math.isclose(value[key], expected[key], rel_tol=1e-6, abs_tol=1e-9),
            f"{place}.{key} is {value[key]}, but its values give {expected[key]}.",
        )


def _check_breakdown(place: str, key: str, value: object, rankers: dict) -> None:
    """Every number of a breakdown, down to its last object: finite, a fraction unless it is a count, of a known ranker."""
    if isinstance(value, dict) and "values" not in value:
        for name, inner in value.items():
            _require(key not in ("rankers", "intervals") or name in rankers, f"{place} names no ranker: {name!r}.")
            _check_breakdown(f"{place[:-1]}.{name}`", name, inner, rankers)
    elif isinstance(value, list):
        _require(len(value) == 2, f"{place} must be [low, high], not {value!r}.")
        for end in value:
            _check_number(place, key, end)
        _require(value[0] <= value[1], f"{place} has its ends swapped: {value!r}.")
    elif not isinstance(value, str):
        _check_value(place, key, value)


def _check_comparisons(comparisons: object, rankers: dict, source: str) -> None:
    _require(isinstance(comparisons, list), f"{source}: `comparisons` must be a list.")
    for i, row in enumerate(comparisons):
        place = f"{source}: `comparisons[{i}]`"
        keys = ("a", "b", "metric", "difference", "interval", "p", "p_holm")
        _require(isinstance(row, dict) and row.keys() == set(keys), f"{place} must have {', '.join(keys)}.")
        for side in ("a", "b"):
            known = row[side] in rankers and row["metric"] in rankers[row[side]]
            _require(known, f"{place} names no ranker with {row['metric']}: {row[side]!r}.")
        for p in (row["p"], row["p_holm"]):
            _check_number(f"{place}, its p-value", "p", p)
        low, high = row["interval"]
        for value in (row["difference"], low, high):
            _check_number(f"{place}, its difference", row["metric"], abs(value))
        _require(low <= high, f"{place} has its ends swapped: {row['interval']!r}.")


def _check_number(place: str, metric: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _require(number, f"{place} must be a finite number, not {value!r}.")
    _require(value >= (-1 if metric in SIGNED else 0), f"{place} is negative: {value}.")
    if metric not in SIZE_METRICS + COUNTS:
        _require(value <= 1 + 1e-9, f"{place} is {value}: fractions are expected, not percent.")
