"""Paired comparison of two rankers on the same patients (this project's choice).

Gives the difference of each metric, its bootstrap interval over patients, and a p-value by permutation. If the two
rankers are exchangeable, swapping a patient's two rankings changes nothing, so differences between randomly swapped
rankers show what chance gives. Unlike flipping the signs of per-patient differences, this also works for weighted F1,
which is not a mean over patients. For metrics that are such means, both tests are the same.

With several runs (training seeds) per side, the means over runs are compared. Each draw of patients and each swap is
the same for all runs: interval and p-value show what other patients would change, not what other seeds would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mera_hf.errors import InputError
from mera_hf.evaluation.bootstrap import BLOCK, interval, resampled
from mera_hf.evaluation.tally import Tally


if TYPE_CHECKING:
    import numpy as np

HEADLINE = (
    *("recall@10", "recall@20", "repeated_recall@20", "new_recall@20", "ndcg@20", "map"),
    *("weighted_f1", "weighted_f1_eov"),
)


def compare(
    a: Sequence[Tally],
    b: Sequence[Tally],
    metrics: Sequence[str] = HEADLINE,
    resamples: int = 1000,
    permutations: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The paired differences between two rankers, `a` minus `b`.

    Args:
        a, b (`Sequence[Tally]`):
            One per run, from [`~mera_hf.evaluation.tally.tally_ranking`] on the same samples.
        metrics (`Sequence[str]`):
            Metrics to compare if both sides have them; by default the headline ones.
        resamples (`int`, defaults to 1000):
            Draws of the bootstrap.
        permutations (`int`, defaults to 2000):
            Random swaps; the smallest p-value is 1 / (permutations + 1).
        seed (`int`, defaults to 0):
            Seed of draws and swaps.

    Returns:
        `list[dict]`: one per metric, with `metric`, `difference` (fraction), `interval` (`[low, high]`, 95 %), `p`
        (two-sided) and `p_holm`, the p-value by Holm's correction for looking at all metrics of this list.

    Raises:
        [`~mera_hf.errors.InputError`]: if the runs were measured on different patients.
    """
    import numpy as np

    a, b = _alike(a, b)
    observed = _differences(a, b, [np.ones((1, a[0].patients), dtype=np.float32)])
    # Both sides of the bootstrap draw the same patients, as they share a seed
    drawn = [resampled(side, resamples, seed) for side in (a, b)]
    swapped = _differences(a, b, _swaps(a[0].patients, permutations, seed))
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        if metric not in observed:
            continue
        difference = float(observed[metric][0])
        as_large = (np.abs(swapped[metric]) >= abs(difference) - 1e-12).sum()  # up to rounding
        rows.append(
            {
                "metric": metric,
                "difference": difference,
                "interval": interval(difference, drawn[0][metric] - drawn[1][metric]),
                "p": float((as_large + 1) / (permutations + 1)),
            }
        )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down (1979): the chance of at least one false finding stays
    below the level."""
    import numpy as np

    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    corrected = np.empty_like(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def _alike(a: Sequence[Tally], b: Sequence[Tally]) -> tuple[list[Tally], list[Tally]]:
    """The runs of both sides, reduced to what all of them have, so that their sums can be added."""
    import numpy as np

    runs = [*a, *b]
    truth = a[0].truth
    same = (
        np.array_equal(run.truth.codes, truth.codes) and np.array_equal(run.truth.ends, truth.ends) for run in runs
    )
    if not all(same):
        raise InputError("The rankers were measured on different patients; a paired comparison needs the same ones.")
    values = [name for name in a[0].values if all(name in run.values for run in runs)]
    endings = [ending for ending in a[0].sets if all(ending in run.sets for run in runs)]
    n_codes = max(run.n_codes for run in runs)
    a, b = (
        [
            Tally(
                {name: run.values[name] for name in values}, truth, {each: run.sets[each] for each in endings}, n_codes
            )
            for run in side
        ]
        for side in (a, b)
    )
    return a, b


def _swaps(patients: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Which patients keep their rankings: float32 arrays of 0 and 1 of shape (block, patients)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for start in range(0, permutations, BLOCK):
        yield rng.integers(0, 2, size=(min(BLOCK, permutations - start), patients)).astype(np.float32)


def _differences(a: Sequence[Tally], b: Sequence[Tally], swaps: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """The differences of the means over runs, shape (swaps,), where patients that are not kept are swapped.

    A swap needs a partner run. Every run of one side is paired with every run of the other, and the differences are
    averaged. Without swaps this is the difference of the means, for any number of runs per side.
    """
    import numpy as np

    patients = a[0].patients
    everybody = np.ones((1, patients), dtype=np.float32)
    totals = [[run.sums(everybody) for run in side] for side in (a, b)]
    blocks = []
    for kept in swaps:
        stay = [[run.sums(kept) for run in side] for side in (a, b)]
        pairs = []
        for i, ours in enumerate(a):
            for j, theirs in enumerate(b):
                first, second = (
                    run.figures({name: own[name] + total[name] - other[name] for name in own}, patients)
                    for run, own, total, other in (
                        (ours, stay[0][i], totals[1][j], stay[1][j]),
                        (theirs, stay[1][j], totals[0][i], stay[0][i]),
                    )
                )
                pairs.append({name: first[name] - second[name] for name in first})
        blocks.append({name: np.mean([pair[name] for pair in pairs], axis=0) for name in pairs[0]})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
