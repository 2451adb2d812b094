"""Coarser labels: the same rankings read as rankings of groups of codes.

The true groups of a patient are those of the true codes. A ranker with probabilities ranks groups by the summed probabilities
of their codes, which is the number of a group's codes that it expects in the visit; for a ranker without, a group stands where
its first code stands (this project's choice). Ties go to the group that comes first. `recall@k` and `weighted_f1` are those of
[`~mera_hf.evaluation.metrics`] over groups, weighted F1 at the number of true groups.

| grouping | groups |
|---|---|
| `category` | categories of the tree, the codes of three characters (four for E codes of ICD-9-CM) |
| `ccs` | CCS, whose ids both versions share |
| `ccsr` | default CCSR categories, where there are ICD-10-CM codes |
| `chapter` | chapters of the tree |

Codes without a group are left out and counted, with the patients who have no other true code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mera_hf.evaluation.metrics import order_from_scores
from mera_hf.evaluation.ranked_patients import RankedPatients, Ranking
from mera_hf.evaluation.strata import Strata, by_patient
from mera_hf.icd import ccs, ccsr, code_tree


if TYPE_CHECKING:
    import numpy as np

KS = (5, 10, 20)
METRICS = (*(f"recall@{k}" for k in KS), "weighted_f1")


def groupings(codes: Sequence[str]) -> dict[str, list[str | None]]:
    """The group of each code in each grouping of the module's table."""
    trees = [code_tree(code) for code in codes]
    groups = {
        "category": [tree.ancestor(code, "category") for tree, code in zip(trees, codes, strict=True)],
        "ccs": [group and group[0] for group in map(ccs, codes)],
        "ccsr": [ccsr(code) if tree.version == "ICD10CM" else None for tree, code in zip(trees, codes, strict=True)],
        "chapter": [tree.ancestor(code, "chapter") for tree, code in zip(trees, codes, strict=True)],
    }
    return {name: of_code for name, of_code in groups.items() if any(of_code)}


def measure_coarse(patients: RankedPatients) -> dict:
    """The section `coarse` of `metrics.json`.

    Returns:
        `dict`: `{grouping: {"groups", "patients", "codes_without", "true_codes_without", "rankers": {name: {metric: x}}}}`:
        groups of the candidate codes, patients measured, candidate codes and true codes without a group. A `recall@k` with k
        above the number of groups is left out, as is a grouping in which no true code has a group.
    """
    import numpy as np
    from tqdm import tqdm

    section = {}
    for grouping, of_code in tqdm(groupings(patients.codes).items(), desc="coarser labels", leave=False):
        names = list(dict.fromkeys(group for group in of_code if group is not None))
        place = {name: i for i, name in enumerate(names)} | {None: -1}
        number = np.array([place[group] for group in of_code])  # (codes,) its group
        true_groups = [[group for group in set(number[s.target].tolist()) if group >= 0] for s in patients.samples]
        kept = np.flatnonzero([bool(groups) for groups in true_groups])
        if not len(kept):
            continue
        width = min(len(names), max(*KS, *(len(true_groups[row]) for row in kept)))
        coarser = RankedPatients(
            [replace(patients.samples[row], history=[], target=true_groups[row]) for row in kept],
            names,
            {
                name: Ranking(_rank_groups(patients, ranking, number, len(names), width)[kept])
                for name, ranking in patients.rankings.items()
            },
        )
        everyone = Strata(coarser, [by_patient("all", ["all"], np.zeros(len(kept), dtype=int))], KS)
        section[grouping] = {
            "groups": len(names),
            "patients": len(kept),
            "codes_without": int((number < 0).sum()),
            "true_codes_without": int((number[patients.true.code] < 0).sum()),
            "rankers": {
                name: {metric: float(x[0]) for metric, x in everyone.figures(name).items() if metric in METRICS}
                for name in coarser.rankings
            },
        }
    return section


def _rank_groups(
    patients: RankedPatients, ranking: Ranking, number: np.ndarray, n_groups: int, width: int
) -> np.ndarray:
    """The first `width` groups of each patient: (patients, width) int32."""
    import numpy as np

    order = np.empty((len(patients), width), dtype=np.int32)
    for rows in patients.blocks():
        if ranking.probabilities is None:
            scores = _first_places(number, n_groups, ranking, rows, width)
        else:
            scores = _sums(number, n_groups, ranking, rows)
        order[rows] = order_from_scores(scores, width)
    return order


def _sums(number: np.ndarray, n_groups: int, ranking: Ranking, rows: slice) -> np.ndarray:
    """Summed probabilities of the codes of each group: (rows, groups)."""
    import numpy as np

    group = number[ranking.order[rows]]  # (rows, K), -1 without a group, which falls into the column in front
    cell = group + (np.arange(len(group)) * (n_groups + 1) + 1)[:, None]
    sums = np.bincount(cell.ravel(), ranking.probabilities[rows].ravel(), minlength=len(group) * (n_groups + 1))
    return sums.reshape(len(group), -1)[:, 1:]


def _first_places(number: np.ndarray, n_groups: int, ranking: Ranking, rows: slice, width: int) -> np.ndarray:
    """The place of each group's first code, negative so that the first is the best: (rows, groups). Exact for the first
    `width` groups of each patient; later ones may be tied."""
    import numpy as np

    order, length = ranking.order[rows], 4 * width
    while True:
        group = number[order[:, :length]]  # (rows, length), -1 without a group, which falls into the column in front
        places = np.full((len(order), n_groups + 1), order.shape[1])
        cell = group + (np.arange(len(order)) * (n_groups + 1) + 1)[:, None]
        np.minimum.at(places.ravel(), cell.ravel(), np.tile(np.arange(group.shape[1]), len(order)))
        found = (places[:, 1:] < order.shape[1]).sum(axis=1)
        if found.min() >= width or length >= order.shape[1]:
            return -places[:, 1:]
        length *= 4
