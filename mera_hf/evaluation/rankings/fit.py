"""One fit for all rankers: what a ranking is worth for weighted F1, learned on validation (this project's choice).

Weighted F1 rewards a ranker that knows how likely each code is, how much naming it adds, and where to stop. Much of that can
be learned on top of any ranking. So that a lead in weighted F1 is not one of such a fit, every ranker can be given the same:

1. the log-odds of a code, a logistic regression on where the ranker puts it and whether the history has it;
2. its worth by [`value_rule`], which puts the first ten codes of a patient in order;
3. the worth from which on a code is in the set, with the best weighted F1 of the set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample, multi_hot
from mera_hf.evaluation.rankings.ranked import Cut, Ranking
from mera_hf.evaluation.rankings.reference import fit_threshold


if TYPE_CHECKING:
    import numpy as np

DEPTH = 10  # codes that are put in order; recall at this depth and beyond does not change
CANDIDATES = 60  # the first codes of each patient, on which the log-odds are fitted
LEAST = 1e-6  # probabilities are not taken for smaller


@dataclass
class Fit:
    """Learned by [`Fit.learn`] from a ranker's rankings of validation patients; [`Fit.apply`] to others of that ranker.

    Attributes:
        log_odds (`np.ndarray` of shape (5,), float32): weights of the features, and the constant.
        weight, threshold (`np.ndarray` of shape (codes,), float32): see [`value_rule`].
        cut (`float`): a code of the first `DEPTH` is in the set if its worth is this much or more.
    """

    n_codes: int
    log_odds: np.ndarray = field(init=False)
    weight: np.ndarray = field(init=False)
    threshold: np.ndarray = field(init=False)
    cut: float = field(init=False)

    def learn(self, ranking: Ranking, samples: Sequence[Sample]) -> Fit:
        """
        Args:
            ranking (`Ranking`): of all codes for the samples.
            samples (`Sequence[Sample]`): the last visits of the validation patients.
        """
        import numpy as np
        from sklearn.linear_model import LogisticRegression

        first = ranking.order[:, :CANDIDATES]  # (patients, K)
        truth = multi_hot([sample.target for sample in samples], self.n_codes).toarray()
        hits = np.take_along_axis(truth, first, axis=1) > 0
        inputs = np.stack([column[:, :CANDIDATES].ravel() for column in self._features(ranking, samples)], axis=1)
        regression = LogisticRegression(C=1.0, max_iter=1000).fit(inputs, hits.ravel())
        self.log_odds = np.append(regression.coef_[0], regression.intercept_[0]).astype(np.float32)
        probabilities = self.probabilities(ranking, samples)
        sizes = np.array([len(sample.target) for sample in samples])
        self.weight, self.threshold = value_rule(probabilities, ranking.order[:, :DEPTH], sizes)
        self.cut = fit_threshold(self._worth(ranking, samples), samples)
        return self

    def apply(self, ranking: Ranking, samples: Sequence[Sample]) -> Ranking:
        """The ranking with its first codes in the order of their worth, cut where they stop being worth it."""
        import numpy as np

        worth = np.take_along_axis(self._worth(ranking, samples), first := ranking.order[:, :DEPTH], axis=1)
        places = np.argsort(-worth, axis=1, kind="stable")
        order = np.concatenate([np.take_along_axis(first, places, axis=1), ranking.order[:, DEPTH:]], axis=1)
        return Ranking(order, Cut((worth >= self.cut).sum(axis=1), "threshold"))

    def probabilities(self, ranking: Ranking, samples: Sequence[Sample]) -> np.ndarray:
        """P(code in the next visit) by the fit: (patients, codes), float32, codes in their own order."""
        import numpy as np
        from scipy.special import expit

        *weights, constant = self.log_odds
        terms = zip(weights, self._features(ranking, samples), strict=True)
        fitted = expit(sum(weight * feature for weight, feature in terms) + constant)  # in the order of the ranking
        probabilities = np.empty(fitted.shape, dtype=np.float32)
        np.put_along_axis(probabilities, ranking.order, fitted, axis=1)
        return probabilities

    def _worth(self, ranking: Ranking, samples: Sequence[Sample]) -> np.ndarray:
        """The worth of the first `DEPTH` codes, -inf elsewhere: (patients, codes), float32."""
        import numpy as np

        first = ranking.order[:, :DEPTH]
        chosen = np.take_along_axis(self.probabilities(ranking, samples), first, axis=1)
        worth = np.full((len(samples), self.n_codes), -np.inf, dtype=np.float32)
        np.put_along_axis(worth, first, self.weight[first] * (chosen - self.threshold[first]), axis=1)
        return worth

    def _features(self, ranking: Ranking, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Of each code in the order of the ranking: log P by the ranker, or where it has none minus the logarithm of its
        place; whether it is in the last visit, and in the history; the first times the third. Each float32 (patients, codes).
        """
        import numpy as np

        if ranking.probabilities is None:
            place = np.log(np.arange(1, self.n_codes + 1, dtype=np.float32))
            likely = np.tile(-place, (len(samples), 1))
        else:
            likely = np.log(np.maximum(ranking.probabilities, LEAST, dtype=np.float32))
        seen = [[sample.history[-1] for sample in samples], [sample.known for sample in samples]]
        last, known = (
            np.take_along_axis(multi_hot(codes, self.n_codes).toarray(), ranking.order, axis=1) for codes in seen
        )
        return [likely, last, known, likely * known]


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
