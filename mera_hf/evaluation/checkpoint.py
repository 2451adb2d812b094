"""Measure a checkpoint on one split of a prepared dataset, beside the reference rankers and with its controls."""

from __future__ import annotations

import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.prepare import load_codes, load_prepared, read_report
from mera_hf.data.samples import prediction_samples
from mera_hf.data.splits import split_hash
from mera_hf.errors import InputError
from mera_hf.evaluation import plots
from mera_hf.evaluation.bootstrap import intervals_of_runs
from mera_hf.evaluation.calibration_section import calibration_section
from mera_hf.evaluation.coarse import measure_coarse
from mera_hf.evaluation.controls import evaluation_controls
from mera_hf.evaluation.fairness import fairness_gaps
from mera_hf.evaluation.findings import findings
from mera_hf.evaluation.heart_failure import measure_heart_failure
from mera_hf.evaluation.metrics import KS, recall_curve
from mera_hf.evaluation.model_ranking import rank_samples
from mera_hf.evaluation.ranked_patients import RankedPatients, Ranking
from mera_hf.evaluation.rankings import write_rankings
from mera_hf.evaluation.reference import REFERENCES, fit_references
from mera_hf.evaluation.report import example_patient, write_plots, write_report
from mera_hf.evaluation.results import build_metrics, table_markdown, write_metrics, write_text
from mera_hf.evaluation.severity import target_severity
from mera_hf.evaluation.strata import measure_strata
from mera_hf.evaluation.tally import tally_ranking
from mera_hf.evaluation.tree_distance import measure_distance


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics (`dict`): the content of `metrics.json`.
        report (`dict`): what the report and its plots show, see `render_report`.
        rankings (`dict`, *optional*): the arguments of `write_rankings` but for the path, where they were asked for.
    """

    metrics: dict
    report: dict
    rankings: dict | None = None

    def write(self, folder: str | Path) -> list[str]:
        """Write `metrics.json`, `table.md`, `report.html` and `plots/` into `folder`, and `rankings.parquet` where there are
        rankings (one of an earlier evaluation is removed otherwise); return the names written.

        Report and plots need matplotlib and jinja2, and 20 codes or more, without which there is no recall@20.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_metrics(self.metrics, folder / "metrics.json")
        write_text(table_markdown(self.metrics) + "\n", folder / "table.md")
        written = ["metrics.json", "table.md"]
        (folder / "rankings.parquet").unlink(missing_ok=True)
        if self.rankings:
            write_rankings(folder / "rankings.parquet", **self.rankings)
            written.append("rankings.parquet")
        if not plots.installed() or "recall@20" not in self.metrics["rankers"]["mera"]:
            return written
        write_report(self.report, folder / "report.html")
        write_plots(self.report, folder / "plots", formats=("png",))
        return [*written, "report.html", "plots/"]


def evaluate_checkpoint(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    split: str = "test",
    references: tuple[str, ...] = REFERENCES,
    recipe: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    training: dict | None = None,
    memorization: dict | None = None,
    keep_rankings: bool = False,
) -> Evaluation:
    """Rank the last visit of every patient of a split by the model and by the reference rankers.

    Args:
        model (`MeraForDiagnosis`): the checkpoint.
        tokenizer (`PreTrainedTokenizerBase`): of the checkpoint.
        folder (`str` or `Path`): a prepared dataset; the reference rankers are fitted on its train split.
        split (`str`, defaults to `"test"`): `train`, `validation` or `test`.
        references (`tuple[str, ...]`): reference rankers to fit; at least one.
        recipe (`str`, *optional*): name that goes into `run.recipe`.
        seed (`int`, defaults to 0): of the trained reference rankers and the control; recorded as the run's seed.
        batch_size (`int`, defaults to 64): patients in a forward pass.
        training, memorization (`dict`, *optional*): the log of the training and what was memorized, see `findings`.
        keep_rankings (`bool`, defaults to `False`): keep every patient's ranking, to be written as `rankings.parquet`.

    Raises:
        [`~mera_hf.errors.InputError`]: for a split that does not exist or is empty, or codes that the model lacks.
    """
    started = time.perf_counter()
    dataset, description = load_prepared(folder), read_report(folder)
    if split not in dataset:
        raise InputError(f"`split` is {split!r}; choose one of {', '.join(dataset)}.")
    codes = model.config.codes
    samples = prediction_samples(dataset[split], codes, "last")
    if not samples:
        raise InputError(f"the split {split!r} of {folder} has no patient with two visits; prepare more patients.")
    ks = [k for k in KS if k <= len(codes)]
    if not ks:
        raise InputError(f"the model ranks {len(codes)} codes; recall@{KS[0]} takes {KS[0]} or more.")

    def rank(chosen, title):
        ranking = rank_samples(model, tokenizer, chosen, batch_size, title)
        return ranking.order.numpy(), ranking.set_sizes.numpy()

    ranking = rank_samples(model, tokenizer, samples, batch_size, "ranking")
    order, set_sizes = ranking.order.numpy(), ranking.set_sizes.numpy()
    rankers, bands, curves, ranked = {}, {}, {}, {}

    def measure(name, answer):
        tally = tally_ranking(answer.order, answer.set_sizes, samples, ks)
        rankers[name], bands[name] = tally.measure(), intervals_of_runs([tally])
        curves[name] = recall_curve(answer.order, samples, max(ks))
        ranked[name] = answer

    # Half the memory of torch's indices, which all rankings together need at the size of MIMIC-IV
    measure("mera", Ranking(order.astype("int32"), set_sizes, ranking.probabilities.numpy()))
    controls = evaluation_controls(rank, order, samples, ks, seed, model.config.use_profile)
    train = prediction_samples(dataset["train"], codes, "every")
    validation = prediction_samples(dataset["validation"], codes, "last") or train
    for name, reference in fit_references(train, len(codes), validation, seed, references).items():
        measure(name, Ranking(*reference(samples)))
    patients = RankedPatients(samples, codes, ranked)
    train_visits = {row["code"]: row["visits"] for row in load_codes(folder)}
    breakdowns = {
        "strata": measure_strata(patients, [train_visits.get(code, 0) for code in codes]),
        "fairness": fairness_gaps(patients),
        "coarse": measure_coarse(patients),
        "distance": measure_distance(patients),
        "heart_failure": measure_heart_failure(patients),
    }

    severity = target_severity(dataset[split], samples)
    calibration = calibration_section(model, tokenizer, ranking, samples, dataset["validation"], batch_size, severity)
    metrics = build_metrics(
        dataset={
            "name": description["source"],
            "fingerprint": description["fingerprint"],
            "split": split,
            "split_sha256": split_hash(dataset[split]["patient_id"]),
            "patients": len(samples),
            "codes": len(load_codes(folder)),
        },
        protocol={
            "target": "last",
            "candidates": "cohort" if len(codes) == len(load_codes(folder)) else f"{len(codes)} codes of the model",
            "history": _history(model.config),
        },
        rankers=rankers,
        controls=controls["controls"],
        run={
            "recipe": recipe,
            "seed": seed,
            "versions": versions(),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_mb": round(peak_memory_mb()),
        },
        intervals=bands,
        **breakdowns,
    )
    metrics["drops"] = controls["drops"]
    metrics["findings"] = findings(metrics, training, memorization, model.config.rerank_depth)
    if calibration is not None:
        metrics["calibration"] = calibration
    report = {
        "metrics": metrics,
        "curves": curves,
        "sets": {"predicted": set_sizes, "true": [len(sample.target) for sample in samples]},
    }
    if not description["credentialed"]:  # a page with a real patient's codes is for open data only
        probabilities = ranking.probabilities.gather(1, ranking.order.argsort(1)).numpy()
        report["example"] = example_patient(order, probabilities, set_sizes, samples, codes, model.config.descriptions)
        report["example"]["reordered"] = model.config.rerank_depth
    rankings = None
    if keep_rankings:
        identifiers = dataset[split]["patient_id"]
        rankings = {
            "patient_ids": [identifiers[sample.patient] for sample in samples],
            "codes": codes,
            "order": order,
            "probabilities": ranking.probabilities.numpy(),
            "set_sizes": set_sizes,
        }
    return Evaluation(metrics, report, rankings)


def _history(config) -> str:
    parts = ["codes" if config.history_text == "code" else config.history_text]
    parts += ["profile"] if config.use_profile else []
    parts += ["text of visits"] if config.use_visit_text else []
    return " + ".join(parts)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a figure may depend on."""
    from importlib.metadata import version

    packages = ("mera_hf", "torch", "transformers", "trl", "datasets", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def peak_memory_mb() -> float:
    """Largest memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2
