"""The order of a vocabulary of codes, and its groups at each level of the tree."""

from collections.abc import Iterable, Sequence

from mera_hf.errors import InputError
from mera_hf.icd.tree import LEVELS, code_tree
from mera_hf.spelling_mera import VERSIONS


_RANKS = {version: rank for rank, version in enumerate(VERSIONS)}


def _place(code: str) -> tuple[int, int]:
    tree = code_tree(code)
    return _RANKS[tree.version], tree.position(code)


def sort_codes(codes: Iterable[str]) -> list[str]:
    """`codes` (iterable of `str`, with their versions) in depth-first order of the trees, ICD9CM before ICD10CM.

    In this order every group of every level is a contiguous range. Raises [`UnknownCodeError`] or [`InputError`].
    """
    return sorted(codes, key=_place)


def level_groups(codes: Sequence[str]) -> dict[str, list[int]]:
    """For each level the group of each code, as a number from 0 in order of first appearance.

    A group is a node of the tree, and holds itself and what is below it: a code is its own group at its own level.
    Since the codes are in order, every group is a contiguous range.

    Args:
        codes (sequence of `str`): distinct codes with their versions, in the order of [`sort_codes`].

    Returns:
        `dict[str, list[int]]`: level to one index per code, -1 where the code has no node at that level. A level where
        no code has one is left out.

    Raises [`InputError`] where the codes are out of order or repeated, [`UnknownCodeError`] where one is unknown.
    """
    places = [_place(code) for code in codes]
    for before, after, place, next_place in zip(codes, codes[1:], places, places[1:], strict=False):
        if place >= next_place:
            raise InputError(f"`codes` has {before} before {after}; give distinct codes in the order of `sort_codes`")
    groups = {level: [-1] * len(codes) for level in LEVELS}
    seen: dict[str, dict[str, int]] = {level: {} for level in LEVELS}
    for index, code in enumerate(codes):
        tree = code_tree(code)
        for node in (*tree.ancestors(code), code):
            level = tree.level(node)
            groups[level][index] = seen[level].setdefault(node, len(seen[level]))
    return {level: numbers for level, numbers in groups.items() if seen[level]}
