"""Distances between codes: through the levels of the tree, and by flat groupings, some of them levels of the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mera_hf.icd import LEVELS, ccs, ccsr, ccsr_groups, code_tree, level_groups


@dataclass(frozen=True)
class Grouping:
    """Codes in groups.

    Attributes:
        labels (`np.ndarray` of shape (codes,), int): the group of each code, -1 without one.
        names (`list[str]`): names of the groups.
    """

    labels: np.ndarray
    names: list[str]

    @property
    def shared(self) -> int:
        """How many groups hold two codes or more."""
        return int((np.bincount(self.labels[self.known]) > 1).sum())

    @property
    def known(self) -> np.ndarray:
        """Indices of the codes that have a group."""
        return np.flatnonzero(self.labels >= 0)

    def distance(self) -> np.ndarray:
        """0 for two codes of one group, 1 otherwise, shape (codes, codes); valid for `known` codes only."""
        return (self.labels[:, None] != self.labels[None, :]).astype(np.int64)


def tree_levels(codes: Sequence[str]) -> list[str]:
    """The levels of the tree that these codes have, coarsest first."""
    groups = level_groups(codes)
    return [level for level in LEVELS if level in groups]


def tree_distance(codes: Sequence[str]) -> np.ndarray:
    """Steps from two codes up to the lowest group that holds both, through all levels that the codes have.

    The level of that group counts, not how deep the codes themselves are: 250 and 250.01 are as far apart as 250.1
    and 250.01, whose lowest common group is 250 as well. Two codes that share nothing are one step beyond their chapters.
    The distance is ultrametric, like the cophenetic distance of a dendrogram.

    Args:
        codes (`Sequence[str]`): codes of one version in the order of `sort_codes`.

    Returns:
        `np.ndarray` of shape (codes, codes), int: from 0 on the diagonal to the number of levels.
    """
    groups, levels = level_groups(codes), tree_levels(codes)
    distance = np.full((len(codes), len(codes)), len(levels))
    for step, level in enumerate(levels, start=1):
        labels = np.array(groups[level])
        distance[(labels[:, None] == labels[None, :]) & (labels >= 0)] = len(levels) - step
    np.fill_diagonal(distance, 0)
    return distance


def flat_groupings(codes: Sequence[str]) -> dict[str, Grouping]:
    """Chapters, blocks and categories of the tree, CCS, and CCSR for ICD-10-CM; `codes` are of one version."""
    tree = code_tree(codes[0])

    def at(level: str) -> Grouping:
        nodes = [tree.ancestor(code, level) for code in codes]
        return _grouped([node and f"{node.split(':')[1]} {tree.description(node)}" for node in nodes])

    groupings = {level: at(level) for level in ("chapter", "block", "category")}
    groupings["ccs"] = _grouped([group and " ".join(group) for group in map(ccs, codes)])
    if ccsr_groups(codes[0]):
        groupings["ccsr"] = _grouped([ccsr(code) for code in codes])
    return groupings


def _grouped(names: Sequence[str | None]) -> Grouping:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name in names if name))}
    return Grouping(np.array([numbers[name] if name else -1 for name in names]), list(numbers))
