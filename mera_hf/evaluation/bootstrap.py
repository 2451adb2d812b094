"""Bootstrap over patients: how much a figure owes to which patients are in the test split (this project's choice).

How much it owes to the training seed is another question: the spread over runs answers that one.

Macro F1 has no interval. A draw leaves out a third of the codes that a single patient has, and with these the lowest F1s, so
that its figure rises in nearly every draw (on Diabetes 130, a recurrent network: 5.9 %, and in the draws 5.9 to 7.1 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.metrics import KS
from mera_hf.evaluation.tally import Tally, tally_ranking


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.data.samples import Sample

BLOCK = 100  # draws at a time: each holds a count for every code


def intervals(
    order: np.ndarray,
    set_sizes: np.ndarray | None,
    samples: Sequence[Sample],
    ks: Sequence[int] = KS,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Bootstrap intervals over patients for every metric of [`~mera_hf.evaluation.metrics.evaluate_ranking`] but macro F1.

    Percentiles of the figures of resampled patients. The same seed draws the same patients for every ranker.

    Args:
        order, set_sizes, samples, ks: as in `evaluate_ranking`.
        resamples (`int`, defaults to 1000): number of draws of as many patients as there are, with replacement.
        level (`float`, defaults to 0.95): share of the draws inside the interval.
        seed (`int`, defaults to 0): of the draws.

    Returns:
        `dict[str, list[float]]`: `[low, high]` under the metric's name.

    Raises:
        [`~mera_hf.errors.InputError`]: as `evaluate_ranking`.
    """
    return intervals_of_runs([tally_ranking(order, set_sizes, samples, ks)], resamples, level, seed)


def intervals_of_runs(
    tallies: Sequence[Tally], resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, list[float]]:
    """[`intervals`] of the means over several runs of a ranker, on the same patients."""
    figures = resampled(tallies, resamples, seed)
    return {name: percentiles(values, level) for name, values in figures.items() if not name.startswith("macro_f1")}


def resampled(tallies: Sequence[Tally], resamples: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Every metric, as the mean over several runs of a ranker, for each of many draws of the patients.

    Args:
        tallies (`Sequence[Tally]`): one a run (training seed), of the same patients: each draw is the same for all runs.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): number of draws, and their seed.

    Returns:
        `dict[str, np.ndarray]`: metric to its figures, shape (resamples,).
    """
    import numpy as np

    blocks = []
    for weights in _draws(tallies[0].patients, resamples, seed):
        runs = [tally.figures(tally.sums(weights), tally.patients) for tally in tallies]
        blocks.append({name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def percentiles(values: np.ndarray, level: float = 0.95) -> list[float]:
    """`[low, high]`: the middle share `level` of the values lies between them."""
    import numpy as np

    return [float(end) for end in np.quantile(values, [(1 - level) / 2, (1 + level) / 2])]


def _draws(patients: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each draw has each patient: float32 arrays of shape (block, patients)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        yield rng.multinomial(patients, np.full(patients, 1 / patients), size=size).astype(np.float32)
