"""Coarser labels: the same rankings read as rankings of groups of codes.

The true groups of a patient are those of the true codes. A ranker with probabilities ranks groups by the summed probabilities
of their codes: the expected number of the group's codes in the visit. For a ranker without, as copying the history, a group
takes the place of its first code (this project's choice). Ties go to the group that comes first. `recall@k` and
`weighted_f1` are those of [`~mera_hf.evaluation.metrics`], but over groups; weighted F1 is taken at the number of true groups.

| grouping | groups |
|---|---|
| `category` | categories of the tree, the codes of three characters (four for E codes of ICD-9-CM) |
| `ccs` | CCS, whose ids both versions share |
| `ccsr` | default CCSR categories, where there are ICD-10-CM codes |
| `chapter` | chapters of the tree |

Codes without a group are left out and counted, with the patients who have no other true code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Row, Table
from mera_hf.evaluation.figures import heading_of, percent, plain_name, ranker_rows
from mera_hf.evaluation.metrics import order_from_scores
from mera_hf.evaluation.rankings.ranked import RankedPatients, Ranking
from mera_hf.evaluation.sections.strata import Strata, by_patient
from mera_hf.icd import ccs, ccsr, ccsr_groups, code_tree


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
        "ccsr": [ccsr(code) if ccsr_groups(code) else None for code in codes],
        "chapter": [tree.ancestor(code, "chapter") for tree, code in zip(trees, codes, strict=True)],
    }
    return {name: of_code for name, of_code in groups.items() if any(of_code)}


def measure(patients: RankedPatients) -> dict[str, Any]:
    """The section `coarse` of `metrics.json`.

    Returns:
        `dict`: `{grouping: {"groups", "patients", "codes_without", "true_codes_without", "rankers": {name: {metric: x}}}}`:
        groups of the candidate codes, patients measured, candidate codes and true codes without a group. A `recall@k`
        is left out if k exceeds the number of groups, and a grouping if no true code has a group in it.
    """
    import numpy as np
    from tqdm import tqdm

    section: dict[str, Any] = {}
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
            [replace(patients.samples[int(row)], history=[], target=true_groups[row]) for row in kept],
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
            scores = _sums(number[ranking.order[rows]], n_groups, ranking.probabilities[rows])
        order[rows] = order_from_scores(scores, width)
    return order


def _sums(group: np.ndarray, n_groups: int, probabilities: np.ndarray) -> np.ndarray:
    """Summed probabilities of the codes of each group: (rows, groups); `group` (rows, K) is -1 for a code without one;
    such codes are summed in an extra first column."""
    import numpy as np

    cell = group + (np.arange(len(group)) * (n_groups + 1) + 1)[:, None]
    sums = np.bincount(cell.ravel(), probabilities.ravel(), minlength=len(group) * (n_groups + 1))
    return sums.reshape(len(group), -1)[:, 1:]


def _first_places(number: np.ndarray, n_groups: int, ranking: Ranking, rows: slice, width: int) -> np.ndarray:
    """The place of each group's first code, negated so that the first scores best: (rows, groups). Exact for the first
    `width` groups of each patient; later ones may be tied."""
    import numpy as np

    order, length = ranking.order[rows], 4 * width
    while True:
        group = number[order[:, :length]]  # (rows, length), -1 (no group) goes to the extra first column
        places = np.full((len(order), n_groups + 1), order.shape[1])
        cell = group + (np.arange(len(order)) * (n_groups + 1) + 1)[:, None]
        np.minimum.at(places.ravel(), cell.ravel(), np.tile(np.arange(group.shape[1]), len(order)))
        found = (places[:, 1:] < order.shape[1]).sum(axis=1)
        if found.min() >= width or length >= order.shape[1]:
            return -places[:, 1:]
        length *= 4


LABEL, HEADING = "Coarser labels", "Coarser labels"
COUNTS = ("groups", "codes_without", "true_codes_without")
TITLES = {  # in a table, and in a sentence
    "category": ("Three-digit category", "3-digit categories"),
    "ccs": ("CCS group", "CCS groups"),
    "ccsr": ("CCSR group", "CCSR groups"),
    "chapter": ("Chapter", "chapters"),
}


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    found = table(report["metrics"])
    lead = (
        "How well the right kind of disease is found where the exact code is not asked for. A group's probability is "
        "the sum of its codes' probabilities; where the history is copied, it has the place of its first code."
    )
    return [Paragraph(lead), found, Paragraph("* best ranker of its group and column.", "muted")] if found else []


def table(metrics: Mapping[str, Any]) -> Table | None:
    """Rankings of groups of codes instead of codes."""
    coarse = {name: entry for name, entry in metrics.get("coarse", {}).items() if entry.get("rankers")}
    rankers = [figures for entry in coarse.values() for figures in entry["rankers"].values()]
    columns = list(dict.fromkeys(metric for figures in rankers for metric in figures))
    if not columns:
        return None
    rows = []
    for name, entry in coarse.items():
        title = TITLES[name][0] if name in TITLES else plain_name(name)
        if entry.get("groups") is not None:
            title += f", {entry['groups']:,} groups"
        if entry.get("true_codes_without"):
            title += f"; {entry['true_codes_without']:,} true codes without a group left out"
        rows.append(Row(title, kind="group"))
        rows += ranker_rows(entry["rankers"], columns)
    caption = "Rankings of groups of codes, by the summed probabilities of their codes, percent"
    return Table(caption, ["ranker", *map(heading_of, columns)], rows)


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """Weighted F1 of each grouping."""
    parts = []
    for grouping, part in metrics.get("coarse", {}).items():
        text = f"{TITLES[grouping][1]} {percent(part['rankers']['mera']['weighted_f1'])} %"
        left_out = part["true_codes_without"]
        parts.append(f"{text} (without {left_out:,} true codes that are in no single group)" if left_out else text)
    return [f"Weighted F1 at the true size of coarser labels: {', '.join(parts)}."] if parts else []
