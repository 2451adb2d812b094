"""Checkpoints, rankings of other models and the reference rankers side by side, on the same patients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mera_hf.errors import InputError
from mera_hf.evaluation.bootstrap import intervals_of_runs
from mera_hf.evaluation.figures import Figures, spread
from mera_hf.evaluation.metrics import recall_curve
from mera_hf.evaluation.paired import compare
from mera_hf.evaluation.rankings.files import complete_order, read_rankings
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.rankings.ranked import Cut, Ranking
from mera_hf.evaluation.rankings.reference import REFERENCES
from mera_hf.evaluation.rankings.setting import EACH_OWN, Setting
from mera_hf.evaluation.results import Metrics, build_metrics
from mera_hf.evaluation.tally import Tally, tally_ranking


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

logger = logging.getLogger(__name__)
Run = Callable[[Setting], Ranking]
"""One run of a ranker: all codes ranked for the patients of a setting."""


def file_run(path: str | Path) -> Run:
    """The rankings in a file, see `read_rankings`."""
    return lambda setting: read_rankings(path, setting.ids, setting.codes)


def checkpoint_run(open_model: Callable[[], tuple[MeraForDiagnosis, PreTrainedTokenizerBase]], batch_size: int) -> Run:
    """A checkpoint, opened only when it is its turn, so that one model at a time is in memory.

    Like all others it is measured on the codes of the dataset: codes outside the dataset are removed from its ranking
    and its set, and codes that it does not know come last.
    """

    def rank(setting: Setting) -> Ranking:
        import numpy as np

        model, tokenizer = open_model()
        own = model.config.codes
        samples = setting.prepared.samples(setting.split, codes=own)
        ranking = rank_samples(model, tokenizer, samples, batch_size, "ranking")
        if own == setting.codes:
            return Ranking(ranking.order, ranking.cut)
        index = {code: i for i, code in enumerate(setting.codes)}
        order = np.array([index.get(code, -1) for code in own])[ranking.order]  # (patients, own codes)
        known = order >= 0
        left_out = len(set(own) - index.keys())
        if left_out:
            logger.warning("%d codes of a checkpoint are not in the dataset and are left out of its ranking", left_out)
        within = known & (np.arange(len(own)) < ranking.set_sizes[:, None])
        whole = complete_order(order[known], known.sum(axis=1), len(index))
        return Ranking(whole, Cut(within.sum(axis=1), ranking.cut.by))

    return rank


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        metrics (`Metrics`): the content of `metrics.json`.
        report (`dict`): what the page shows, see [`~mera_hf.report.page.render_comparison`].
    """

    metrics: Metrics
    report: dict[str, Any]


def compare_rankers(
    rankers: Mapping[str, Sequence[Run]],
    folder: str | Path,
    split: str = "test",
    references: Sequence[str] = REFERENCES,
    seed: int = 0,
) -> Comparison:
    """Measure rankers and reference rankers on the last visit of every patient of a split, and compare the first ranker with
    each other one, patient by patient.

    Args:
        rankers (`Mapping[str, Sequence[Run]]`):
            Name to the runs of a ranker, one per seed. See [`checkpoint_run`] and [`file_run`].
        folder (`str` or `Path`):
            A prepared dataset; the reference rankers are fitted on its train split.
        split (`str`, defaults to `"test"`):
            `train`, `validation` or `test`.
        references (`Sequence[str]`):
            Reference rankers to fit.
        seed (`int`, defaults to 0):
            Seed of the trained reference rankers, the draws and the swaps.

    Raises:
        [`~mera_hf.errors.InputError`]: for a split that does not exist or is empty, fewer than 10 codes, a ranker with the
            name of a reference ranker, or a ranker with set sizes in only some of its runs.
    """
    from tqdm import tqdm

    for name in rankers:
        if name in references:
            raise InputError(
                f"a ranker is called {name!r}, as a reference ranker is; put another name in front: `mine=...`."
            )
    setting = Setting.open(folder, split, references=references, seed=seed)
    tallies: dict[str, list[Tally]] = {}
    curves = {}

    def measure(name: str, answers: Iterable[Ranking]) -> None:
        tallies[name], recalls = [], []
        for answer in answers:
            tallies[name].append(tally_ranking(answer.order, answer.set_sizes, setting.samples, setting.ks))
            recalls.append(recall_curve(answer.order, setting.samples, max(setting.ks)))
        if len({tuple(tally.sets) for tally in tallies[name]}) > 1:
            raise InputError(f"some runs of {name!r} have set sizes and some do not; give them for all or for none.")
        curves[name] = sum(recalls) / len(recalls)

    for name, runs in rankers.items():
        measure(name, (run(setting) for run in runs))
    for name, rank in setting.fit_references().items():
        answer = rank(setting.samples)
        measure(name, [answer])

    first, *others = tallies
    comparisons = [
        {"a": first, "b": other, **row}
        for other in tqdm(others, desc="paired differences", unit="ranker")
        for row in compare(tallies[first], tallies[other], seed=seed)
    ]
    bands = {
        name: intervals_of_runs(runs, seed=seed)
        for name, runs in tqdm(tallies.items(), desc="intervals", unit="ranker")
    }
    metrics = build_metrics(
        **setting.described({"target": "last", "candidates": "cohort", "history": EACH_OWN}, None),
        rankers={name: _figures([tally.measure() for tally in runs]) for name, runs in tallies.items()},
        controls={},
        intervals=bands,
        comparisons=comparisons,
    )
    return Comparison(metrics, {"metrics": metrics, "curves": curves})


def _figures(runs: Sequence[dict[str, float]]) -> Figures:
    """The figures of one run, or their spread over several."""
    if len(runs) == 1:
        return runs[0]
    return {metric: spread([run[metric] for run in runs]) for metric in runs[0]}
