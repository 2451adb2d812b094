"""The metrics of next-visit ranking, from rankings and never from scores, so that all rankers are measured alike.

Definitions (the protocol of the field, CGL and Chet, where no other source is given). y is the set of true codes of
one patient, top-k the first k codes of the ranking, `history` every code of the earlier visits:

- `recall@k`: mean over patients of |top-k and y| / |y|; the divisor is not min(k, |y|).
- `precision@k`: mean over patients of |top-k and y| / k.
- `accuracy@k`: mean over patients of |top-k and y| / min(k, |y|), which some papers call recall or accuracy. It is 1 where
  no better first k codes exist; never compare it with `recall@k`.
- `ndcg@k`: mean over patients of DCG@k / ideal DCG@k; a true code at rank r (from 1) of the first k gains 1 / log2(r + 1),
  and the ideal ranking has min(k, |y|) true codes in front (Järvelin and Kekäläinen 2002, binary gains).
- `map`: mean over patients of the average precision: the sum over true codes of precision@r at the code's rank r, divided
  by |y|. It looks at the whole ranking; a true code that is not ranked adds 0.
- `weighted_f1`: each patient's prediction is the top |y| codes, then F1 per code weighted by the code's support, as
  scikit-learn's `f1_score(average="weighted", zero_division=0)`. The size is the true one: an oracle.
- `macro_f1`: of the same predictions, the plain mean of F1 over the codes that are true for, or predicted for, at least one
  patient, as scikit-learn's `f1_score(average="macro", labels=those, zero_division=0)`. All codes weigh the same.
- `micro_f1`: of the same predictions, 2 hits / (predicted codes + true codes), all patients and codes together, as
  scikit-learn's `f1_score(average="micro")`.
- `weighted_f1_eov`, `macro_f1_eov`, `micro_f1_eov`: the same over the set that the ranker itself chose, the codes above EOV
  (paper).
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
from typing import TYPE_CHECKING

from mera_hf.errors import InputError
from mera_hf.evaluation.tally import check_k, tally_ranking


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.data.samples import Sample

KS = (10, 20, 30, 40)


def ks_up_to(n_codes: int, ks: Sequence[int] = KS) -> list[int]:
    """Those of `ks` that so many ranked codes allow."""
    return [k for k in ks if k <= n_codes]


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
    check_k(k, n_codes)
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise InputError(f"`scores` holds NaN, first in row {row}: the ranking of that patient is undefined.")
    order = np.empty((len(scores), k), dtype=np.int32)
    # One integer key per entry, (descending score, code index): keys are unique, so a partial sort breaks ties as a
    # stable full sort does. Blocks bound the memory for a full ICD tree.
    for start in range(0, len(scores), 1024):
        bits = (scores[start : start + 1024] + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
        negative = bits >> 31 == 1
        descending = np.where(negative, bits, ~bits & np.uint32(0x7FFFFFFF))  # the smallest is the best score
        keys = descending.astype(np.uint64) << 32 | np.arange(n_codes, dtype=np.uint64)
        if k < n_codes:
            keys = np.partition(keys, k - 1, axis=1)[:, :k]
        order[start : start + 1024] = np.sort(keys, axis=1) & np.uint64(0xFFFFFFFF)
    return order


def evaluate_ranking(
    order: np.ndarray, set_sizes: np.ndarray | None, samples: Sequence[Sample], ks: Sequence[int] = KS
) -> dict[str, float]:
    """All metrics of one ranker, under the names of `metrics.json`; the module's text defines each.

    Args:
        order (`np.ndarray` of shape (patients, K)):
            Integer code indices, the best first, without duplicates in a row; K at least the largest of `ks`, of the
            set sizes and of the numbers of true codes.
        set_sizes (`np.ndarray` of shape (patients,), *optional*):
            Number of codes above EOV: the predicted set is `order[i, :set_sizes[i]]`. If not given, the metrics of the
            set (the F1s ending in `_eov`, `mean_set_size`, `empty_set_share`) are left out.
        samples (`Sequence[Sample]`):
            What was to be predicted, in the order of the rows.
        ks (`Sequence[int]`, defaults to `(10, 20, 30, 40)`).

    Returns:
        `dict[str, float]`: fractions, not percent; sizes in codes.

    Raises:
        [`~mera_hf.errors.InputError`]: if the shapes disagree, a `k` is not between 1 and K, a code is ranked twice,
            or a sample has no true code.
    """
    return tally_ranking(order, set_sizes, samples, ks).measure()


def recall_curve(order: np.ndarray, samples: Sequence[Sample], kmax: int = 40) -> np.ndarray:
    """`recall@k` for k = 1 .. `kmax`: an array of shape (kmax,), float64."""
    import numpy as np

    order = np.asarray(order)
    check_k(kmax, order.shape[1])
    # Only the part of the ranking that the curve needs: inverting all of it would be most of the work
    width = max(kmax, *(len(set(sample.target)) for sample in samples))
    values = tally_ranking(order[:, :width], None, samples, range(1, kmax + 1)).values
    return np.array([values[f"recall@{k}"].mean() for k in range(1, kmax + 1)])
