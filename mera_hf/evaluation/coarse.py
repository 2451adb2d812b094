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
from mera_hf.evaluation.strata import Tally, by_patient
from mera_hf.icd import ccs, ccsr, code_tree


if TYPE_CHECKING:
    import numpy as np

KS = (5, 10, 20)


def groupings(codes: Sequence[str]) -> dict[str, list[str | None]]:
    """The group of each code in each grouping of the module's table."""
    trees = [code_tree(code) for code in codes]
    groups = {
        "category": [tree.ancestor(code, "category") for tree, code in zip(trees, codes, strict=True)],
        "ccs": [group and group[0] for group in map(ccs, codes)],
        "ccsr": [
            ccsr(code) if tree.version == "ICD10CM" else None for tree, code in zip(trees, codes, strict=True)
        ],
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

    numbers, scores = {}, {}
    for grouping, of_code in groupings(patients.codes).items():
        names = list(dict.fromkeys(group for group in of_code if group is not None))
        place = {name: i for i, name in enumerate(names)} | {None: -1}
        numbers[grouping] = np.array([place[group] for group in of_code])  # (codes,)
    for name in tqdm(patients.rankings, desc="coarser labels", unit="ranker", leave=False):
        for grouping, values in _group_scores(patients, name, numbers).items():
            scores.setdefault(grouping, {})[name] = values
    section = {}
    for grouping, number in numbers.items():
        true_groups = [[group for group in set(number[s.target].tolist()) if group >= 0] for s in patients.samples]
        kept = np.flatnonzero([bool(groups) for groups in true_groups])
        if not len(kept):
            continue
        n_groups = int(number.max()) + 1
        width = min(n_groups, max(*KS, *(len(true_groups[row]) for row in kept)))
        coarser = RankedPatients(
            [replace(patients.samples[row], history=[], target=true_groups[row]) for row in kept],
            range(n_groups),
            {name: Ranking(order_from_scores(each[kept], width)) for name, each in scores[grouping].items()},
        )
        everyone = [by_patient("all", ["all"], np.zeros(len(kept), dtype=int))]
        section[grouping] = {
            "groups": n_groups,
            "patients": len(kept),
            "codes_without": int((number < 0).sum()),
            "true_codes_without": int((number[patients.true.code] < 0).sum()),
            "rankers": {
                name: {metric: float(x[0]) for metric, x in Tally(coarser, name, everyone, KS).figures().items()}
                for name in coarser.rankings
            },
        }
    return section


def _group_scores(patients: RankedPatients, name: str, numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scores by which one ranker ranks the groups of each grouping: grouping to (patients, groups) float32."""
    import numpy as np
    from scipy.sparse import csr_array

    n_codes, probabilities = len(patients.codes), patients.rankings[name].probabilities
    scores = {
        grouping: np.empty((len(patients), number.max() + 1), dtype=np.float32) for grouping, number in numbers.items()
    }
    members = {grouping: np.flatnonzero(number >= 0) for grouping, number in numbers.items()}
    sums, runs = {}, {}
    for grouping, number in numbers.items():
        grouped = members[grouping]
        shape = (number.max() + 1, n_codes)
        sums[grouping] = csr_array((np.ones(len(grouped), "f4"), (number[grouped], grouped)), shape=shape)
        columns = grouped[np.argsort(number[grouped], kind="stable")]  # codes of one group side by side
        runs[grouping] = columns, np.searchsorted(number[columns], np.arange(shape[0]))
    for rows, places in patients.places(name):
        if probabilities is not None:
            # One column more for codes that are not ranked: their probability is not known and counts as none
            padded = np.pad(probabilities[rows], ((0, 0), (0, 1)))
            chances = np.take_along_axis(padded, places, axis=1).T  # (codes, rows)
        for grouping, (columns, starts) in runs.items():
            if probabilities is None:
                scores[grouping][rows] = -np.minimum.reduceat(places[:, columns], starts, axis=1)
            else:
                scores[grouping][rows] = (sums[grouping] @ chances).T
    return scores
