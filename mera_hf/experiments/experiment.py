"""An experiment from its plan to its figures: runs, paired differences over patients, and a short conclusion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mera_hf.data.prepared import Prepared
from mera_hf.data.samples import Sample
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import COLUMNS, over_seeds
from mera_hf.evaluation.metrics import KS, ks_up_to
from mera_hf.evaluation.paired import compare, holm
from mera_hf.evaluation.sections.severity import target_severity
from mera_hf.evaluation.tally import Tally, tally_ranking
from mera_hf.experiments.conclusions import OWN_CUT, conclusion
from mera_hf.experiments.decoding import MOST, as_ranking, decoded
from mera_hf.experiments.eov import decided, eov_knowledge
from mera_hf.experiments.held_out import over_runs
from mera_hf.experiments.ontology import ontology_analysis
from mera_hf.experiments.runs import (
    ExperimentSetting,
    Run,
    arguments_of,
    finish_held_out,
    finish_memorizing,
    finish_runs,
    memorizing_start,
)
from mera_hf.experiments.variants import RECIPE, Design, Variant, plan
from mera_hf.training.recipe import recipe_name


FEWEST_CODES = 20  # of recall@20


@dataclass(frozen=True)
class RankedRow:
    """A row of an experiment before it is compared: one ranking of the test patients for each seed.

    Attributes:
        title (`str`): its title in tables.
        tallies (`list[Tally]`): tallies of the rankings, one per seed.
        against (`str`, *optional*): name of the row that it is compared with.
        options (`tuple[str, ...]`): what changes the recipe.
        runs (`Sequence[Run]`): the trainings, if the rankings are their own.
    """

    title: str
    tallies: list[Tally]
    against: str | None
    options: tuple[str, ...] = ()
    runs: Sequence[Run] = ()


def run_experiment(name: str, setting: ExperimentSetting, seeds: Sequence[int] = (0, 1, 2), jobs: int = 1) -> dict:
    """Train what an experiment needs, unless it is there already, and measure it.

    Args:
        name (`str`): one of `NAMES`.
        setting ([`ExperimentSetting`]): recipe, dataset and where runs are kept.
        seeds (`Sequence[int]`): training seeds, used for every variant.
        jobs (`int`, defaults to 1): number of runs at a time.

    Returns:
        `dict`: `experiment`, `question`, `paper`, `dataset`, `recipe`, `overrides`, `seeds`, `metrics` (what it is judged by),
        `rows`, `says` (the conclusion), and further measurements under the experiment's name. A row is a variant, or
        another use of a variant's checkpoints: `name`, `title`, `options`, `seconds`, `validation` and `test` (metric to
        `{"mean", "std", "values"}`, or a number with one seed). A row that is compared with another has `against` and
        `same` (whether both are one training). If they are not, it has `differences` on test from [`compare`], with
        `by_seed`, and with `p_holm` for the experiment's metrics only, corrected for all of its rows.

    Raises:
        [`~mera_hf.errors.InputError`]: for an unknown experiment, no or repeated seeds, a dataset with fewer than 20
            codes or without patients to validate and test on, a recipe that starts from a memorized checkpoint, or
            runs made with other settings.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"`--seeds` is {list(seeds)}; give one seed or more, each once.")
    prepared = Prepared.open(setting.dataset)
    codes = prepared.codes
    if len(codes) < FEWEST_CODES:
        raise InputError(
            f"the dataset has {len(codes)} codes; experiments are judged by recall@20, which needs {FEWEST_CODES}."
        )
    for split in ("validation", "test"):
        if not prepared.samples(split):
            raise InputError(
                f"the split {split!r} of {setting.dataset} has no patient with two visits; prepare more patients."
            )
    _, model_args, mera_args = arguments_of(setting, Variant(RECIPE, ""), seeds[0])
    planned = plan(name, codes, mera_args.encoder, model_args.use_peft)
    if any(each.memorized for each in planned.variants):
        for start in (model_args.model_name_or_path, memorizing_start(setting)):
            if start and Path(start, "memorization.json").is_file():
                raise InputError(
                    f"`model_name_or_path` is {start}, which has memorized already; name its base model, so that memorizing "
                    "can be compared with not memorizing."
                )
    runs = finish_runs(setting, planned.variants, seeds, jobs)

    candidates = _candidates(runs[planned.variants[0].name][0])
    samples = prepared.samples("test", codes=candidates)
    ranked = {
        variant.name: _ranked(variant, planned, runs, samples)
        for variant in tqdm(planned.variants, desc="measuring", unit="variant")
    }
    if name == "eov":
        ranked |= _at_own_cut(ranked, samples)
    if name == "ablation":
        ranked |= _one_by_one(runs[RECIPE], samples, len(candidates))
    result = {
        "experiment": name,
        "question": planned.question,
        "paper": planned.paper,
        "dataset": {
            "name": prepared.report["source"],
            "fingerprint": prepared.report["fingerprint"],
            "patients": len(samples),
            "codes": len(codes),
        },
        "recipe": recipe_name(setting.recipe),
        "overrides": list(setting.overrides),
        "seeds": list(seeds),
        "metrics": list(planned.metrics),
        "rows": _rows(ranked, planned.metrics),
    }
    if name == "memorization":
        asked = finish_memorizing(setting, seeds, jobs)
        shares = {
            when: {question: over_seeds([each[when][question] for each in asked]) for question in asked[0][when]}
            for when in asked[0]
        }
        result[name] = shares | {"held_out": over_runs(finish_held_out(setting, seeds, jobs))}
    if name == "eov":
        severity = target_severity(prepared.splits["test"], samples)
        result[name] = eov_knowledge(runs[RECIPE], samples, candidates, severity)
    if name == "ontology":
        # The rows of a model that never saw the tree
        model, _ = runs["levels_none"][0].open()
        result[name] = ontology_analysis(prepared, model, encoder=mera_args.encoder)
    result["says"] = conclusion(result)
    return result


def _candidates(run: Run) -> list[str]:
    """The codes that the runs rank."""
    labels = json.loads((run.folder / "model" / "config.json").read_text())["id2label"]
    return [labels[str(index)] for index in range(len(labels))]


def _tally(order: np.ndarray, set_sizes: np.ndarray, samples: Sequence[Sample]) -> Tally:
    return tally_ranking(order, set_sizes, samples, ks_up_to(order.shape[1]))


def _ranked(variant: Variant, planned: Design, runs: dict[str, list[Run]], samples: Sequence[Sample]) -> RankedRow:
    against = variant.against if variant.against in runs else planned.variants[0].name
    return RankedRow(
        variant.title,
        [_tally(*run.ranking(), samples) for run in runs[variant.name]],
        against if against != variant.name else None,
        variant.overrides,
        runs[variant.name],
    )


def _at_own_cut(ranked: dict[str, RankedRow], samples: Sequence[Sample]) -> dict[str, RankedRow]:
    """The same trainings with the set cut at EOV's own logit, where no later fit makes up for a missing EOV loss."""
    rows = {}
    for name, row in ranked.items():
        if row.against and _same_training(row, ranked[row.against]):
            continue  # the recipe itself
        arrays = [decided(run, samples) for run in tqdm(row.runs, desc=f"EOV of {row.title}", unit="run")]
        tallies = [_tally(each["order"], each["above_eov"], samples) for each in arrays]
        against = RECIPE if row.against is None else f"{row.against}{OWN_CUT}"
        rows[f"{name}{OWN_CUT}"] = RankedRow(f"{row.title}, EOV's own cut", tallies, against)
    return rows


def _one_by_one(runs: Sequence[Run], samples: Sequence[Sample], n_codes: int) -> dict[str, RankedRow]:
    """The recipe's trainings, naming the codes one by one: once until EOV, and once 20 codes, with a
    set as large as the ranking's own."""
    width = max(max(KS), *(len(sample.target) for sample in samples))
    until, twenty = [], []
    for run in runs:
        named, ends = decoded(run, samples)
        most = named.shape[1]
        until.append(_tally(as_ranking(named, ends, n_codes, width), ends, samples))
        sizes = np.minimum(run.ranking()[1], most)
        twenty.append(_tally(as_ranking(named, np.full_like(ends, most), n_codes, width), sizes, samples))
    return {
        "decoded": RankedRow("one by one, until EOV", until, RECIPE),
        "decoded_20": RankedRow(f"one by one, {MOST} codes", twenty, RECIPE),
    }


def _same_training(row: RankedRow, other: RankedRow) -> bool:
    """Whether two rows are one training, as a variant may change nothing in the recipe."""
    return bool(row.runs and other.runs) and row.runs[0].folder == other.runs[0].folder


def _rows(ranked: dict[str, RankedRow], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The figures of all rows and their differences, see [`run_experiment`]."""
    rows = []
    for name, row in tqdm(ranked.items(), desc="paired differences", unit="row"):
        figures = {"test": [tally.measure() for tally in row.tallies]}
        results = [run.result for run in row.runs]
        figures["validation"] = [result["validation"] for result in results]
        entry: dict[str, Any] = {"name": name, "title": row.title, "options": list(row.options)}
        entry["seconds"] = over_seeds([result["seconds"] for result in results]) if results else None
        for split in ("validation", "test"):
            shown = [metric for metric in COLUMNS if all(metric in run for run in figures[split])]
            entry[split] = {m: over_seeds([run[m] for run in figures[split]]) for m in shown if figures[split]}
        if row.against is not None:
            other = ranked[row.against]
            entry["against"] = row.against
            entry["same"] = _same_training(row, other)
            if not entry["same"]:
                entry["differences"] = compare(row.tallies, other.tallies)
                theirs = [tally.measure() for tally in other.tallies]
                for each in entry["differences"]:
                    pairs = zip(figures["test"], theirs, strict=True)
                    each["by_seed"] = [ours[each["metric"]] - their[each["metric"]] for ours, their in pairs]
        rows.append(entry)
    judged = []
    for entry in rows:
        for each in entry.get("differences", ()):
            del each["p_holm"]
            if each["metric"] in metrics:
                judged.append(each)
    for each, p in zip(judged, holm([each["p"] for each in judged]), strict=True):
        each["p_holm"] = p
    return rows
