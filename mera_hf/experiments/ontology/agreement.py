"""How well a distance between codes agrees with the likeness of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mera_hf.evaluation.bootstrap import interval
from mera_hf.experiments.ontology.groupings import Grouping


FEWEST_PAIRS = 10  # a mean over fewer pairs of codes says nothing
PERMUTATIONS = 999
REPLICATES = 1000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def too_few(distance: np.ndarray, likeness: np.ndarray) -> bool:
    """Whether there is too little to compare: fewer than ten pairs below the largest distance, or all alike."""
    if len(distance) < 2:
        return True
    upper = np.triu_indices(len(distance), 1)
    near = distance[upper] < distance.max()
    return bool(min(near.sum(), (~near).sum()) < FEWEST_PAIRS or not np.ptp(likeness[upper]))


def agreement(distance: np.ndarray, likeness: np.ndarray, seed: int = 0) -> dict:
    """Correlation over all pairs of codes between their distance and how unlike they are, positive where the two agree.

    For a tree distance, `pearson` is the cophenetic correlation coefficient of the tree as a dendrogram.

    The p-value is from Mantel's test: the likeness keeps its values and the codes trade places at random 999 times.
    These also give the `chance` level. The interval is a bootstrap over codes, see [`bootstrap`].

    Args:
        distance (`np.ndarray` of shape (codes, codes)): small whole numbers.
        likeness (`np.ndarray` of shape (codes, codes)): symmetric; larger means more alike.
        seed (`int`, defaults to 0): seed of permutations and bootstrap; the same seed draws the same codes.

    Returns:
        `dict`: `codes`, `pearson`, `spearman`, its `interval` (95 %), `p` (one-sided), `chance` (`mean` and `std` of the
        Spearman correlation when codes trade places), `z`; `explained`, the share of the variance of ranks that the distance
        explains (the square of `spearman`), with `explained_by_chance`, and `explainable`, its value if no pair
        were more alike than a nearer one: a distance with few values, mostly the largest, cannot explain everything.
    """
    from scipy.stats import pearsonr, spearmanr

    upper = np.triu_indices(len(distance), 1)
    far, unlike = distance[upper], -likeness[upper]  # (pairs,)
    spearman = float(spearmanr(far, unlike).statistic)
    by_chance = permuted_correlations(distance, likeness, seed)
    spread = float(by_chance.std())
    return {
        "codes": len(distance),
        "pearson": float(pearsonr(far, unlike).statistic),
        "spearman": spearman,
        "interval": interval(spearman, bootstrap(distance, likeness, seed)),
        "p": float((1 + (by_chance >= spearman - 1e-12).sum()) / (1 + len(by_chance))),
        "chance": {"mean": float(by_chance.mean()), "std": spread},
        "z": (spearman - float(by_chance.mean())) / spread,
        "explained": spearman**2,
        "explained_by_chance": float((by_chance**2).mean()),
        "explainable": float(spearmanr(np.sort(far), np.sort(unlike)).statistic ** 2),
    }


def permuted_correlations(distance: np.ndarray, likeness: np.ndarray, seed: int = 0) -> np.ndarray:
    """Spearman correlations of distance and unlikeness when codes trade places, shape (999,).

    For standard scores x and y the correlation is the mean of x y. As y sums to zero, a constant may be subtracted from x:
    the value of the largest distance, which most pairs have. Then only the few pairs that share a group need summing.
    """
    rng = np.random.default_rng(seed)
    x, y = _standard_ranks(distance), _standard_ranks(-likeness)
    near = np.nonzero(np.triu(distance < distance.max(), 1))
    weights = (x[near] - x.max()) / (len(x) * (len(x) - 1) / 2)  # (pairs,)
    orders = (rng.permutation(len(x)) for _ in range(PERMUTATIONS))
    return np.array([weights @ y[order[near[0]], order[near[1]]] for order in orders])


def bootstrap(distance: np.ndarray, likeness: np.ndarray, seed: int = 0) -> np.ndarray:
    """Spearman correlations of distance and unlikeness over codes drawn with replacement, shape (1000,).

    Codes are drawn, not patients: codes are independent, but pairs that share a code are not. A patient drawn twice
    would make rare pairs look certain, so the interval would miss the figure, and a model's rows would change only by
    training it anew. Chance among patients makes some codes agree better than others, so the interval includes it;
    `cooccurrence.repeatability` says how much it is.

    A pair counts as often as its two codes were drawn together; two copies of a code are not a pair. Ranks are those
    of the whole sample.
    """
    draws = _draws(len(distance), seed)
    x, y = _standard_ranks(distance), _standard_ranks(-likeness)
    count = _totals(draws, 1 - np.eye(len(distance)))
    mean_x, mean_y = _totals(draws, x) / count, _totals(draws, y) / count
    covariance = _totals(draws, x * y) / count - mean_x * mean_y
    variances = (_totals(draws, x * x) / count - mean_x**2) * (_totals(draws, y * y) / count - mean_y**2)
    return covariance / np.sqrt(np.where(variances > 1e-9, variances, np.nan))  # a draw may have no near pair at all


def bootstrap_auc(distance: np.ndarray, likeness: np.ndarray, seed: int = 0) -> np.ndarray:
    """The `auc` of [`contrast`] over codes drawn as in [`bootstrap`], shape (1000,); `distance` is 0 or 1.

    Let A be the `auc` of the whole sample, and compare each pair with the pairs of the whole sample. The result is the
    share of far pairs below a drawn near pair, plus the share of near pairs above a drawn far pair, minus A. (This is
    the first term of von Mises' expansion: comparing all drawn pairs anew would take hours with thousands of codes.)
    """
    pairs = 1 - np.eye(len(distance))
    near = pairs * (distance == 0)
    far = pairs - near
    shares = np.zeros_like(likeness)
    shares[near > 0] = _share_below(likeness[near > 0], likeness[far > 0])
    shares[far > 0] = 1 - _share_below(likeness[far > 0], likeness[near > 0])
    draws = _draws(len(distance), seed)
    means = -shares[near > 0].mean()
    for some in (near, far):
        count = _totals(draws, some)
        means = means + _totals(draws, some * shares) / np.where(count > 0, count, np.nan)
    return np.clip(means, 0, 1)


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each value the share of `others` that are smaller; equal ones count half."""
    others = np.sort(others)
    below, not_above = (np.searchsorted(others, values, side) for side in ("left", "right"))
    return (below + not_above) / (2 * len(others))


def _draws(n: int, seed: int) -> np.ndarray:
    """How often each code is drawn: (1000, n)."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=REPLICATES)
    return draws.astype(np.float64)


def _totals(draws: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Sums over drawn pairs, the quadratic form w' M w for each draw w: (1000,)."""
    return np.einsum("rn,rn->r", draws @ pairs, draws)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks over all pairs from 1, equal values sharing their mean rank: (codes, codes) with a zero diagonal."""
    from scipy.spatial.distance import squareform
    from scipy.stats import rankdata

    return squareform(rankdata(values[np.triu_indices(len(values), 1)]))


def _standard_ranks(values: np.ndarray) -> np.ndarray:
    """The ranks scaled to mean 0 and variance 1."""
    from scipy.spatial.distance import squareform
    from scipy.stats import zscore

    return squareform(zscore(squareform(_ranks(values))))


def contrast(distance: np.ndarray, likeness: np.ndarray, seed: int = 0) -> dict:
    """Likeness of codes within one group (distance 0), and between groups (distance 1).

    Returns:
        `dict`: `pairs_within`, the mean likeness `within` and `between`, `auc`, how often two codes of one group are
        more alike than two of different groups (0.5 is chance; ties count half), and its `auc_interval`.
    """
    from sklearn.metrics import roc_auc_score

    upper = np.triu_indices(len(distance), 1)
    same, values = distance[upper] == 0, likeness[upper]
    auc = float(roc_auc_score(same, values))
    return {
        "pairs_within": int(same.sum()),
        "within": float(values[same].mean()),
        "between": float(values[~same].mean()),
        "auc": auc,
        "auc_interval": interval(auc, bootstrap_auc(distance, likeness, seed), 0),
    }


def compare_groupings(first: Grouping, second: Grouping, likeness: np.ndarray, seed: int = 0) -> dict | None:
    """Which of two groupings puts together codes that are more alike, measured on the codes that have a group in both.

    Returns:
        `dict`: `codes`, the `auc` of both as in [`contrast`], their `difference` and its `interval`, a bootstrap that draws
        the same codes for both; `None` if one of them puts too few codes together.
    """
    known = np.intersect1d(first.known, second.known)
    alike = likeness[np.ix_(known, known)]
    distances = [grouping.distance()[np.ix_(known, known)] for grouping in (first, second)]
    if any(too_few(distance, alike) for distance in distances):
        return None
    ours, theirs = (contrast(distance, alike, seed)["auc"] for distance in distances)
    drawn = [bootstrap_auc(distance, alike, seed) for distance in distances]
    return {
        "codes": len(known),
        "auc": [ours, theirs],
        "difference": ours - theirs,
        "interval": interval(ours - theirs, drawn[0] - drawn[1]),
    }


def by_level(
    levels: Sequence[str], distance: np.ndarray, likeness: np.ndarray, counts: tuple[np.ndarray, np.ndarray] | None
) -> list[dict]:
    """Likeness of pairs by the finest level that they share.

    Args:
        levels (`Sequence[str]`): the levels of the tree, coarsest first.
        distance (`np.ndarray` of shape (codes, codes)): from `tree_distance`.
        likeness (`np.ndarray` of shape (codes, codes)): of the codes.
        counts (*optional*): pairs seen and pairs expected by chance, each of shape (codes, codes).

    Returns:
        `list[dict]`: from pairs that share nothing (`shared` is `None`) to the finest level: `pairs`, and if ten or
        more `mean`, `quantiles` (5, 25, 50, 75 and 95 %) and with `counts` the `lift`, pairs seen over pairs expected.
    """
    upper = np.triu_indices(len(distance), 1)
    steps, values = distance[upper], likeness[upper]
    rows: list[dict[str, Any]] = []
    for above, shared in enumerate([None, *levels]):
        here = steps == len(levels) - above
        row: dict[str, Any] = {"shared": shared, "pairs": int(here.sum())}
        if row["pairs"] >= FEWEST_PAIRS:
            row |= {"mean": float(values[here].mean()), "quantiles": np.quantile(values[here], QUANTILES).tolist()}
            if counts is not None:
                seen, expected = (float(table[upper][here].sum()) for table in counts)
                row["lift"] = seen / expected if expected else None
        if row["pairs"]:
            rows.append(row)
    return rows


def clustering(likeness: np.ndarray, distance: np.ndarray, groupings: dict[str, Grouping]) -> dict | None:
    """Cluster the codes by likeness (average linkage) and compare with the tree and with flat groupings.

    Returns:
        `dict`: `cophenetic`, how well the dendrogram preserves the likeness it was built from (Pearson); `tree`, the Spearman
        correlation of its cophenetic distances with those of the tree; `ami`, for each grouping the adjusted mutual
        information with as many clusters as it has groups (0 is chance, 1 the same groups).
        `None` if all codes are equally alike.
    """
    from scipy.cluster.hierarchy import cophenet, fcluster, linkage
    from scipy.stats import spearmanr
    from sklearn.metrics import adjusted_mutual_info_score

    upper = np.triu_indices(len(likeness), 1)
    unlike = likeness[upper].max() - likeness[upper]  # condensed, as scipy has it
    if not unlike.any():
        return None
    dendrogram = linkage(unlike, method="average")
    fit, heights = cophenet(dendrogram, unlike)
    ami = {}
    for name, grouping in groupings.items():
        known = grouping.known
        clusters = fcluster(dendrogram, len(grouping.names), criterion="maxclust")
        ami[name] = float(adjusted_mutual_info_score(grouping.labels[known], clusters[known]))
    return {"cophenetic": float(fit), "tree": float(spearmanr(distance[upper], heights).statistic), "ami": ami}
