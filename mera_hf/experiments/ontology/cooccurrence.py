"""How codes occur together in visits: counts of pairs of codes, compared with the number expected by chance.

All is this project's choice.

- A pair of codes is counted once for each visit that has both, or for each two consecutive visits of a patient that have
  one each, in either order. A code with itself is not a pair.
- Chance: every code keeps the number of pairs that it is in, and finds its partners blindly. The expected count of a pair
  is e = m_a m_b / M, with m the number of pairs of each code and M that of all codes. Unlike a chance based on the
  number of visits with each code, this one respects how many codes a visit has: some sources cut a visit after three.
- Positive PMI is max(0, log((n + 1) / (e + 1))). The 1 is smoothing: one pair seen where 0.01 were expected is worth
  log 2 and not log 100. Anything below chance counts as chance: most pairs are never seen, and for these PMI would
  only measure how common the two codes are, not how they are related.
- Company: the cosine of two codes' rows of positive PMI. Two codes that are never in one visit, because a doctor writes
  one or the other, can still keep the same company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from mera_hf.data.samples import multi_hot


if TYPE_CHECKING:
    import datasets
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Visits:
    """Visits as a table.

    Attributes:
        table (`scipy.sparse.csr_array` of shape (visits, codes)): 1 where a visit has a code; one patient after
            another, each with visits in order of time.
        patient (`np.ndarray` of shape (visits,), int): whose visit it is.
    """

    table: csr_array
    patient: np.ndarray

    def of(self, patients: np.ndarray) -> Visits:
        """The visits of some patients."""
        chosen = np.isin(self.patient, patients)
        return Visits(self.table[chosen], self.patient[chosen])


def read_visits(rows: datasets.Dataset, codes: Sequence[str]) -> Visits:
    """The visits of a split, keeping only codes that are in `codes`."""
    index = {code: i for i, code in enumerate(codes)}
    histories = [row["visits"] for row in rows.select_columns("visits")]
    visits = [[index[code] for code in visit["codes"] if code in index] for visit in chain.from_iterable(histories)]
    return Visits(multi_hot(visits, len(codes)), np.repeat(np.arange(len(histories)), [*map(len, histories)]))


def visit_pairs(visits: Visits) -> tuple[np.ndarray, np.ndarray]:
    """How often two codes are in one visit, and how often by chance: float64 of shape (codes, codes), zero diagonal."""
    return _against_chance((visits.table.T @ visits.table).toarray())


def next_visit_pairs(visits: Visits) -> tuple[np.ndarray, np.ndarray]:
    """How often two codes are in consecutive visits, one in each and in either order, and how often by chance."""
    before = np.flatnonzero(visits.patient[:-1] == visits.patient[1:])  # visits that have a next one
    together, chance = _against_chance((visits.table[before].T @ visits.table[before + 1]).toarray())
    return together + together.T, chance + chance.T


def _against_chance(together: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    together = together.astype(np.float64)
    np.fill_diagonal(together, 0)
    total = together.sum() or 1.0  # without any pairs nothing is expected either
    chance = np.outer(together.sum(axis=1), together.sum(axis=0)) / total
    np.fill_diagonal(chance, 0)
    return together, chance


def positive_pmi(together: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Smoothed positive PMI of shape (codes, codes) in nats, see the module docstring; zero diagonal."""
    return np.maximum(np.log((together + 1) / (chance + 1)), 0)


def company(pmi: np.ndarray) -> np.ndarray:
    """Cosine between the rows of positive PMI, shape (codes, codes); 0 for a code without company.

    It does not measure whether the two codes meet each other: a code's PMI with itself is 0.
    """
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(pmi)


def cooccurrence(visits: Visits) -> dict[str, np.ndarray]:
    """Three likenesses of codes, each of shape (codes, codes): `visit` and `next_visit` (positive PMI) and `company`."""
    pmi = positive_pmi(*visit_pairs(visits))
    return {"visit": pmi, "next_visit": positive_pmi(*next_visit_pairs(visits)), "company": company(pmi)}


def repeatability(visits: Visits, halvings: int = 10, seed: int = 0) -> dict[str, float]:
    """How much of each likeness of [`cooccurrence`] two samples of patients share: the share of the variance of its
    ranks that can be explained at all. The rest is chance.

    Patients are halved at random. The Spearman correlation r of the two halves' likeness over all pairs of codes is
    averaged over `halvings`, and 2 r / (1 + r) (Spearman-Brown) extends it to samples of full size. A likeness that is
    constant within a half is left out.
    """
    from scipy.stats import spearmanr

    rng = np.random.default_rng(seed)
    patients = np.unique(visits.patient)
    upper = np.triu_indices(visits.table.shape[1], 1)
    correlations: dict[str, list[float]] = {}
    for _ in range(halvings):
        halves = np.array_split(rng.permutation(patients), 2)
        first, second = (cooccurrence(visits.of(half)) for half in halves)
        for name in first:
            one, other = first[name][upper], second[name][upper]
            if np.ptp(one) and np.ptp(other):
                correlations.setdefault(name, []).append(spearmanr(one, other).statistic)
    means = {name: float(np.mean(found)) for name, found in correlations.items()}
    return {name: max(0.0, 2 * r / (1 + r)) for name, r in means.items()}
