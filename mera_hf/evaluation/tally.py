"""The sums over patients from which the metrics of a ranking are computed.

Every metric is a function of such sums. So a thousand draws of the patients (bootstrap), or a thousand mixtures of two
rankers (paired permutation), cost only a few matrix products, and nothing is measured twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mera_hf.errors import InputError


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.data.samples import Sample

BLOCK = 2048  # patients whose sets form one matrix at a time, as a set may hold every code of a full ICD tree
POOLED = ("occurred", "not_occurred")  # shares of all true codes; the others are means over patients


@dataclass(frozen=True)
class CodeSets:
    """A set of codes for each patient; the set of patient i is `codes[ends[i] : ends[i + 1]]`.

    Attributes:
        codes (`np.ndarray` of shape (members,)): code indices.
        ends (`np.ndarray` of shape (patients + 1,)): where the sets begin and end.
    """

    codes: np.ndarray
    ends: np.ndarray

    def count(self, weights: np.ndarray, n_codes: int) -> np.ndarray:
        """How often each code is in a set, where patient i counts `weights[:, i]` times.

        Args:
            weights (`np.ndarray` of shape (draws, patients), float32): whole numbers.
            n_codes (`int`): number of codes.

        Returns:
            `np.ndarray` of shape (draws, codes), float64.
        """
        import numpy as np
        from scipy.sparse import csr_array

        counts = np.zeros((len(weights), n_codes), dtype=np.float32)  # whole numbers below 2^24 are exact
        for start in range(0, weights.shape[1], BLOCK):
            ends = self.ends[start : start + BLOCK + 1]
            codes = self.codes[ends[0] : ends[-1]]
            shape = (len(ends) - 1, n_codes)
            if len(codes) == shape[0] * n_codes:  # every code: the best set for a ranking by prevalence
                counts += weights[:, start : start + BLOCK].sum(axis=1, keepdims=True)
                continue
            sets = csr_array((np.ones(len(codes), dtype=np.float32), codes, ends - ends[0]), shape=shape)
            if len(codes) > 0.02 * shape[0] * n_codes:  # above about this density a dense product is faster
                sets = sets.toarray()
            counts += weights[:, start : start + BLOCK] @ sets  # (draws, codes)
        return counts.astype(np.float64)


@dataclass(frozen=True)
class Tally:
    """What one ranker did for each patient.

    Attributes:
        values (`dict[str, np.ndarray]`):
            Metric to its value for each patient, shape (patients,), for the metrics that are means over patients. `occurred@k`
            and `not_occurred@k` hold hits instead, see `POOLED`.
        truth (`CodeSets`):
            The true codes.
        sets (`dict[str, tuple[CodeSets, CodeSets]]`):
            The predicted set and its hits, by the suffix of the metrics' names: `""` for the true size, `"_eov"` for
            the ranker's own set (if it has one).
        n_codes (`int`):
            Number of codes.
    """

    values: dict[str, np.ndarray]
    truth: CodeSets
    sets: dict[str, tuple[CodeSets, CodeSets]]
    n_codes: int

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self.truth.ends) - 1

    def measure(self) -> dict[str, float]:
        """The metrics of all patients, under their names."""
        import numpy as np

        everybody = np.ones((1, self.patients), dtype=np.float32)
        return {name: float(value[0]) for name, value in self.figures(self.sums(everybody), self.patients).items()}

    def sums(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Sums over patients, where patient i counts `weights[:, i]` times: linear in `weights`.

        Args:
            weights (`np.ndarray` of shape (draws, patients), float32): whole numbers.

        Returns:
            `dict[str, np.ndarray]`: `values` of shape (draws, metrics), and `support`, `hits`, `predicted`, `hits_eov`,
            `predicted_eov` of shape (draws, codes).
        """
        import numpy as np

        sums = {"values": weights @ np.stack(list(self.values.values()), axis=1)}  # (draws, metrics)
        sums["support"] = self.truth.count(weights, self.n_codes)
        for ending, (predicted, hits) in self.sets.items():
            sums[f"predicted{ending}"] = predicted.count(weights, self.n_codes)
            sums[f"hits{ending}"] = hits.count(weights, self.n_codes)
        return sums

    def figures(self, sums: dict[str, np.ndarray], patients: int | np.ndarray) -> dict[str, np.ndarray]:
        """The metrics from sums over `patients` patients, one number or (draws,): a dict of arrays of shape (draws,)."""
        sum_of = dict(zip(self.values, sums["values"].T, strict=True))
        figures = {
            name: total / (sum_of["mean_true_size"] if name.split("@")[0] in POOLED else patients)
            for name, total in sum_of.items()
        }
        for ending in self.sets:
            figures |= {
                f"{name}{ending}": value
                for name, value in f1_scores(
                    sums[f"hits{ending}"], sums[f"predicted{ending}"], sums["support"]
                ).items()
            }
        return figures


def f1_scores(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    """`weighted_f1`, `macro_f1` and `micro_f1` from counts over patients, each of shape (..., codes)."""
    import numpy as np

    named = predicted + support  # (..., codes)
    f1 = 2 * hits / np.maximum(named, 1)  # 0 where a code is neither true nor predicted
    return {
        "weighted_f1": (f1 * support).sum(axis=-1) / support.sum(axis=-1),
        "macro_f1": f1.sum(axis=-1) / (named > 0).sum(axis=-1),
        "micro_f1": 2 * hits.sum(axis=-1) / named.sum(axis=-1),
    }


def tally_ranking(
    order: np.ndarray, set_sizes: np.ndarray | None, samples: Sequence[Sample], ks: Sequence[int]
) -> Tally:
    """Compute once what all metrics of a ranking need; arguments and errors as in
    [`~mera_hf.evaluation.metrics.evaluate_ranking`]."""
    import numpy as np

    order, set_sizes = _check_ranking(order, set_sizes, samples, ks)
    n, width = order.shape
    targets = [np.unique(sample.target) for sample in samples]
    sizes = np.array([len(target) for target in targets])  # (patients,)
    n_codes = 1 + max(int(order.max()), max(int(target[-1]) for target in targets))

    # One entry per true code of each patient
    patient, code = np.repeat(np.arange(n), sizes), np.concatenate(targets).astype(np.int32)
    rank, repeated = _ranks(order, samples, targets, n_codes)

    def per_patient(values: np.ndarray) -> np.ndarray:
        return np.bincount(patient, weights=values, minlength=n)

    values = {}
    gain = 1 / np.log2(np.arange(2, width + 2))  # (width,) of a hit at each rank
    ideal = gain.cumsum()
    for k in ks:
        hit = rank < k
        hits, known = per_patient(hit), per_patient(hit & repeated)
        values[f"recall@{k}"] = hits / sizes
        values[f"repeated_recall@{k}"] = known / sizes
        values[f"new_recall@{k}"] = (hits - known) / sizes
        values[f"occurred@{k}"] = known
        values[f"not_occurred@{k}"] = hits - known
        values[f"precision@{k}"] = hits / k
        values[f"accuracy@{k}"] = hits / np.minimum(k, sizes)
        dcg = per_patient(np.where(hit, gain[np.minimum(rank, width - 1)], 0.0))
        values[f"ndcg@{k}"] = dcg / ideal[np.minimum(k, sizes) - 1]
    # At the rank of the j-th true code, j codes so far are right
    ends = np.append(0, sizes.cumsum())
    ascending = rank[np.lexsort((rank, patient))]
    right = np.arange(1, len(rank) + 1) - np.repeat(ends[:-1], sizes)
    values["map"] = per_patient(np.where(ascending < width, right / (ascending + 1), 0.0)) / sizes
    values["mean_true_size"] = sizes.astype(np.float64)
    if set_sizes is not None:
        values["mean_set_size"] = set_sizes.astype(np.float64)
        values["empty_set_share"] = (set_sizes == 0).astype(np.float64)

    sets = {}
    for ending, chosen in {"": sizes, "_eov": set_sizes}.items():
        if chosen is not None:
            inside = np.arange(chosen.max()) < chosen[:, None]  # (patients, largest set)
            predicted = CodeSets(order[:, : chosen.max()][inside].astype(np.int32), np.append(0, chosen.cumsum()))
            hit = rank < chosen[patient]
            sets[ending] = (
                predicted,
                CodeSets(code[hit], np.append(0, np.bincount(patient[hit], minlength=n).cumsum())),
            )
    return Tally(values, CodeSets(code, ends), sets, n_codes)


def _ranks(order: np.ndarray, samples: Sequence[Sample], targets: Sequence[np.ndarray], n_codes: int) -> tuple:
    """For each true code of each patient, its place in the order from 0 (the order's width if the code is not in it),
    and whether the history has the code."""
    import numpy as np

    width = order.shape[1]
    places = np.arange(width)
    place = np.full(n_codes, width)  # (codes,) one patient's ranking, inverted
    ranks, repeated = [], []
    for row, (sample, target) in enumerate(zip(samples, targets, strict=True)):
        place[order[row]] = places
        if (place[order[row]] != places).any():
            raise InputError(f"`order` ranks a code twice in row {row}: each code may be listed once.")
        ranks.append(place[target])
        place[order[row]] = width
        known = sample.known
        repeated.append([int(code) in known for code in target])
    return np.concatenate(ranks), np.concatenate(repeated)


def _check_ranking(order: np.ndarray, set_sizes, samples: Sequence[Sample], ks: Sequence[int]) -> tuple:
    import numpy as np

    order = np.asarray(order)
    if not len(samples):
        raise InputError("`samples` is empty: there is no patient to measure.")
    if order.ndim != 2 or len(order) != len(samples) or not np.issubdtype(order.dtype, np.integer):
        raise InputError(
            f"`order` must hold one row of code indices per sample: {len(samples)} samples, but an array of shape "
            f"{order.shape} and type {order.dtype}."
        )
    if order.size and order.min() < 0:
        raise InputError("`order` holds a negative code index.")
    for k in ks:
        check_k(k, order.shape[1])
    for row, sample in enumerate(samples):
        if not sample.target:
            raise InputError(f"Sample {row} has no true code: recall is undefined for it.")
    largest = max(len(set(sample.target)) for sample in samples)
    if largest > order.shape[1]:
        raise InputError(f"`order` ranks {order.shape[1]} codes, but one patient has {largest} true codes: rank more.")
    if set_sizes is not None:
        set_sizes = np.asarray(set_sizes)
        if set_sizes.shape != (len(samples),) or set_sizes.min() < 0 or set_sizes.max() > order.shape[1]:
            raise InputError(
                f"`set_sizes` must hold {len(samples)} whole numbers between 0 and {order.shape[1]}, the width of "
                "`order`: rank more codes where a set is larger."
            )
    return order, set_sizes


def check_k(k: int, n_codes: int) -> None:
    """Refuse a `k` outside 1 .. the number of ranked codes."""
    if not 1 <= k <= n_codes:
        raise InputError(f"k={k} is not between 1 and {n_codes}, the number of ranked candidate codes.")
