"""Are the probabilities right? Reliability of codes and of the predicted sets (this project's choice).

Of the codes given a probability of 30 %, 30 % should be recorded. Codes are sorted into bins of equal size by probability;
the expected calibration error is the mean over bins of |mean probability - share recorded|, weighted by their numbers, and
the Brier score is the mean of (probability - recorded)^2. Tables of patients x codes are read in chunks and stay float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mera_hf.evaluation.bootstrap import draws, interval
from mera_hf.evaluation.figures import FEWEST_PATIENTS


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.data.samples import Sample

BINS = 15
CANDIDATES = 60  # best codes of each patient, used to fit a temperature
CHUNK = 2**22  # pairs of a patient and a code at a time


def places_hit(order: np.ndarray, samples: Sequence[Sample]) -> np.ndarray:
    """Which places of each ranking hold a true code: bool, in the shape of `order`, (patients, K)."""
    import numpy as np

    truth = np.zeros(order.shape, dtype=bool)
    is_true = np.zeros(1 + max(int(order.max()), *(max(sample.target) for sample in samples)), dtype=bool)  # (codes,)
    for row, sample in enumerate(samples):
        is_true[sample.target] = True
        truth[row] = is_true[order[row]]
        is_true[sample.target] = False
    return truth


@dataclass(frozen=True)
class Reliability:
    """Sums for each patient and bin, from which every figure and its bootstrap follow.

    Attributes:
        count, predicted, observed (`np.ndarray` of shape (patients, bins), float64):
            number of codes, sum of their probabilities, and number of true ones.
        squares (`np.ndarray` of shape (patients,), float64): sum of (probability - recorded)^2.
    """

    count: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    squares: np.ndarray

    def ece(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The expected calibration error; with weights (resamples, patients), one for each resample."""
        import numpy as np

        weights = np.ones((1, len(self.count))) if weights is None else weights
        gaps = np.abs(weights @ (self.predicted - self.observed)).sum(axis=1)  # (resamples,)
        return gaps / np.maximum(weights @ self.count.sum(axis=1), 1)

    def figures(self) -> dict:
        """`ece`, `brier`, and `bins` of `predicted` (mean probability), `observed` (share recorded) and `count`; bins
        of fewer than 10 pairs are left out."""
        count, predicted, observed = (table.sum(axis=0) for table in (self.count, self.predicted, self.observed))
        return {
            "ece": float(self.ece()[0]),
            "brier": float(self.squares.sum() / count.sum()),
            "bins": [
                {"predicted": float(p / n), "observed": float(o / n), "count": int(n)}
                for n, p, o in zip(count, predicted, observed, strict=True)
                if n >= FEWEST_PATIENTS
            ],
        }


def reliability(
    probabilities: np.ndarray, truth: np.ndarray, widths: int | np.ndarray | None = None, bins: int = BINS
) -> Reliability:
    """Compare probabilities with what was recorded, in bins of equal numbers.

    Args:
        probabilities (`np.ndarray` of shape (patients, K)): in the order of the ranking, float32.
        truth (`np.ndarray` of shape (patients, K)): bool, from [`places_hit`].
        widths (`int` or `np.ndarray` of shape (patients,), *optional*):
            How many first codes of each patient to use, such as 40 or the set sizes; all by default.
        bins (`int`, defaults to 15): there may be fewer, as equal probabilities share a bin.
    """
    import numpy as np

    n, k = probabilities.shape
    widths = np.broadcast_to(k if widths is None else np.minimum(widths, k), n)
    inside = np.arange(widths.max()) < widths[:, None]  # (patients, largest width)
    step = max(1, int(widths.sum()) // CHUNK)  # a sample of the patients is enough for the edges
    sampled = probabilities[::step, : inside.shape[1]][inside[::step]]
    edges = np.unique(np.quantile(sampled, np.linspace(0, 1, bins + 1)[1:-1])) if sampled.size else np.zeros(0)
    bins = len(edges) + 1
    tables = np.zeros((3, n * bins))
    squares = np.zeros(n)
    rows = max(1, CHUNK // inside.shape[1]) if inside.size else n
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        chosen = inside[part]
        p = probabilities[part, : inside.shape[1]][chosen]  # (pairs,)
        y = truth[part, : inside.shape[1]][chosen]
        patient = np.repeat(np.arange(start, start + len(chosen)), widths[part])
        cell = patient * bins + np.searchsorted(edges.astype(p.dtype), p)
        first, last = start * bins, (start + len(chosen)) * bins
        for table, weights in zip(tables, (None, p, y), strict=True):
            table[first:last] = np.bincount(cell - first, weights, last - first)
        squares[part] = np.bincount(patient - start, (p - y) ** 2, len(chosen))
    count, predicted, observed = tables.reshape(3, n, bins)
    return Reliability(count, predicted, observed, squares)


def set_figures(codes: Reliability) -> dict:
    """Figures of the predicted sets: `expected` and `actual` right codes, means over patients, and `groups` of
    patients by the mean probability of their set, each with `patients`, `probability`, `expected` and `actual`.

    Args:
        codes (`Reliability`): reliability of the codes in the sets, `reliability(..., widths=set_sizes)`.
    """
    import numpy as np

    size, expected, actual = (table.sum(axis=1) for table in (codes.count, codes.predicted, codes.observed))
    filled = size.nonzero()[0]
    order = filled[np.argsort(expected[filled] / size[filled], kind="stable")]
    groups = np.array_split(order, min(10, len(order) // FEWEST_PATIENTS)) if len(order) >= FEWEST_PATIENTS else []
    return {
        "expected": float(expected.mean()),
        "actual": float(actual.mean()),
        "groups": [
            {
                "patients": len(group),
                "probability": float((expected[group] / size[group]).mean()),
                "expected": float(expected[group].mean()),
                "actual": float(actual[group].mean()),
            }
            for group in groups
        ],
    }


def fit_temperature(margins: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Temperature T and EOV offset b with P = sigmoid((margin - b) / T), by maximum likelihood over the first codes of each
    patient. Neither changes the order of a patient's codes.

    Args:
        margins (`np.ndarray` of shape (patients, K)): code logit minus EOV logit, in the order of the ranking.
        truth (`np.ndarray` of shape (patients, K)): bool, from [`places_hit`].
    """
    import numpy as np
    from scipy.special import logit
    from sklearn.linear_model import LogisticRegression

    inputs = margins[:, :CANDIDATES].reshape(-1, 1).astype(np.float64)
    regression = LogisticRegression(C=1e6, max_iter=1000).fit(inputs, truth[:, :CANDIDATES].ravel())
    slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if slope < 1e-6:  # an untrained model may rank backwards; then a large temperature gives all codes the mean
        slope, intercept = 1e-6, float(logit(truth[:, :CANDIDATES].mean()))
    return 1 / slope, -intercept / slope


def improvement(before: Reliability, after: Reliability) -> dict:
    """By how much the expected calibration error falls: `ece` and its 95 % bootstrap `interval` over patients."""
    import numpy as np

    falls = [before.ece(weights) - after.ece(weights) for weights in draws(len(before.count))]
    fall = float(before.ece()[0] - after.ece()[0])
    return {"ece": fall, "interval": interval(fall, np.concatenate(falls))}
