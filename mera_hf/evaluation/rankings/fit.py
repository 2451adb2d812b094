"""One fit for all rankers: what a ranking is worth for weighted F1, learned on validation (this project's choice).

Weighted F1 rewards a ranker that knows how likely each code is, how much naming it adds, and where to stop. Much of that can
be learned on top of any ranking. So that a lead in weighted F1 is not one of such a fit, every ranker can be given the same:

1. the log-odds of a code, a logistic regression on where the ranker puts it and whether the history has it;
2. its worth by [`value_rule`], which puts the first codes of a patient in order, ten of them, or twice as
   many as a visit has on average if that is more;
3. the worth from which on a code is in the set, with the best weighted F1 of the set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample
from mera_hf.evaluation.rankings.ranked import Cut, Ranking, by_code
from mera_hf.evaluation.rankings.reference import fit_threshold


if TYPE_CHECKING:
    import numpy as np

DEPTH = 10  # codes that are put in order, at least; recall at the depth and beyond does not change
TIMES = 2  # where visits have many codes, this many times their mean number
CANDIDATES = 60  # the first codes of each patient, on which the log-odds are fitted
FEWEST = 20  # predicted visits that a fit needs
LEAST = 1e-6  # probabilities are not taken for smaller


@dataclass
class Fit:
    """Learned by [`Fit.learn`] from a ranker's rankings of validation patients; [`Fit.apply`] to others of that ranker.

    Attributes:
        n_codes (`int`): number of candidate codes.
        depth (`int`): number of first codes that are put in order.
        log_odds (`np.ndarray` of shape (5,), float32): weights of the features, and the constant.
        weight, threshold (`np.ndarray` of shape (codes,), float32): see [`value_rule`].
        cut (`float`): a code of the first `depth` is in the set if its worth is this much or more.
    """

    n_codes: int
    depth: int = field(init=False)
    log_odds: np.ndarray = field(init=False)
    weight: np.ndarray = field(init=False)
    threshold: np.ndarray = field(init=False)
    cut: float = field(init=False)

    def learn(self, ranking: Ranking, samples: Sequence[Sample]) -> Fit:
        """Learn from rankings of patients that the ranker was not trained on, and return itself.

        Args:
            ranking (`Ranking`): of all codes for the samples.
            samples (`Sequence[Sample]`): the last visits of the validation patients.
        """
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        hits = _held(ranking.order[:, :CANDIDATES], [sample.target for sample in samples], self.n_codes)
        inputs = np.stack([column.ravel() for column in self._features(ranking, samples, CANDIDATES)], axis=1)
        regression = LogisticRegression(C=1.0, max_iter=1000).fit(inputs, hits.ravel() > 0)
        self.log_odds = np.append(regression.coef_[0], regression.intercept_[0]).astype(np.float32)
        probabilities = by_code(ranking.order, self.probabilities(ranking, samples, self.n_codes))
        sizes = np.array([len(sample.target) for sample in samples])
        self.depth = min(self.n_codes, max(DEPTH, round(TIMES * sizes.mean())))
        first = ranking.order[:, : self.depth]
        self.weight, self.threshold = value_rule(probabilities, first, sizes)
        worth = np.full(probabilities.shape, -np.inf, dtype=np.float32)
        np.put_along_axis(worth, first, self._worth(ranking, samples), axis=1)
        self.cut = fit_threshold(worth, samples)
        return self

    def apply(self, ranking: Ranking, samples: Sequence[Sample]) -> Ranking:
        """The ranking with its first codes in the order of their worth, cut where they stop being worth it."""
        import numpy as np

        worth, first = self._worth(ranking, samples), ranking.order[:, : self.depth]
        places = np.argsort(-worth, axis=1, kind="stable")
        order = np.concatenate([np.take_along_axis(first, places, axis=1), ranking.order[:, self.depth :]], axis=1)
        return Ranking(order, Cut((worth >= self.cut).sum(axis=1), "threshold"))

    def probabilities(self, ranking: Ranking, samples: Sequence[Sample], width: int) -> np.ndarray:
        """P(code in the next visit) by the fit, of the first `width` codes of each ranking: (patients, width), float32."""
        from scipy.special import expit

        *weights, constant = self.log_odds
        terms = zip(weights, self._features(ranking, samples, width), strict=True)
        return expit(sum(weight * feature for weight, feature in terms) + constant)

    def _worth(self, ranking: Ranking, samples: Sequence[Sample]) -> np.ndarray:
        """The worth of the first `depth` codes of each ranking: (patients, `depth`), float32."""
        first = ranking.order[:, : self.depth]
        return self.weight[first] * (self.probabilities(ranking, samples, self.depth) - self.threshold[first])

    def _features(self, ranking: Ranking, samples: Sequence[Sample], width: int) -> list[np.ndarray]:
        """Of the first `width` codes of each ranking: log P by the ranker, or where it has none minus the logarithm of the
        place; whether it is in the last visit, and in the history; the first times the third. Each (patients, width), float32.
        """
        import numpy as np

        order = ranking.order[:, :width]
        if ranking.probabilities is None:
            place = np.log(np.arange(1, order.shape[1] + 1, dtype=np.float32))
            likely = np.tile(-place, (len(samples), 1))
        else:
            likely = np.log(np.maximum(ranking.probabilities[:, :width], LEAST, dtype=np.float32))
        last = _held(order, [sample.history[-1] for sample in samples], self.n_codes)
        known = _held(order, [list(sample.known) for sample in samples], self.n_codes)
        return [likely, last, known, likely * known]


def _held(order: np.ndarray, codes: Sequence[Sequence[int]], n_codes: int) -> np.ndarray:
    """Which codes of each ranking are among some: 0 or 1, float32, in the shape of `order`."""
    import numpy as np

    held, is_held = np.empty(order.shape, dtype=np.float32), np.zeros(n_codes, dtype=bool)
    for row, some in enumerate(codes):
        is_held[some] = True
        held[row] = is_held[order[row]]
        is_held[some] = False
    return held


def value_rule(probabilities: np.ndarray, candidates: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What naming a code is worth for weighted F1, as `weight * (probability - threshold)` (this project's choice).

    Weighted F1 is sum_c S_c 2 TP_c / (P_c + S_c) up to a factor, with S_c patients who have the code, P_c predicted to
    have it, and TP_c both. To first order, one more prediction of probability p adds
    2 S_c / (P_c + S_c) * (p - TP_c / (P_c + S_c)): a weight and a threshold for each code. Both depend on the
    predictions and these on them, so averaged steps find a fixed point. Counts are expected ones, not true codes.

    Args:
        probabilities (`np.ndarray` of shape (patients, codes)): P(code in the next visit).
        candidates (`np.ndarray` of shape (patients, K)): code indices that may be predicted.
        sizes (`np.ndarray` of shape (patients,)): number of codes to predict for each patient.

    Returns:
        weight and threshold of each code, float32 of shape (codes,).
    """
    import numpy as np

    codes = probabilities.shape[1]
    chances = np.take_along_axis(probabilities, candidates, axis=1).astype(np.float64)  # (patients, K)
    support = probabilities.sum(axis=0, dtype=np.float64)
    weight, threshold = np.ones(codes), np.zeros(codes)
    predicted, hits = np.zeros(codes), np.zeros(codes)
    for step in range(30):
        values = weight[candidates] * (chances - threshold[candidates])
        places = np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)
        chosen = places < sizes[:, None]
        now = np.bincount(candidates[chosen], minlength=codes)
        right = np.bincount(candidates[chosen], weights=chances[chosen], minlength=codes)
        share = 2 / (step + 2)
        predicted, hits = predicted + share * (now - predicted), hits + share * (right - hits)
        # Adding one to each count keeps very rare codes near the average
        threshold = hits / (predicted + support + 1)
        weight = 2 * (support + 1) / (predicted + support + 2)
    return weight.astype(np.float32), threshold.astype(np.float32)
