"""`metrics.json`: the one schema of every command that measures.

Metrics are fractions, not percent. A figure over several seeds is a [`Spread`]. Everything measured beyond the table
of rankers is in the sections, see `mera_hf.evaluation.sections`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast, get_type_hints, is_typeddict

from mera_hf.errors import InputError
from mera_hf.evaluation.figures import SIZE_METRICS, Figures, Spread, is_metric, spread
from mera_hf.evaluation.sections import COUNTS, SECTIONS, Sections, name_of
from mera_hf.evaluation.sections.calibration import check_calibration
from mera_hf.files import json_text, write_text


class Dataset(TypedDict):
    """The patients behind the figures."""

    name: str  # the source
    fingerprint: str  # of the rows, see `prepare`
    split: str
    split_sha256: str  # see `split_hash`; not in figures of older versions
    patients: int
    codes: int  # candidates


class Protocol(TypedDict):
    """The task set to the rankers."""

    target: str  # "last": the last visit of each patient
    candidates: str  # "cohort": all codes of the dataset
    history: str  # what was read


class RunRecord(TypedDict):
    """How the figures were made; `None` where unknown."""

    recipe: str | None
    seed: int | list[int]
    versions: dict[str, str] | None
    seconds: float | Spread | None
    peak_memory_mb: float | Spread | None


class PairedDifference(TypedDict):
    """A paired difference, `a` minus `b`, on the same patients."""

    a: str
    b: str
    metric: str
    difference: float
    interval: list[float]  # [low, high], 95 %, bootstrap over patients
    p: float  # two-sided, by permutation
    p_holm: float  # corrected for the number of metrics


class _Required(TypedDict):
    dataset: Dataset
    protocol: Protocol
    rankers: dict[str, Figures]  # "mera" and the reference rankers
    controls: dict[str, Figures]  # "shuffled_history" and so on
    run: RunRecord


class _Optional(TypedDict, total=False):
    intervals: dict[str, dict[str, list[float]]]  # ranker to metric to [low, high], 95 %, bootstrap over patients
    comparisons: list[PairedDifference]


class Metrics(_Required, _Optional, Sections):
    """The content of a `metrics.json`."""


KEYS = (*_Required.__annotations__, *_Optional.__annotations__, *Sections.__annotations__)  # in the order of the file
SIGNED = ("difference", "interval", "correlation")


def build_metrics(**parts: Any) -> Metrics:
    """Put the parts of a [`Metrics`] together, in the order of the file, and check them.

    Raises:
        [`~mera_hf.errors.InputError`]: as [`validate_metrics`].
    """
    metrics = {key: parts[key] for key in [*KEYS, *parts] if key in parts}
    validate_metrics(metrics)
    return cast(Metrics, metrics)


def validate_metrics(metrics: Mapping[str, Any], source: str = "metrics") -> None:
    """Check a `metrics.json` against the schema.

    Args:
        metrics (`dict`):
            The content.
        source (`str`):
            The file's name, for the message.

    Raises:
        [`~mera_hf.errors.InputError`]: names the section and the value that is missing or wrong.
    """
    _require(isinstance(metrics, dict), f"{source}: expected an object with {', '.join(_Required.__annotations__)}.")
    for section, kind in get_type_hints(_Required).items():
        _require(section in metrics, f"{source}: the section `{section}` is missing.")
        _require(isinstance(metrics[section], dict), f"{source}: `{section}` must be an object.")
        for key in kind.__annotations__ if is_typeddict(kind) else ():
            needed = key in metrics[section] or key == "split_sha256"
            _require(needed, f"{source}: `{section}.{key}` is missing; use null where it is unknown.")
    others = metrics.keys() - set(KEYS)
    _require(not others, f"{source}: unknown section `{', '.join(sorted(others))}`.")
    _require(metrics["rankers"], f"{source}: `rankers` is empty.")
    for section in ("rankers", "controls"):
        for name, figures in metrics[section].items():
            for metric, value in figures.items():
                place = f"{source}: `{section}.{name}.{metric}`"
                _require(is_metric(metric), f"{place} is not a metric of this schema.")
                _check_value(place, metric, value)
    for name, figures in metrics.get("intervals", {}).items():
        _require(name in metrics["rankers"], f"{source}: `intervals.{name}` names no ranker.")
        for metric, pair in figures.items():
            place = f"{source}: `intervals.{name}.{metric}`"
            _require(isinstance(pair, list), f"{place} must be [low, high], not {pair!r}.")
            _check_breakdown(place, metric, pair, metrics["rankers"])
    for section in map(name_of, SECTIONS):
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


def write_metrics(metrics: Metrics, path: str | Path) -> None:
    """Check and write a `metrics.json`, under a temporary name first, so that a reader never sees half a file.

    Raises:
        [`~mera_hf.errors.InputError`]: as [`validate_metrics`].
    """
    validate_metrics(metrics, str(path))
    write_text(json_text(metrics), path)


def read_metrics(path: str | Path) -> Metrics:
    """Read and check a `metrics.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: if it is missing, is not JSON, or does not fit the schema.
    """
    try:
        metrics = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}).") from error
    validate_metrics(metrics, str(path))
    return metrics


def merge_metrics(runs: Sequence[Mapping[str, Any]]) -> Metrics:
    """Merge runs of one recipe with several seeds: every figure becomes a spread, and `run.seed` the list of seeds.

    Intervals are left out: they belong to one run's ranking. Parts of breakdowns that every run has are merged; a word
    or a list that differs between runs, such as the group that is served worst, is left out.

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
    merged: dict[str, Any] = {"dataset": first["dataset"], "protocol": first["protocol"]}
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
    for section in map(name_of, SECTIONS):
        if all(section in run for run in runs):
            merged[section] = merge_values([run[section] for run in runs])
    merged["run"] = {**first["run"], "seed": seeds}
    for key in ("seconds", "peak_memory_mb"):
        values = [run["run"][key] for run in runs]
        merged["run"][key] = None if None in values else spread(values)
    return cast(Metrics, merged)


def merge_values(values: Sequence[Any]) -> Any:
    """Merge the same part of several runs: objects key by key and lists item by item, numbers to spreads.

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
        items = [merge_values(each) for each in zip(*values, strict=True)]
        return None if None in items else items
    if all(value == first for value in values) and not isinstance(first, float):
        return first
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return spread(values)
    return None


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InputError(message)


def _shape(section: dict) -> dict:
    return {name: set(figures) for name, figures in section.items()}


def _check_value(place: str, metric: str, value: Any) -> None:
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


def _check_breakdown(place: str, key: str, value: Any, rankers: dict) -> None:
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


def _check_comparisons(comparisons: Any, rankers: dict, source: str) -> None:
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


def _check_number(place: str, metric: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _require(number, f"{place} must be a finite number, not {value!r}.")
    _require(value >= (-1 if metric in SIGNED else 0), f"{place} is negative: {value}.")
    if metric not in (*SIZE_METRICS, *COUNTS):
        _require(value <= 1 + 1e-9, f"{place} is {value}: fractions are expected, not percent.")
