"""How far off wrong codes are: the hierarchical distance of each wrong code to the patient's true codes.

The distance of a wrong code is the number of steps up the tree from it to the lowest node that it shares with a true code of the
patient, the nearest one (this project's choice). A sibling of a true code within the category 250 is one step away, a code of
another chapter as many as it has nodes, up to the root above the chapters. A node holds itself, so that a code that is broader
than a true one (250 where 250.01 is true) is 0 steps away: it is wrong, and its only fault is to be less exact. Codes of
different ICD versions share the root alone.

The shares say where that lowest shared node lies, and add up to 1: `same_category` (the category or below), `same_block`,
`same_chapter`, `other_chapter`.
"""

from __future__ import annotations

from mera_hf.evaluation.ranked_patients import Pairs, RankedPatients, are_among
from mera_hf.icd import LEVELS, level_groups


SHARES = ("other_chapter", "same_chapter", "same_block", "same_category")


def measure_distance(patients: RankedPatients) -> dict:
    """The section `distance` of `metrics.json`.

    Returns:
        `dict`: `{ranker: {"wrong_codes", "mean", "same_category", "same_block", "same_chapter", "other_chapter", "eov": ...}}`:
        over the wrong codes among the first |y| of each patient, all patients' together, and under `eov` the same of the set
        that the ranker chose. Without a wrong code there is `{"wrong_codes": 0}` alone.
    """
    import numpy as np
    from tqdm import tqdm

    groups = {level: np.array(number) for level, number in level_groups(patients.codes).items()}
    nodes = np.sum([number >= 0 for number in groups.values()], axis=0)  # (codes,) on the way from chapter to code
    # What each patient's true codes lie below, level by level
    true_nodes = {}
    for level, number in groups.items():
        known = number[patients.true.code] >= 0
        below = np.unique(patients.true.patient[known] * len(patients.codes) + number[patients.true.code[known]])
        true_nodes[level] = Pairs(*np.divmod(below, len(patients.codes)))

    def measure(name: str, sizes: np.ndarray) -> dict:
        steps, shared = 0, np.zeros(len(SHARES), dtype=np.int64)
        for pairs in patients.predicted(name, sizes):
            wrong = ~are_among(pairs, patients.true, len(patients.codes))
            pairs = Pairs(pairs.patient[wrong], pairs.code[wrong])
            above = np.zeros(len(pairs.code), dtype=np.int64)  # nodes from the chapter down to the lowest shared one
            where = np.zeros(len(pairs.code), dtype=np.int64)  # its index in `SHARES`
            passed = np.zeros(len(patients.codes), dtype=np.int64)
            for level, number in groups.items():
                passed += number >= 0
                of_code = number[pairs.code]
                found = (of_code >= 0) & are_among(Pairs(pairs.patient, of_code), true_nodes[level], len(patients.codes))
                above[found] = passed[pairs.code[found]]
                where[found] = min(LEVELS.index(level) + 1, len(SHARES) - 1)
            steps += int((nodes[pairs.code] - above).sum())
            shared += np.bincount(where, minlength=len(SHARES))
        wrong_codes = int(shared.sum())
        if not wrong_codes:
            return {"wrong_codes": 0}
        shares = {share: float(count / wrong_codes) for share, count in zip(SHARES, shared, strict=True)}
        return {"wrong_codes": wrong_codes, "mean": steps / wrong_codes, **dict(reversed(shares.items()))}

    section = {}
    for name in tqdm(patients.rankings, desc="distance of wrong codes", unit="ranker", leave=False):
        sizes = patients.sizes(name)
        section[name] = measure(name, sizes["weighted_f1"])
        if "weighted_f1_eov" in sizes:
            section[name]["eov"] = measure(name, sizes["weighted_f1_eov"])
    return section
