"""Controls: measurements that must come out badly, or the ranker has not learned what it claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mera_hf.data.samples import Sample
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import KS, evaluate_ranking


def shuffled_histories(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Give each sample the history of another one, with its texts; profile and target stay.

    The permutation is one cycle through all samples in a random order, so that nobody keeps their own history.

    Raises:
        [`~mera_hf.errors.InputError`]: with fewer than two samples.
    """
    import numpy as np

    if len(samples) < 2:
        raise InputError(f"The shuffled-history control needs two samples or more, not {len(samples)}.")
    cycle = np.random.default_rng(seed).permutation(len(samples))
    shuffled = list(samples)
    for receiver, giver in zip(cycle, np.roll(cycle, 1), strict=True):
        given = samples[giver]
        shuffled[receiver] = replace(samples[receiver], history=given.history, texts=given.texts)
    return shuffled


def shuffled_history(
    rank: Callable[[Sequence[Sample]], tuple], samples: Sequence[Sample], ks: Sequence[int] = KS, seed: int = 0
) -> dict[str, float]:
    """Metrics of a ranker that was shown other patients' histories (this project's choice).

    What is left is what a ranker knows without the patient: about the prevalence ranker's figures. A ranker that keeps
    its recall here does not use the history.

    Args:
        rank (`Callable`):
            From samples to `(order, set_sizes)`, as [`~mera_hf.evaluation.reference.rank_function`] gives.
        samples (`Sequence[Sample]`):
            The samples that the ranker was measured on, one a patient. Repeated and new codes are still told apart by
            each patient's own history, so that the split of recall compares with the ranker's row.

    Returns:
        `dict[str, float]`: as [`~mera_hf.evaluation.metrics.evaluate_ranking`].
    """
    order, set_sizes = rank(shuffled_histories(samples, seed))
    return evaluate_ranking(order, set_sizes, samples, ks)
