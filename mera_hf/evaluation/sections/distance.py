"""How far off wrong codes are: the hierarchical distance of each wrong code to the patient's true codes.

The distance of a wrong code is the number of steps up the tree from it to the lowest node that it shares with a true code of
the patient, the nearest one (this project's choice). A sibling is one step away. A code of another chapter is as
many steps away as there are nodes from it to the root above the chapters. A node contains itself, so a code above a
true one (250 where 250.01 is true) is 0 steps away: it is wrong only in being less exact. Codes of different
ICD versions share the root alone.

The shares say where that lowest shared node lies, and add up to 1: `same_category` (the category or below), `same_block`,
`same_chapter`, `other_chapter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Plot, Row, Table
from mera_hf.evaluation import plots
from mera_hf.evaluation.figures import columns_of, count_text, format_figure, mean_of, percent, plain_name, title_of
from mera_hf.evaluation.rankings.ranked import RankedPatients, are_among
from mera_hf.icd import LEVELS, level_groups


if TYPE_CHECKING:
    import numpy as np

SHARES = ("other_chapter", "same_chapter", "same_block", "same_category")


def measure(patients: RankedPatients) -> dict[str, Any]:
    """The section `distance` of `metrics.json`.

    Returns:
        `dict`: `{ranker: {"wrong_codes", "mean", "same_category", "same_block", "same_chapter", "other_chapter", "eov"}}`:
        over the wrong codes among the first |y| of each patient, pooled over patients. `eov` holds the same for the set that
        the ranker chose, see `RankedPatients.sizes`. Without any wrong code the result is only `{"wrong_codes": 0}`.
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
    """For each code, the lowest level at which it shares a node with a true code of the patient: (rows, codes) uint8,
    the number of the level in `groups` from 1, or 0 for the root."""
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


LABEL, HEADING = "Wrong codes", "How wrong are wrong codes?"
COUNTS = ("wrong_codes", "mean")  # the mean is in steps of the tree


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    found = table(report["metrics"])
    lead = (
        "A wrong code in the right category is a smaller mistake than one from another chapter of the ICD. Mean "
        "steps: how far up the tree one goes from a wrong code to reach a group that it shares with a true one."
    )
    return [Paragraph(lead), *_plots(report["metrics"].get("distance", {})), found] if found else []


def _plots(section: Mapping[str, Mapping]) -> list[Plot]:
    distance = {name: shares for name, shares in section.items() if "same_category" in shares}
    told = "; ".join(
        f"{title_of(name)}: "
        + ", ".join(
            f"{label} {format_figure(part, shares[part])} %"
            for part, label in plots.distance.PARTS.items()
            if part in shares
        )
        for name, shares in distance.items()
    )
    caption = (
        "Wrong codes by the smallest group of the tree that they share with a true code of the patient; the darker, the "
        "nearer."
    )
    alternative = f"Stacked bars of wrong codes by what they share. {told}."
    return [Plot("distance", plots.distance_plot(distance), alternative, caption)] if distance else []


def table(metrics: Mapping[str, Any]) -> Table | None:
    """How far wrong codes are from the true ones in the tree, for sets of the true size and for own sets."""
    distance = metrics.get("distance", {})
    own_sets = {name: entry["eov"] for name, entry in distance.items() if entry.get("eov")}
    shares = columns_of(distance.values(), SHARES[::-1])
    if not shares:
        return None
    rows = []
    for title, entries in (("As many codes as are true", distance), ("The set that the ranker chose", own_sets)):
        if own_sets:
            rows.append(Row(title, kind="group"))
        rows += [
            Row(
                title_of(name),
                [
                    count_text(entry.get("wrong_codes")),
                    "–" if entry.get("mean") is None else f"{mean_of(entry['mean']):.2f}",
                    *(format_figure(share, entry.get(share)) for share in shares),
                ],
                kind="mera" * (name == "mera"),
            )
            for name, entry in entries.items()
        ]
    headings = ["ranker", "wrong codes", "mean steps", *map(plain_name, shares)]
    return Table("Wrong codes by what they share with a true code, percent of them", headings, rows)


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Where MERA's wrong codes lie."""
    distance = metrics.get("distance", {}).get("mera", {})
    if "mean" not in distance:
        return []
    near = sum(mean_of(distance[share]) for share in SHARES[:0:-1])
    return [
        f"Of the wrong codes, {percent(near)} % lie in the chapter of a true code, {percent(distance['same_category'])} % "
        f"in its category; {mean_of(distance['mean']):.1f} steps in the tree on average."
    ]
