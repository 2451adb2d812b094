"""Measure a checkpoint on one split of a prepared dataset, beside the reference rankers and with its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mera_hf.evaluation.bootstrap import intervals_of_runs
from mera_hf.evaluation.metrics import recall_curve
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.rankings.ranked import ModelRanking, RankedPatients, Ranking
from mera_hf.evaluation.rankings.reference import REFERENCES
from mera_hf.evaluation.rankings.setting import Setting, protocol
from mera_hf.evaluation.results import Metrics, build_metrics
from mera_hf.evaluation.sections import SECTIONS, calibration, name_of
from mera_hf.evaluation.sections.controls import evaluation_controls
from mera_hf.evaluation.sections.findings import findings
from mera_hf.evaluation.sections.patient import example_patient
from mera_hf.evaluation.sections.severity import target_severity
from mera_hf.evaluation.tally import tally_ranking


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.data.samples import Sample
    from mera_hf.modeling_mera import MeraForDiagnosis


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics (`Metrics`): the content of `metrics.json`.
        report (`dict`): what the report and its plots show, see [`~mera_hf.report.page.report_sections`].
        rankings (`dict`, *optional*): the arguments of `write_rankings` except the path, if rankings were asked for.
    """

    metrics: Metrics
    report: dict[str, Any]
    rankings: dict[str, Any] | None = None


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
        tokenizer (`PreTrainedTokenizerBase`): the checkpoint's tokenizer.
        folder (`str` or `Path`): a prepared dataset; the reference rankers are fitted on its train split.
        split (`str`, defaults to `"test"`): `train`, `validation` or `test`.
        references (`tuple[str, ...]`): reference rankers to fit; at least one.
        recipe (`str`, *optional*): name that goes into `run.recipe`.
        seed (`int`, defaults to 0): seed of the trained reference rankers and the control; recorded as the run's seed.
        batch_size (`int`, defaults to 64): patients in a forward pass.
        training, memorization (`dict`, *optional*): the log of the training and what was memorized, see `findings`.
        keep_rankings (`bool`, defaults to `False`): keep every patient's ranking, to be written as `rankings.parquet`.

    Raises:
        [`~mera_hf.errors.InputError`]: for a split that does not exist or is empty, or codes that the model lacks.
    """
    setting = Setting.open(folder, split, model.config.codes, references, seed)
    prepared, samples, codes = setting.prepared, setting.samples, setting.codes

    def rank(chosen: Sequence[Sample], title: str) -> ModelRanking:
        return rank_samples(model, tokenizer, chosen, batch_size, title)

    rankers, bands, curves = {}, {}, {}
    ranked: dict[str, Ranking] = {}
    on_validation: dict[str, Ranking] = {}

    def measure(name: str, answer: Ranking) -> None:
        tally = tally_ranking(answer.order, answer.set_sizes, samples, setting.ks)
        rankers[name], bands[name] = tally.measure(), intervals_of_runs([tally])
        curves[name] = recall_curve(answer.order, samples, max(setting.ks))
        ranked[name] = answer

    ranking = rank(samples, "ranking")
    measure("mera", ranking)
    controls = evaluation_controls(rank, ranking.order, samples, setting.ks, seed, model.config.use_profile)
    validation = rank(setting.validation, "validation") if setting.validation else None
    if validation is not None:
        on_validation["mera"] = validation
    for name, reference in setting.fit_references().items():
        measure(name, reference(samples))
        if setting.validation:
            on_validation[name] = reference(setting.validation)
    others = RankedPatients(setting.validation, codes, on_validation)
    patients = RankedPatients(samples, codes, ranked, prepared.train_visits(codes), others)
    sections = {name_of(section): section.measure(patients) for section in SECTIONS}
    severity = target_severity(setting.rows, samples)
    probabilities = calibration.measure(model.config, ranking, samples, validation, setting.validation, severity)
    if probabilities is not None:
        sections["calibration"] = probabilities
    parts = setting.described(protocol(model.config, prepared.codes), recipe) | {"rankers": rankers, **controls}
    parts["findings"] = findings(
        parts | {"intervals": bands, "cuts": sections["cuts"]}, training, memorization, model.config.to_dict()
    )
    metrics = build_metrics(intervals=bands, **parts, **sections)

    report: dict[str, Any] = {
        "metrics": metrics,
        "curves": curves,
        "sets": {"predicted": ranking.set_sizes, "true": [len(sample.target) for sample in samples]},
    }
    if not prepared.report["credentialed"]:  # a page with a real patient's codes is for open data only
        report["example"] = example_patient(ranking, samples, codes, model.config.descriptions or codes)
        report["example"]["reordered"] = model.config.rerank_depth
    kept = {"patient_ids": setting.ids, "codes": codes, "ranking": ranking} if keep_rankings else None
    return Evaluation(metrics, report, kept)
