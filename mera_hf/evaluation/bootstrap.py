"""The bootstrap over patients: how much a figure depends on the patients in the test split (this project's choice).

All bootstrap intervals of a page come from the same draws, so that they can be compared with one another; only a gap that
is measured on half of the patients has draws of its own.

How much it depends on the training seed is another question, which the spread over runs answers.

An interval is laid around its figure: the middle 95 % of the draws, moved so that their median is the figure. Draws say how
far a figure varies, but not where: a draw repeats some patients and leaves out others, and where codes are rare that alone
moves every F1, up for sets of nearly all codes. With 40 patients, 1,000 codes and sets of all codes the expected weighted F1
was in 6 % of the plain percentile intervals and in 97 % of these (of 200 simulated test splits). For a mean over
patients, such as recall, both are the same up to the chance of the draws.

Macro F1 has no interval. A draw leaves out a third of the codes that only one patient has. Most of the mean is over such
codes, and it varies less between draws than between test splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.figures import SIZE_METRICS
from mera_hf.evaluation.metrics import KS
from mera_hf.evaluation.tally import Tally, tally_ranking


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.data.samples import Sample

RESAMPLES = 1000
BLOCK = 100  # draws at a time, as each holds a count for every code
BLOCK_RESAMPLES = 32  # draws at a time where each holds the patients in order


def intervals(
    order: np.ndarray,
    set_sizes: np.ndarray | None,
    samples: Sequence[Sample],
    ks: Sequence[int] = KS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    patient: np.ndarray | None = None,
) -> dict[str, list[float]]:
    """Bootstrap 95 % intervals over patients for all metrics of `evaluate_ranking` except macro F1.

    They are [`interval`]s of the figures of resampled patients. The same seed draws the same patients for every ranker.

    Args:
        order, set_sizes, samples, ks: as in `evaluate_ranking`.
        resamples (`int`, defaults to 1000): number of draws, each of as many patients as there are, with replacement.
        seed (`int`, defaults to 0): seed of the draws.
        patient (`np.ndarray` of shape (samples,), *optional*): whose each sample is, as numbers from 0; by default each is of
            another patient. Several visits of a patient are drawn together, since they are alike.

    Returns:
        `dict[str, list[float]]`: `[low, high]` under the metric's name.

    Raises:
        [`~mera_hf.errors.InputError`]: as `evaluate_ranking`.
    """
    return intervals_of_runs([tally_ranking(order, set_sizes, samples, ks)], resamples, seed, patient)


def intervals_of_runs(
    tallies: Sequence[Tally], resamples: int = RESAMPLES, seed: int = 0, patient: np.ndarray | None = None
) -> dict[str, list[float]]:
    """[`intervals`] of the means over several runs of a ranker, on the same patients."""
    import numpy as np

    figures = [tally.measure() for tally in tallies]
    return {
        name: interval(float(np.mean([run[name] for run in figures])), drawn, 0, np.inf if name in SIZE_METRICS else 1)
        for name, drawn in resampled(tallies, resamples, seed, patient).items()
        if not name.startswith("macro_f1")
    }


def resampled(
    tallies: Sequence[Tally], resamples: int = RESAMPLES, seed: int = 0, patient: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric, as the mean over several runs of a ranker, for each of many draws of the patients.

    Args:
        tallies (`Sequence[Tally]`): one per run (training seed), of the same patients; all runs share each draw.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): number of draws, and their seed.
        patient (`np.ndarray`, *optional*): as in [`intervals`].

    Returns:
        `dict[str, np.ndarray]`: metric to its figures, shape (resamples,).
    """
    import numpy as np

    blocks = []
    patient = np.arange(tallies[0].patients) if patient is None else np.asarray(patient)
    for drawn in draws(1 + int(patient.max()), resamples, seed):
        weights = drawn[:, patient]  # (draws, samples)
        runs = [tally.figures(tally.sums(weights), weights.sum(axis=1)) for tally in tallies]
        blocks.append({name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(figure: float, drawn: np.ndarray, least: float = -1, most: float = 1) -> list[float]:
    """The 95 % interval of a figure, which always holds it: the middle of the draws, moved so that their median is the figure.

    Args:
        figure (`float`): as measured on all patients.
        drawn (`np.ndarray` of shape (draws,)): the figure of each draw; NaN is left out (a draw without a patient to
            measure).
        least (`float`, defaults to -1), most (`float`, defaults to 1): the range of the figure, which the interval keeps to.

    Returns:
        `list[float]`: `[low, high]`.
    """
    import numpy as np

    low, middle, high = np.nanquantile(np.asarray(drawn, dtype=np.float64), [0.025, 0.5, 0.975])
    return [float(max(least, figure + (low - middle))), float(min(most, figure + (high - middle)))]


def mean_interval(values: np.ndarray, least: float = -1) -> list[float]:
    """The [`interval`] of the mean of one value per patient, shape (patients,), each between `least` and 1."""
    import numpy as np

    means = [weights @ values / len(values) for weights in draws(len(values))]
    return interval(float(values.mean()), np.concatenate(means), least)


def draws(patients: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each draw has each patient: float32 arrays of shape (block, patients), in blocks of 100 draws."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - start)
        yield rng.multinomial(patients, np.full(patients, 1 / patients), size=size).astype(np.float32)


def all_draws(patients: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """[`draws`] as one array of shape (patients, resamples)."""
    import numpy as np

    drawn = np.empty((resamples, patients), dtype=np.float32)
    for number, block in enumerate(draws(patients, resamples, seed)):
        drawn[number * BLOCK : number * BLOCK + len(block)] = block
    return drawn.T
