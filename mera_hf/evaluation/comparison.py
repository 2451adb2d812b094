"""Checkpoints, rankings of other models and the reference rankers side by side, on the same patients."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.prepare import load_codes, load_prepared, read_report
from mera_hf.data.samples import Sample, prediction_samples
from mera_hf.data.splits import split_hash
from mera_hf.errors import InputError
from mera_hf.evaluation import plots
from mera_hf.evaluation.bootstrap import intervals_of_runs
from mera_hf.evaluation.checkpoint import peak_memory_mb, versions
from mera_hf.evaluation.comparison_report import write_comparison_report
from mera_hf.evaluation.comparison_tables import comparison_markdown
from mera_hf.evaluation.metrics import KS, recall_curve
from mera_hf.evaluation.model_ranking import rank_samples
from mera_hf.evaluation.paired import compare
from mera_hf.evaluation.rankings import complete_order, read_rankings
from mera_hf.evaluation.reference import REFERENCES, fit_references
from mera_hf.evaluation.results import build_metrics, spread, write_metrics, write_text
from mera_hf.evaluation.tally import tally_ranking


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis


@dataclass(frozen=True)
class Patients:
    """Whom every ranker ranks for.

    Attributes:
        ids (`list[str]`): identifiers, in the order of `samples`.
        rows (`Dataset`): the split.
        samples (`list[Sample]`): the last visit of each patient, in indices of `codes`.
        codes (`list[str]`): the candidates: those of the dataset.
    """

    ids: list[str]
    rows: Dataset
    samples: list[Sample]
    codes: list[str]


logger = logging.getLogger(__name__)
Run = Callable[[Patients], tuple]
"""One run of a ranker: from patients to `(order, set_sizes)`, all codes ranked; `set_sizes` may be `None`."""


def file_run(path: str | Path) -> Run:
    """The rankings of a file, see `read_rankings`."""
    return lambda patients: read_rankings(path, patients.ids, patients.codes)


def checkpoint_run(open_model: Callable[[], tuple[MeraForDiagnosis, PreTrainedTokenizerBase]], batch_size: int) -> Run:
    """A checkpoint, opened when it is its turn, so that one model at a time is in memory.

    It is measured on the codes of the dataset like all others: further codes that it ranks are taken out of its ranking and
    its set, and codes that it does not have come after its last.
    """

    def rank(patients: Patients) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        model, tokenizer = open_model()
        own = model.config.codes
        ranking = rank_samples(model, tokenizer, prediction_samples(patients.rows, own), batch_size, "ranking")
        order, set_sizes = ranking.order.numpy(), ranking.set_sizes.numpy()
        if own == patients.codes:
            return order, set_sizes
        index = {code: i for i, code in enumerate(patients.codes)}
        order = np.array([index.get(code, -1) for code in own])[order]  # (patients, own codes)
        known = order >= 0
        left_out = len(set(own) - index.keys())
        if left_out:
            logger.warning("%d codes of a checkpoint are not in the dataset and are left out of its ranking", left_out)
        within = known & (np.arange(len(own)) < set_sizes[:, None])
        return complete_order(order[known], known.sum(axis=1), len(index)), within.sum(axis=1)

    return rank


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        metrics (`dict`): the content of `metrics.json`.
        report (`dict`): what the page shows, see `write_comparison_report`.
    """

    metrics: dict
    report: dict

    def write(self, folder: str | Path) -> list[str]:
        """Write `metrics.json`, `table.md` and `compare.html` into `folder`; return the names written.

        The page needs matplotlib and jinja2.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_metrics(self.metrics, folder / "metrics.json")
        write_text(comparison_markdown(self.metrics) + "\n", folder / "table.md")
        if not plots.installed():
            return ["metrics.json", "table.md"]
        write_comparison_report(self.report, folder / "compare.html")
        return ["metrics.json", "table.md", "compare.html"]


def compare_rankers(
    rankers: dict[str, Sequence[Run]],
    folder: str | Path,
    split: str = "test",
    references: Sequence[str] = REFERENCES,
    seed: int = 0,
) -> Comparison:
    """Measure rankers and reference rankers on the last visit of every patient of a split, and compare the first ranker with
    each other one, patient by patient.

    Args:
        rankers (`dict[str, Sequence[Run]]`):
            Name to the runs of a ranker, one or several seeds. See [`checkpoint_run`] and [`file_run`].
        folder (`str` or `Path`):
            A prepared dataset; the reference rankers are fitted on its train split.
        split (`str`, defaults to `"test"`):
            `train`, `validation` or `test`.
        references (`Sequence[str]`):
            Reference rankers to fit.
        seed (`int`, defaults to 0):
            Of the trained reference rankers, of draws and of swaps.

    Raises:
        [`~mera_hf.errors.InputError`]: for a split that does not exist or is empty, fewer than 10 codes, a ranker with the
            name of a reference ranker, or runs of one ranker of which some have set sizes and some do not.
    """
    from tqdm import tqdm

    started = time.perf_counter()
    dataset, description = load_prepared(folder), read_report(folder)
    codes = [row["code"] for row in load_codes(folder)]
    if split not in dataset:
        raise InputError(f"`split` is {split!r}; choose one of {', '.join(dataset)}.")
    for name in rankers:
        if name in references:
            raise InputError(
                f"a ranker is called {name!r}, as a reference ranker is; put another name in front: `mine=...`."
            )
    samples = prediction_samples(dataset[split], codes)
    if not samples:
        raise InputError(f"the split {split!r} of {folder} has no patient with two visits; prepare more patients.")
    ks = [k for k in KS if k <= len(codes)]
    if not ks:
        raise InputError(f"the dataset has {len(codes)} codes; recall@{KS[0]} takes {KS[0]} or more.")
    identifiers = dataset[split]["patient_id"]
    patients = Patients([identifiers[sample.patient] for sample in samples], dataset[split], samples, codes)
    tallies, curves = {}, {}

    def measure(name: str, runs: Sequence[Run]) -> None:
        tallies[name], recalls = [], []
        for run in runs:
            order, set_sizes = run(patients)
            tallies[name].append(tally_ranking(order, set_sizes, samples, ks))
            recalls.append(recall_curve(order, samples, max(ks)))
        if len({tuple(tally.sets) for tally in tallies[name]}) > 1:
            raise InputError(f"some runs of {name!r} have set sizes and some do not; give them for all or for none.")
        curves[name] = sum(recalls) / len(recalls)

    for name, runs in rankers.items():
        measure(name, runs)
    train = prediction_samples(dataset["train"], codes, "every")
    validation = prediction_samples(dataset["validation"], codes) or train
    for name, reference in fit_references(train, len(codes), validation, seed, references).items():
        measure(name, [lambda patients, rank=reference: rank(patients.samples)])

    first, *others = tallies
    comparisons = [
        {"a": first, "b": other, **row}
        for other in tqdm(others, desc="paired differences", unit="ranker")
        for row in compare(tallies[first], tallies[other], seed=seed)
    ]
    metrics = build_metrics(
        dataset={
            "name": description["source"],
            "fingerprint": description["fingerprint"],
            "split": split,
            "split_sha256": split_hash(dataset[split]["patient_id"]),
            "patients": len(samples),
            "codes": len(codes),
        },
        protocol={"target": "last", "candidates": "cohort", "history": "that of each ranker"},
        rankers={name: _figures([tally.measure() for tally in runs]) for name, runs in tallies.items()},
        controls={},
        run={
            "recipe": None,
            "seed": seed,
            "versions": versions(),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_mb": round(peak_memory_mb()),
        },
        intervals={
            name: intervals_of_runs(runs, seed=seed)
            for name, runs in tqdm(tallies.items(), desc="intervals", unit="ranker")
        },
    )
    metrics["comparisons"] = comparisons
    return Comparison(metrics, {"metrics": metrics, "curves": curves})


def _figures(runs: Sequence[dict]) -> dict:
    """The figures of one run, or their spread over several."""
    if len(runs) == 1:
        return runs[0]
    return {metric: spread([run[metric] for run in runs]) for metric in runs[0]}
