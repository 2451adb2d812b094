"""Names and text of figures: each metric's heading, meaning and unit, and each ranker's title, in one place."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypedDict

from mera_hf.blocks import Row, Table
from mera_hf.errors import InputError
from mera_hf.icd import VERSIONS


# No figure is given for fewer patients: it would be chance, and could reveal single persons (this project's choice)
FEWEST_PATIENTS = 10
TOO_FEW = f"< {FEWEST_PATIENTS}"
AS_WELL = 0.01  # a smaller difference between two fractions counts as none (this project's choice)


class Metric(NamedTuple):
    """How a metric is shown: its heading, what it means for readers who do not know the field, and its unit."""

    heading: str
    meaning: str | None = None
    unit: str = "share"  # or "codes"


METRICS = {
    "weighted_f1": Metric(
        "w-F1",
        "Weighted F1 when each patient's prediction is as long as the true set. It knows the true size, as the field's papers "
        "do, and so says nothing about EOV.",
    ),
    "weighted_f1_eov": Metric(
        "w-F1 of set",
        "Weighted F1 of the set that the ranker itself chose: for MERA the codes above the end-of-visit token (EOV), for the "
        "others the codes above a threshold fitted on validation patients.",
    ),
    "recall@10": Metric(
        "R@10", "Of a patient's true codes, the share among the first 10 of the ranking, averaged over patients."
    ),
    "recall@20": Metric("R@20", "The same among the first 20."),
    "recall@40": Metric("R@40", "The same among the first 40."),
    "repeated_recall@20": Metric(
        "repeated R@20", "The part of R@20 that the patient's history already held: what copying can find."
    ),
    "new_recall@20": Metric("new R@20", "The part of R@20 that is new to the patient. The two parts add up to R@20."),
    "mean_set_size": Metric("set size", "Codes in the chosen set, per patient.", "codes"),
    "mean_true_size": Metric("mean true size", None, "codes"),
    "empty_set_share": Metric("empty set share"),
    "ndcg@20": Metric(
        "nDCG@20",
        "Normalized discounted cumulative gain: true codes count more the earlier they stand among the first 20; 100 if all "
        "true codes come first.",
    ),
    "map": Metric(
        "MAP",
        "Mean average precision: precision at the rank of each true code, averaged over a patient's true codes, then over "
        "patients.",
    ),
    "precision@10": Metric(
        "P@10", "Of the first 10 codes of the ranking, the share that is true, averaged over patients."
    ),
    "macro_f1": Metric(
        "macro F1", "F1 per code, each code counting the same: rare codes weigh as much as frequent ones."
    ),
    "micro_f1": Metric("micro F1", "F1 over all pairs of patient and code: frequent codes weigh most."),
    "macro_f1_eov": Metric("macro F1 of set"),
    "micro_f1_eov": Metric("micro F1 of set"),
}
# Headings of the metrics that look at the first k codes, for any k
AT_K = {
    "recall": "R",
    "precision": "P",
    "accuracy": "acc",
    "ndcg": "nDCG",
    "repeated_recall": "repeated R",
    "new_recall": "new R",
    "occurred": "occurred",
    "not_occurred": "not occurred",
}
SIZE_METRICS = tuple(name for name, metric in METRICS.items() if metric.unit == "codes")


def _headed(*names: str) -> dict[str, str]:
    return {name: METRICS[name].heading for name in names}


# The columns of the tables, with their headings; a column that no ranker has is left out.
COLUMNS = _headed(
    *("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "recall@40"),
    *("repeated_recall@20", "new_recall@20", "mean_set_size"),
)
# The columns of a second table, for readers of other papers
MORE_COLUMNS = _headed("ndcg@20", "map", "precision@10", "macro_f1", "micro_f1", "macro_f1_eov", "micro_f1_eov")
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


class Spread(TypedDict):
    """One figure over several training seeds."""

    mean: float
    std: float  # of the sample
    values: list[float]  # one per seed


Value = float | Spread
Figures = Mapping[str, Value]  # metric to its value, fractions and sizes in codes


def over_seeds(values: Sequence[float]) -> Value:
    """The spread over several seeds; with one seed the value itself."""
    return spread(values) if len(values) > 1 else values[0]


def seeds_of(metrics: Mapping) -> list[int]:
    """The training seeds of a `metrics.json`, of one run or merged."""
    seed = metrics["run"]["seed"]
    return seed if isinstance(seed, list) else [seed]


def is_metric(name: str) -> bool:
    """Whether `metrics.json` may hold a metric of this name."""
    return name in METRICS or re.fullmatch(rf"({'|'.join(AT_K)})@[1-9]\d*", name) is not None


def heading_of(metric: str) -> str:
    """A metric's short name as tables show it."""
    if metric in METRICS:
        return METRICS[metric].heading
    name, _, k = metric.partition("@")
    return f"{AT_K.get(name, name)}@{k}" if k else metric.replace("_", " ")


def title_of(ranker: str) -> str:
    """A ranker's name as readers see it."""
    return TITLES.get(ranker, ranker)


def plain_name(key: str) -> str:
    """A key of `metrics.json` as words; codes and ranges stay as they are."""
    key = re.sub(rf"^({'|'.join(VERSIONS)}):", "", key)
    return key.replace("_", " ") if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", key) else key


def spread(values: Sequence[float]) -> Spread:
    """Several runs' values of one figure, with the standard deviation of the sample.

    Raises:
        [`~mera_hf.errors.InputError`]: with fewer than two values, where there is no spread.
    """
    values = [float(value) for value in values]
    if len(values) < 2:
        raise InputError(f"A spread needs the values of two runs or more, not {len(values)}.")
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}


def mean_of(value: Value) -> float:
    """The figure itself, or the mean of a spread."""
    return value["mean"] if isinstance(value, dict) else value


def format_figure(metric: str, value: Value | None) -> str:
    """A figure as tables show it: percent with one decimal (sizes in codes), a spread as `52.3 ± 0.2`."""
    if value is None:
        return "–"
    scale = 1 if metric in SIZE_METRICS else 100
    text = f"{scale * mean_of(value):.1f}"
    if isinstance(value, dict) and value["std"] > 0:
        text += f" ± {scale * value['std']:.1f}"
    return text


def percent(value: Value | None) -> str:
    """A fraction in percent with one decimal, `65.0` or `65.0 ± 0.2`."""
    return format_figure("recall@20", value)


def with_interval(metric: str, value: Value | None, interval: Sequence[float] | None) -> str:
    """A figure and its interval, as `65.0 (64.0–66.0)`."""
    text = format_figure(metric, value)
    if not interval:
        return text
    low, high = (format_figure(metric, end) for end in interval)
    return f"{text} ({low}–{high})"


def points(difference: float) -> str:
    """A difference between two fractions in percentage points, with its sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def signed_points(difference: float) -> str:
    """The same with a real minus sign, for pages and plots."""
    return points(difference).replace("-", "\u2212")


def ends_text(found: Mapping) -> str:
    """The interval of a difference behind its points, as `, +0.1 to +0.9`; empty where it has none, as when merged."""
    return ", {} to {}".format(*map(signed_points, found["interval"])) if "interval" in found else ""


def p_text(p: float | None) -> str:
    """A p-value as papers print it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count_text(count: int | str | Spread | None) -> str:
    """A number of patients or codes, or its mean over seeds; small ones come as `< 10`."""
    if count is None or isinstance(count, str):
        return count or "–"
    return f"{mean_of(count):,.0f}"


def tied(text: str) -> str:
    """No line break within a figure."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def columns_of(rankers: Iterable[Mapping], wanted: Iterable[str]) -> list[str]:
    """The wanted metrics that at least one ranker has."""
    rankers = list(rankers)
    return [metric for metric in wanted if any(metric in figures for figures in rankers)]


def ranker_rows(
    rankers: Mapping[str, Figures], columns: Sequence[str], alone: bool = False, intervals: Mapping | None = None
) -> list[Row]:
    """One row per ranker; the highest figure of a column is marked as best if more is better.

    Args:
        rankers (`Mapping[str, Figures]`): name to figures.
        columns (`Sequence[str]`): metrics.
        alone (`bool`, defaults to `False`): whether a figure that only one ranker has counts as best.
        intervals (`Mapping`, *optional*): name to metric to `[low, high]`, shown where they are known.
    """
    best = {}
    for column in columns:
        values = [mean_of(figures[column]) for figures in rankers.values() if column in figures]
        if len(values) > 1 - alone and column not in SIZE_METRICS:
            best[column] = max(values)
    return [
        Row(
            title_of(name),
            [with_interval(c, figures.get(c), (intervals or {}).get(name, {}).get(c)) for c in columns],
            [column in best and column in figures and mean_of(figures[column]) == best[column] for column in columns],
            "mera" * (name == "mera"),
        )
        for name, figures in rankers.items()
    ]


def ranker_table(
    metrics: Mapping, wanted: Mapping[str, str] = COLUMNS, caption: str = "", corner: str = "percent"
) -> Table:
    """The table of rankers that reports, cards and terminals show, controls below the rankers.

    Args:
        metrics (`Mapping`): the content of a `metrics.json`.
        wanted (`Mapping[str, str]`): metric to heading; a metric that no ranker has is left out.
        caption (`str`, *optional*): caption of the table.
        corner (`str`, defaults to `"percent"`): heading of the first column.
    """
    columns = columns_of(metrics["rankers"].values(), wanted)
    rows = ranker_rows(metrics["rankers"], columns, alone=True)
    for name, figures in metrics["controls"].items():
        texts = [format_figure(column, figures.get(column)) for column in columns]
        rows.append(Row(title_of(name), texts, [False] * len(texts), "control"))
    return Table(caption, [corner, *(wanted[column] for column in columns)], rows)
