"""How far off wrong codes are: the hierarchical distance of each wrong code to the patient's true codes.

The distance of a wrong code is the number of steps up the tree from it to the lowest node that it shares with a true code of
the patient, the nearest one (this project's choice). A sibling of a true code is one step away, a code of another chapter as
many as there are nodes from it to the root above the chapters. A node holds itself, so that a code that is broader than a
true one (250 where 250.01 is true) is 0 steps away: it is wrong, and its only fault is to be less exact. Codes of different
ICD versions share the root alone.

The shares say where that lowest shared node lies, and add up to 1: `same_category` (the category or below), `same_block`,
`same_chapter`, `other_chapter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.evaluation.ranked_patients import RankedPatients, are_among
from mera_hf.icd import LEVELS, level_groups


if TYPE_CHECKING:
    import numpy as np

SHARES = ("other_chapter", "same_chapter", "same_block", "same_category")


def measure_distance(patients: RankedPatients) -> dict:
    """The section `distance` of `metrics.json`.

    Returns:
        `dict`: `{ranker: {"wrong_codes", "mean", "same_category", "same_block", "same_chapter", "other_chapter", "eov"}}`:
        over the wrong codes among the first |y| of each patient, all patients' together, and under `eov` the same of the set
        that the ranker chose, see `RankedPatients.sizes`. Without a wrong code there is `{"wrong_codes": 0}` alone.
    """
    import numpy as np
    from tqdm import tqdm

    groups = {level: np.array(number) for level, number in level_groups(patients.codes).items()}
    # Nodes on the way down from the chapter to the code, and to where level l or a higher one ends it: (levels + 1, codes)
    passed = np.cumsum([np.zeros(len(patients.codes), int), *(number >= 0 for number in groups.values())], axis=0)
    levels = [-1, *(LEVELS.index(level) for level in groups)]  # -1 for the root
    share_of = np.minimum(np.array(levels) + 1, len(SHARES) - 1)  # (levels + 1,) index in `SHARES`
    sets = {(name, metric): size for name in patients.rankings for metric, size in patients.sizes(name).items()}
    steps = dict.fromkeys(sets, 0)
    counts = {key: np.zeros(len(SHARES), dtype=np.int64) for key in sets}
    for rows in tqdm(list(patients.blocks()), desc="distance of wrong codes", unit="block", leave=False):
        lowest = _lowest_shared(patients, groups, rows)  # (rows, codes)
        for key, size in sets.items():
            pairs = patients.heads(key[0], size, rows)
            wrong = ~are_among(pairs, patients.true, len(patients.codes))
            code = pairs.code[wrong]
            shared = lowest[pairs.patient[wrong] - rows.start, code]  # (wrong codes,)
            steps[key] += int((passed[-1, code] - passed[shared, code]).sum())
            counts[key] += np.bincount(share_of[shared], minlength=len(SHARES))

    def figures(key: tuple[str, str]) -> dict:
        total = int(counts[key].sum())
        if not total:
            return {"wrong_codes": 0}
        shares = {share: float(count) / total for share, count in zip(SHARES, counts[key], strict=True)}
        return {"wrong_codes": total, "mean": steps[key] / total, **shares}

    section = {name: figures((name, "weighted_f1")) for name in patients.rankings}
    for name, metric in sets:
        if metric == "weighted_f1_eov":
            section[name]["eov"] = figures((name, metric))
    return section


def _lowest_shared(patients: RankedPatients, groups: dict[str, np.ndarray], rows: slice) -> np.ndarray:
    """Of each code, the lowest level at which it shares a node with a true code of the patient: (rows, codes) uint8, the
    number of the level in `groups` from 1, or 0 for the root."""
    import numpy as np

    first, last = np.searchsorted(patients.true.patient, (rows.start, rows.stop))
    patient, code = patients.true.patient[first:last] - rows.start, patients.true.code[first:last]
    lowest = np.zeros((rows.stop - rows.start, len(patients.codes)), dtype=np.uint8)
    for i, number in enumerate(groups.values(), start=1):
        has = np.zeros((len(lowest), number.max() + 2), dtype=bool)  # the last column for codes without a node, -1
        has[patient, number[code]] = True
        has[:, -1] = False
        lowest[has[:, number]] = i
    return lowest
