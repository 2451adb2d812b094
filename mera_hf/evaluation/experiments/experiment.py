"""An experiment from its plan to its tables: runs, paired differences over patients, and what they say in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.prepare import load_codes, load_prepared, read_report
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.experiments.runs import Run, Setting, arguments_of, finish_runs
from mera_hf.evaluation.experiments.variants import NAMES, RECIPE, Plan, Variant, plan
from mera_hf.evaluation.metrics import KS
from mera_hf.evaluation.paired import compare
from mera_hf.evaluation.results import COLUMNS, format_figure, spread
from mera_hf.evaluation.tally import Tally, tally_ranking


if TYPE_CHECKING:
    from mera_hf.data.samples import Sample

FIGURES = tuple(COLUMNS)
NO_DIFFERENCE = (
    0.005  # half a point: a smaller difference is called none even where it is sure (this project's choice)
)


def run_experiment(name: str, setting: Setting, seeds: Sequence[int] = (0, 1, 2), jobs: int = 1) -> dict:
    """Train what an experiment needs and is not there yet, and measure it.

    Args:
        name (`str`): one of `NAMES`.
        setting ([`Setting`]): recipe, dataset and where runs are kept.
        seeds (`Sequence[int]`): training seeds, each for every variant.
        jobs (`int`, defaults to 1): runs at a time.

    Returns:
        `dict`: `experiment`, `question`, `paper`, `dataset`, `recipe`, `overrides`, `seeds`, `metrics`, `rows`, `says` (in short),
        and under the experiment's own name what it measures beyond. A row is a variant: `name`, `title`, `options`, `seconds`,
        `validation`, `test` and `test_at_eov` (metric to `{"mean", "std", "values"}`, or a number with one seed), `against`
        and `differences` (as [`compare`] gives, on test), and `says`.

    Raises:
        [`~mera_hf.errors.InputError`]: for an unknown experiment, fewer than one seed, a dataset without test or validation
            patients, or runs made with other settings.
    """
    if name not in NAMES:
        raise InputError(f"{name!r} is no experiment; choose one of {', '.join(NAMES)}.")
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"`--seeds` is {list(seeds)}; give one seed or more, each once.")
    codes = [row["code"] for row in load_codes(setting.dataset)]
    dataset, description = load_prepared(setting.dataset), read_report(setting.dataset)
    _, _, mera_args = arguments_of(setting, Variant(RECIPE, ""), seeds[0])
    planned = plan(name, codes, mera_args.encoder)
    runs = finish_runs(setting, planned.variants, seeds, jobs)

    candidates = _candidates(runs[planned.variants[0].name][0])
    samples = prediction_samples(dataset["test"], candidates, "last")
    tallies = {
        variant.name: [_tally(*run.ranking(), samples, len(candidates)) for run in runs[variant.name]]
        for variant in planned.variants
    }
    rows = [_row(variant, planned, runs, tallies) for variant in planned.variants]
    result = {
        "experiment": name,
        "question": planned.question,
        "paper": planned.paper,
        "dataset": {
            "name": description["source"],
            "fingerprint": description["fingerprint"],
            "patients": len(samples),
            "codes": len(codes),
        },
        "recipe": Path(setting.recipe).parent.name + "/" + Path(setting.recipe).stem,
        "overrides": list(setting.overrides),
        "seeds": list(seeds),
        "metrics": list(planned.metrics),
        "rows": rows,
    }
    extra = _EXTRAS.get(name)
    if extra is not None:
        result[name] = extra(setting, planned, runs, samples, tallies, seeds)
    result["says"] = conclusion(result)
    return result


def _candidates(run: Run) -> list[str]:
    """The codes that the runs rank."""
    config = json.loads((run.folder / "model" / "config.json").read_text())
    return [config["id2label"][str(index)] for index in range(len(config["id2label"]))]


def _tally(order, set_sizes, samples: Sequence[Sample], n_codes: int) -> Tally:
    return tally_ranking(order, set_sizes, samples, [k for k in KS if k <= n_codes])


def _spread(values: list[float]) -> dict | float:
    return spread(values) if len(values) > 1 else values[0]


def _row(variant: Variant, planned: Plan, runs: dict[str, list[Run]], tallies: dict[str, list[Tally]]) -> dict:
    results = [run.result for run in runs[variant.name]]
    against = variant.against if variant.against in runs else planned.variants[0].name
    row = {
        "name": variant.name,
        "title": variant.title,
        "options": list(variant.overrides) + (["starts from the memorized checkpoint"] if variant.memorized else []),
        "seconds": _spread([result["seconds"] for result in results]),
    }
    for split in ("validation", "test", "test_at_eov"):
        names = [metric for metric in FIGURES if all(metric in result[split] for result in results)]
        row[split] = {metric: _spread([result[split][metric] for result in results]) for metric in names}
    if variant.name != against and runs[variant.name][0].folder != runs[against][0].folder:
        row["against"] = against
        row["differences"] = compare(tallies[variant.name], tallies[against])
        row["says"] = [verdict(row, metric) for metric in planned.metrics if _difference(row, metric)]
    return row


def _difference(row: dict, metric: str) -> dict | None:
    return next((entry for entry in row.get("differences", ()) if entry["metric"] == metric), None)


def verdict(row: dict, metric: str) -> str:
    """What a paired difference says, in words: a gain, a cost, none, or too few patients to say."""
    entry = _difference(row, metric)
    low, high = entry["interval"]
    points = f"{100 * entry['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    if max(abs(low), abs(high)) < NO_DIFFERENCE:
        word = "no difference"
    elif low <= 0 <= high:
        word = "no difference that these patients could show"
    elif abs(entry["difference"]) < NO_DIFFERENCE:
        word = "hardly a difference"
    else:
        word = "better" if low > 0 else "worse"
    return f"{COLUMNS.get(metric, metric)} {points}: {word}"


def conclusion(result: dict) -> str:
    """The experiment in short, from its figures alone."""
    titles = {row["name"]: row["title"] for row in result["rows"]}
    parts = []
    for row in result["rows"]:
        if "against" in row:
            parts.append(f"{row['title']}, against {titles[row['against']]}: {'; '.join(row['says'])}.")
        elif row is not result["rows"][0]:
            parts.append(f"{row['title']}: that is {titles[result['rows'][0]['name']]}.")
    return " ".join(part[0].upper() + part[1:] for part in parts)


def _memorization(setting: Setting, planned: Plan, runs: dict, samples, tallies, seeds: Sequence[int]) -> dict:
    """Exact match of each question, by level, after memorizing."""
    figures = [
        json.loads((setting.folder / "runs" / f"memorizing-{seed}" / "memorization.json").read_text())
        for seed in seeds
    ]
    return {"exact_match": {name: _spread([each[name] for each in figures]) for name in figures[0]}}


def _eov(setting: Setting, planned: Plan, runs: dict, samples, tallies, seeds: Sequence[int]) -> dict:
    """What the EOV of the recipe's runs knows of the size of a visit and of severity, see `severity.py`."""
    from mera_hf.evaluation.experiments.eov import eov_knowledge

    return eov_knowledge(runs[RECIPE], samples)


def _ablation(setting: Setting, planned: Plan, runs: dict, samples, tallies, seeds: Sequence[int]) -> dict:
    """Ranking against naming the codes one by one, by the same models."""
    from mera_hf.evaluation.experiments.decoding import as_ranking, decoded_lists

    n_codes = len(_candidates(runs[RECIPE][0]))
    rows = []
    for name, title, stop in (
        ("decoded", "autoregressive decoding until EOV", True),
        ("decoded_20", "20 codes named one by one", False),
    ):
        lists = [decoded_lists(run, samples, stop) for run in runs[RECIPE]]
        width = max(max(KS), *(len(sample.target) for sample in samples))
        decoded = [_tally(*as_ranking(each, n_codes, width), samples, n_codes) for each in lists]
        figures = [tally.measure() for tally in decoded]
        row = {
            "name": name,
            "title": title,
            "options": [],
            "seconds": None,
            "test": {
                metric: _spread([each[metric] for each in figures]) for metric in FIGURES if metric in figures[0]
            },
            "against": RECIPE,
            "differences": compare(decoded, tallies[RECIPE]),
        }
        row["says"] = [verdict(row, metric) for metric in planned.metrics]
        rows.append(row)
    return {"decoding": rows}


def _ontology(setting: Setting, planned: Plan, runs: dict, samples, tallies, seeds: Sequence[int]) -> dict:
    """The tree against co-occurrence and against the rows that the first run without a hierarchy learned."""
    from transformers import AutoModel

    import mera_hf  # noqa: F401  registers the model
    from mera_hf.evaluation.ontology import ontology_analysis

    _, _, mera_args = arguments_of(setting, Variant(RECIPE, ""), seeds[0])
    model = AutoModel.from_pretrained(runs["levels_none"][0].folder / "model").eval()
    return ontology_analysis(setting.dataset, model, encoder=mera_args.encoder)


_EXTRAS = {"memorization": _memorization, "eov": _eov, "ablation": _ablation, "ontology": _ontology}


def figure_text(metric: str, value) -> str:
    """A figure of a row for a table."""
    return format_figure(metric, value) if value is not None else ""
