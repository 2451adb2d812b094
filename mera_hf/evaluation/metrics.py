"""The metrics of next-visit ranking, from rankings and never from scores, so that every ranker is measured alike.

Definitions (the protocol of the field, CGL and Chet, where no other source is given). y is the set of true codes of
one patient, top-k the first k codes of the ranking, `history` every code of the earlier visits:

- `recall@k`: mean over patients of |top-k and y| / |y|; the divisor is not min(k, |y|).
- `weighted_f1`: each patient's prediction is the top |y| codes, then F1 per code weighted by the code's support, as
  scikit-learn's `f1_score(average="weighted", zero_division=0)`. It knows the true size: an oracle of the set's size.
- `weighted_f1_eov`: the same F1 over the set that the ranker itself chose, the codes above EOV (paper).
- `repeated_recall@k`, `new_recall@k`: mean over patients of the share of y that is in the top k and was, or was not,
  in the history. They add up to `recall@k`. Chet's program averages its "occurred" and "not occurred" in this way,
  with the last visit alone as the history.
- `occurred@k`, `not_occurred@k`: the same two parts pooled over codes instead of averaged over patients: of all true
  codes of all patients, the share in the top k that was, or was not, in the history. They add up to the micro recall.
- `mean_set_size`, `mean_true_size`, `empty_set_share`: codes above EOV and true codes per patient, and the share of
  patients with no code above EOV (this project's choice).

Ties are broken once, where scores become an order: the lower code index comes first ([`order_from_scores`]).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mera_hf.errors import InputError


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.data.samples import Sample

KS = (10, 20, 30, 40)


def order_from_scores(scores: np.ndarray, k: int | None = None) -> np.ndarray:
    """Rank codes by score, the best first; among equal scores the lower code index comes first.

    Args:
        scores (`np.ndarray` of shape (patients, codes)):
            Compared as float32. Infinities are fine, NaN is not.
        k (`int`, *optional*):
            Keep the first `k` codes only; all by default.

    Returns:
        `np.ndarray` of shape (patients, k), int32: code indices.

    Raises:
        [`~mera_hf.errors.InputError`]: if a score is NaN, or `k` is not between 1 and the number of codes.
    """
    import numpy as np

    scores = np.atleast_2d(np.asarray(scores, dtype=np.float32))  # (patients, codes)
    n_codes = scores.shape[1]
    k = n_codes if k is None else k
    _check_k(k, n_codes)
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise InputError(f"`scores` holds NaN, first in row {row}: the ranking of that patient is undefined.")
    order = np.empty((len(scores), k), dtype=np.int32)
    # One integer key per entry, (descending score, code index): keys are unique, so that a partial sort cannot break
    # ties in another way than a stable full sort. Blocks bound the memory at a full ICD tree.
    for start in range(0, len(scores), 1024):
        bits = (scores[start : start + 1024] + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
        negative = bits >> 31 == 1
        descending = np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF))  # the smallest is the best score
        keys = descending.astype(np.uint64) << 32 | np.arange(n_codes, dtype=np.uint64)
        if k < n_codes:
            keys = np.partition(keys, k - 1, axis=1)[:, :k]
        order[start : start + 1024] = np.sort(keys, axis=1) & np.uint64(0xFFFFFFFF)
    return order


@dataclass(frozen=True)
class _TrueCodes:
    """One entry per true code of each patient: all metrics are counts over these."""

    patient: np.ndarray  # (true codes,) row of the sample
    code: np.ndarray  # (true codes,)
    rank: np.ndarray  # (true codes,) place in the order from 0; the order's width where the code is not in it
    repeated: np.ndarray  # (true codes,) bool: in the history
    sizes: np.ndarray  # (patients,) number of true codes
    n_codes: int


def _true_codes(order: np.ndarray, samples: Sequence[Sample]) -> _TrueCodes:
    import numpy as np

    n_patients, width = order.shape
    targets = [np.unique(sample.target) for sample in samples]
    n_codes = 1 + max(int(order.max()), max(int(target[-1]) for target in targets))
    places = np.arange(width)
    place = np.full(n_codes, width)  # (codes,) one patient's ranking, inverted
    ranks, repeated = [], []
    for row, (sample, target) in enumerate(zip(samples, targets, strict=True)):
        place[order[row]] = places
        if (place[order[row]] != places).any():
            raise InputError(f"`order` ranks a code twice in row {row}: each code may be listed once.")
        ranks.append(place[target])
        place[order[row]] = width
        history = {code for visit in sample.history for code in visit}
        repeated.append([int(code) in history for code in target])
    sizes = np.array([len(target) for target in targets])
    return _TrueCodes(
        np.repeat(np.arange(n_patients), sizes),
        np.concatenate(targets),
        np.concatenate(ranks),
        np.concatenate(repeated),
        sizes,
        n_codes,
    )


def _check_k(k: int, n_codes: int) -> None:
    if not 1 <= k <= n_codes:
        raise InputError(f"k={k} is not between 1 and {n_codes}, the number of ranked candidate codes.")


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
        _check_k(k, order.shape[1])
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


def _set_matrices(order, sizes, true: _TrueCodes) -> tuple:
    """The set `order[:, :size]` and its hits as sparse 0/1 matrices (patients, codes)."""
    import numpy as np
    from scipy.sparse import csr_array

    shape = (len(order), true.n_codes)
    inside = np.arange(order.shape[1]) < sizes[:, None]  # (patients, width)
    rows, columns = inside.nonzero()[0], order[inside]
    hit = true.rank < sizes[true.patient]
    predicted = csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    hits = csr_array((np.ones(hit.sum()), (true.patient[hit], true.code[hit])), shape=shape)
    return predicted, hits


def _weighted_f1(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """F1 per code, weighted by support: 2 hits / (predicted + support), from counts (..., codes) over patients."""
    import numpy as np

    f1 = 2 * hits / np.maximum(predicted + support, 1)  # (..., codes); 0 where a code is neither true nor predicted
    return (f1 * support).sum(axis=-1) / support.sum(axis=-1)


def evaluate_ranking(
    order: np.ndarray, set_sizes: np.ndarray | None, samples: Sequence[Sample], ks: Sequence[int] = KS
) -> dict[str, float]:
    """All metrics of one ranker, under the names of `metrics.json`; the module's text defines each.

    Args:
        order (`np.ndarray` of shape (patients, K)):
            Integer code indices, the best first, without duplicates in a row; K at least the largest of `ks`, of the
            set sizes and of the numbers of true codes.
        set_sizes (`np.ndarray` of shape (patients,), *optional*):
            Number of codes above EOV: the predicted set is `order[i, :set_sizes[i]]`. Without it the metrics of the
            set (`weighted_f1_eov`, `mean_set_size`, `empty_set_share`) are left out.
        samples (`Sequence[Sample]`):
            What was to be predicted, in the rows' order.
        ks (`Sequence[int]`, defaults to `(10, 20, 30, 40)`).

    Returns:
        `dict[str, float]`: fractions, not percent; sizes in codes.

    Raises:
        [`~mera_hf.errors.InputError`]: if the shapes disagree, a `k` is not between 1 and K, a code is ranked twice,
            or a sample has no true code.
    """
    import numpy as np

    order, set_sizes = _check_ranking(order, set_sizes, samples, ks)
    true = _true_codes(order, samples)
    share = 1 / true.sizes[true.patient] / len(order)  # (true codes,) what one hit adds to a mean over patients
    metrics = {}
    for k in ks:
        hit = true.rank < k
        metrics[f"recall@{k}"] = share[hit].sum()
        metrics[f"repeated_recall@{k}"] = share[hit & true.repeated].sum()
        metrics[f"new_recall@{k}"] = share[hit & ~true.repeated].sum()
        metrics[f"occurred@{k}"] = (hit & true.repeated).mean()
        metrics[f"not_occurred@{k}"] = (hit & ~true.repeated).mean()
    support = np.bincount(true.code, minlength=true.n_codes)
    sets = {"weighted_f1": true.sizes} | ({} if set_sizes is None else {"weighted_f1_eov": set_sizes})
    for name, sizes in sets.items():
        predicted, hits = _set_matrices(order, sizes, true)
        metrics[name] = _weighted_f1(hits.sum(axis=0), predicted.sum(axis=0), support)
    if set_sizes is not None:
        metrics["mean_set_size"] = set_sizes.mean()
        metrics["empty_set_share"] = (set_sizes == 0).mean()
    metrics["mean_true_size"] = true.sizes.mean()
    return {name: float(value) for name, value in metrics.items()}


def recall_curve(order: np.ndarray, samples: Sequence[Sample], kmax: int = 40) -> np.ndarray:
    """`recall@k` for k = 1 .. `kmax`: an array of shape (kmax,), float64."""
    import numpy as np

    order, _ = _check_ranking(order, None, samples, (kmax,))
    true = _true_codes(order, samples)
    share = 1 / true.sizes[true.patient] / len(order)
    return np.bincount(true.rank, weights=share, minlength=kmax)[:kmax].cumsum()


def intervals(
    order: np.ndarray,
    set_sizes: np.ndarray | None,
    samples: Sequence[Sample],
    ks: Sequence[int] = KS,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Bootstrap intervals over patients for `recall@k`, its two parts and the weighted F1s (this project's choice).

    Percentiles of the figures of resampled patients. They say how much a figure owes to which patients are in the test
    split; how much it owes to the training seed is said by the spread over runs.

    Returns:
        `dict[str, list[float]]`: `[low, high]` under the metric's name.
    """
    import numpy as np

    order, set_sizes = _check_ranking(order, set_sizes, samples, ks)
    true = _true_codes(order, samples)
    n = len(order)
    per_patient = {}  # metric -> (patients,)
    for k in ks:
        for name, part in (("recall", True), ("repeated_recall", true.repeated), ("new_recall", ~true.repeated)):
            hits = np.bincount(true.patient, weights=(true.rank < k) & part, minlength=n)
            per_patient[f"{name}@{k}"] = hits / true.sizes
    names, values = list(per_patient), np.stack(list(per_patient.values()), axis=1)  # (patients, metrics)
    sets = {"weighted_f1": true.sizes} | ({} if set_sizes is None else {"weighted_f1_eov": set_sizes})
    matrices = {name: _set_matrices(order, sizes, true) for name, sizes in sets.items()}
    _, truth = _set_matrices(order, np.full(n, order.shape[1] + 1), true)
    rng = np.random.default_rng(seed)
    draws = {name: [] for name in [*names, *sets]}
    for start in range(0, resamples, 100):
        block = min(100, resamples - start)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=block).astype(float)  # (block, patients) times drawn
        for name, column in zip(names, (weights @ values / n).T, strict=True):
            draws[name].append(column)
        support = (truth.T @ weights.T).T  # (block, codes)
        for name, (predicted, hits) in matrices.items():
            draws[name].append(_weighted_f1((hits.T @ weights.T).T, (predicted.T @ weights.T).T, support))
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {name: [float(x) for x in np.quantile(np.concatenate(blocks), tails)] for name, blocks in draws.items()}
