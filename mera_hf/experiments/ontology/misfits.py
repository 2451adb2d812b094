"""Where tree and medicine differ: groups whose codes keep different company, and distant codes that belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mera_hf.evaluation.figures import FEWEST_PATIENTS
from mera_hf.experiments.ontology.cooccurrence import Visits
from mera_hf.experiments.ontology.groupings import Grouping


FEWEST_CODES = 3
RANDOM_GROUPS = 1000
_FREQUENCY_CLASSES = 5


def group_fit(
    grouping: Grouping,
    likeness: np.ndarray,
    counts: tuple[np.ndarray, np.ndarray],
    visits_of_code: np.ndarray,
    seed: int = 0,
) -> list[dict]:
    """How much more alike the codes of a group are than those of random groups of its size, the worst group first.

    For each code of the group, a random group has one of similar frequency (the same fifth of codes by number of
    visits), since common codes keep more company of any kind.

    Args:
        grouping (`Grouping`): groups with three codes or more are measured.
        likeness (`np.ndarray` of shape (codes, codes)): of the codes.
        counts: pairs seen in one visit and pairs expected by chance, each of shape (codes, codes).
        visits_of_code (`np.ndarray` of shape (codes,)): visits of each code.
        seed (`int`, defaults to 0): seed of the random groups.

    Returns:
        `list[dict]`: `group`, `codes` (how many), `within` (mean likeness over pairs), `chance` (mean of the random groups),
        `chance_range` (their middle 95 %), `z`, `lift` (pairs seen in one visit over pairs expected, `None` where none is
        expected) and `nearest`, the other group whose codes are most like those of this one, with their `likeness`
        (`None` without another group). Empty if all codes are equally alike.
    """
    if not np.ptp(likeness[np.triu_indices(len(likeness), 1)]):
        return []
    rng = np.random.default_rng(seed)
    frequency_class = _equal_classes(visits_of_code)
    members = {label: np.flatnonzero(grouping.labels == label) for label in range(len(grouping.names))}
    members = {label: codes for label, codes in members.items() if len(codes) >= FEWEST_CODES}
    found = []
    for label, codes in members.items():
        within = _mean_over_pairs(likeness, codes[None])[0]
        chance = _mean_over_pairs(likeness, _random_groups(codes, frequency_class, rng))  # (RANDOM_GROUPS,)
        seen, expected = (float(table[np.ix_(codes, codes)].sum()) for table in counts)
        others = {
            other: float(likeness[np.ix_(codes, theirs)].mean()) for other, theirs in members.items() if other != label
        }
        nearest = max(others, key=lambda other: others[other], default=None)
        found.append(
            {
                "group": grouping.names[label],
                "codes": len(codes),
                "within": float(within),
                "chance": float(chance.mean()),
                "chance_range": np.quantile(chance, [0.025, 0.975]).tolist(),
                # A group that fills its whole fifth of codes has no random group to compare with
                "z": float((within - chance.mean()) / chance.std()) if chance.std() > 1e-9 else 0.0,
                "lift": seen / expected if expected else None,
                "nearest": nearest
                if nearest is None
                else {"group": grouping.names[nearest], "likeness": others[nearest]},
            }
        )
    return sorted(found, key=lambda group: group["z"])


def _equal_classes(values: np.ndarray) -> np.ndarray:
    """The fifth that each value is in, by rank."""
    ranks = values.argsort(kind="stable").argsort(kind="stable")
    return ranks * _FREQUENCY_CLASSES // len(values)


def _random_groups(codes: np.ndarray, frequency_class: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Groups of distinct codes with the frequencies of `codes`, shape (RANDOM_GROUPS, codes)."""
    parts = []
    for number, size in zip(*np.unique(frequency_class[codes], return_counts=True), strict=True):
        candidates = np.flatnonzero(frequency_class == number)
        parts.append(candidates[rng.random((RANDOM_GROUPS, len(candidates))).argsort(axis=1)[:, :size]])
    return np.concatenate(parts, axis=1)


def _mean_over_pairs(likeness: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean likeness over the pairs of codes of each group: (groups, size) -> (groups,)."""
    first, second = np.triu_indices(groups.shape[1], 1)
    return likeness[groups[:, first], groups[:, second]].mean(axis=1)


def far_pairs(
    codes: Sequence[str],
    descriptions: Sequence[str],
    distance: np.ndarray,
    visits: Visits,
    counts: tuple[np.ndarray, np.ndarray],
    pmi: np.ndarray,
    most: int = 15,
) -> list[dict]:
    """The pairs from different chapters with the highest PMI in one visit, among pairs of at least ten patients.

    Returns:
        `list[dict]`: `codes` and `descriptions` (two each), `patients` with both in one visit, `lift` (visits with both over
        visits expected) and `pmi`.
    """
    seen, expected = counts
    first, second = np.nonzero(np.triu(distance == distance.max(), 1) & (seen >= FEWEST_PATIENTS) & (pmi > 0))
    table = visits.table.tocsc()
    pairs = []
    for place in np.argsort(-pmi[first, second], kind="stable"):
        a, b = int(first[place]), int(second[place])
        both = np.intersect1d(*(table.indices[table.indptr[code] : table.indptr[code + 1]] for code in (a, b)))
        patients = len(np.unique(visits.patient[both]))
        if patients < FEWEST_PATIENTS:
            continue
        pairs.append(
            {
                "codes": [codes[a], codes[b]],
                "descriptions": [descriptions[a], descriptions[b]],
                "patients": patients,
                "lift": float(seen[a, b] / expected[a, b]),
                "pmi": float(pmi[a, b]),
            }
        )
        if len(pairs) == most:
            break
    return pairs


def chapter_map(grouping: Grouping, counts: tuple[np.ndarray, np.ndarray]) -> dict:
    """How much more often two chapters meet in a visit than by chance: log2 of pairs seen over pairs expected, each plus 1.

    Pairs are summed before the logarithm, so that a mean over many rare codes is not mostly smoothing. The diagonal
    has pairs of different codes of one chapter.

    Returns:
        `dict`: `chapters` (names, of those with three codes or more) and `log2_lift` (a list for each).
    """
    kept = [label for label in range(len(grouping.names)) if (grouping.labels == label).sum() >= FEWEST_CODES]
    member = (grouping.labels[:, None] == np.array(kept)[None, :]).astype(np.float64)  # (codes, chapters)
    seen, expected = (member.T @ table @ member for table in counts)  # (chapters, chapters), the diagonal counts twice
    for table in (seen, expected):
        np.fill_diagonal(table, table.diagonal() / 2)
    lifts = np.log2((seen + 1) / (expected + 1))
    return {"chapters": [grouping.names[label] for label in kept], "log2_lift": lifts.tolist()}
