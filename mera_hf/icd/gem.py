"""From one ICD version to the other by the General Equivalence Maps of CMS."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from mera_hf.errors import InputError
from mera_hf.icd.listed import nearest_listed
from mera_hf.icd.reading import read_columns
from mera_hf.icd.tree import IcdTree, code_tree
from mera_hf.spelling_mera import ICD9CM, VERSIONS


@cache
def _entries(source: str, target: str) -> dict[str, str]:
    """Source code to its entry: blanks stand between equal ways to write it in the target version, `+` between the codes
    that belong together, `|` between the equal choices for one of these, the best first; empty where there is none."""
    codes, entries = read_columns(f"{source.lower()}_to_{target.lower()}")
    return {f"{source}:{code}": entry for code, entry in zip(codes, entries, strict=True)}


@cache
def _claims() -> dict[str, int]:
    """ICD-9-CM code to the number of Medicare claims (DE-SynPUF) that record it."""
    codes, counts = read_columns("icd9cm_claims")
    return {f"{ICD9CM.name}:{code}": int(count) for code, count in zip(codes, counts, strict=True)}


def _choose(entry: str, to: str, recorded: Callable[[str], tuple[int, int]]) -> list[str]:
    """The codes of one way of `entry`: the most recorded of its choices, the first among equals."""
    ways = [
        [max((f"{to}:{code}" for code in choices.split("|")), key=recorded) for choices in way.split("+")]
        for way in entry.split(" ")
    ]
    return list(dict.fromkeys(max(ways, key=lambda way: min(map(recorded, way)))))


def _covering(tree: IcdTree, targets: Mapping[str, str], counts: Mapping[str, int]) -> str:
    """The node of `tree` that stands for all `targets`, of source codes to codes of the tree: of those in the category
    that is recorded most, the narrowest node that is or contains them.

    Recorded by `counts`, then by the claims, then by the number of source codes; the first among equals.
    """
    families: dict[str | None, list[str]] = {}
    for code, target in targets.items():
        families.setdefault(tree.ancestor(target, "category"), []).append(code)

    def recorded(family: list[str]) -> tuple[int, int, int]:
        held = {targets[code] for code in family}
        claims = sum(_claims().get(code, 0) for code in {*family, *held})
        return sum(counts.get(target, 0) for target in held), claims, len(family)

    family = max(families.values(), key=recorded)
    paths = [(*tree.ancestors(targets[code]), targets[code]) for code in family]
    return [level[0] for level in zip(*paths, strict=False) if len(set(level)) == 1][-1]


def _nearest(tree: IcdTree, code: str, relatives: Sequence[str]) -> str:
    """The one of `relatives` whose title shares the larger part of its words with that of `code` (Dice); among equals one
    with the word "unspecified", then the nearest in the order of the tree."""
    words = _words(tree, code)

    def closeness(relative: str) -> tuple[float, int, int]:
        others = _words(tree, relative)
        shared = 2 * len(words & others) / (len(words) + len(others))
        return shared, "unspecified" in others, -abs(tree.position(relative) - tree.position(code))

    return max(relatives, key=closeness)


def _words(tree: IcdTree, node: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", tree.description(node).lower()))


def gem_map(code: str, to: str, counts: Mapping[str, int] | None = None) -> list[str]:
    """The codes of version `to` that together stand for `code`: one, or all codes of a combination.

    `ICD10CM:I10` is 401.9; `ICD10CM:R65.21` is 785.52 and 995.92. Where the map gives a choice, an exact target goes
    before approximate ones, targets that stand alone before combinations, and targets that the opposite map sends back to
    `code` before others. Which of those that are equal in this is taken is this project's choice:

    1. the one that `counts` names most often;
    2. the ICD-9-CM code that most Medicare claims record (DE-SynPUF, which comes with the package);
    3. one whose title begins or ends with "unspecified", then the shorter code, then the first in the tree.

    Equal combinations compare by their rarest code, then by the number of their scenario.

    The maps list the billable codes of ICD-9-CM v32 and of one ICD-10-CM release before FY2017, not the last edition of
    CMS (FY2018): see the README of the tables. What has no target in them is mapped by this project's choice, too:

    - A code for which the map says that there is none: one of the codes that the opposite map sends to it, alone or in a
      combination. `ICD9CM:E934.2` is T45.515A, which the opposite map sends to 995.29 and E934.2.
    - A code broader than those that the map lists: the narrowest node that is or contains the targets of the codes below
      it, of a combination its first code; where these lie in several categories, those in the category that is recorded
      most. `ICD9CM:585` is N18, `ICD9CM:427` is I48.9. The node need not be billable.
    - Any other code that the map does not list (of another year): the targets of its nearest relative. That is the code
      above it if the map lists it, otherwise the sibling whose title shares the larger part of its words with that of
      `code`; among equals an unspecified one, then the nearest in the order of the tree. `ICD10CM:E78.00` is mapped as
      E78.0, `ICD10CM:T81.40XA` as T81.4XXA. No relative is sought beyond the category.

    Args:
        code (`str`): with its version, such as `"ICD10CM:E11.65"`.
        to (`str`): `"ICD9CM"` or `"ICD10CM"`, the version that `code` does not have.
        counts (mapping of `str` to `int`, *optional*): how often each code of version `to` is recorded in the data that
            the mapped codes will join.

    Returns:
        `list[str]`: distinct codes with their version, in the order of the map; empty where neither map names a target,
        and where no code of the category has one.

    Raises [`InputError`] for a bad `to`, [`UnknownCodeError`] or [`InputError`] where `code` is no node.
    """
    tree = code_tree(code)
    if to not in VERSIONS or to == tree.version:
        others = " or ".join(name for name in VERSIONS if name != tree.version)
        raise InputError(f"`to` is {to!r}; {code} can be mapped to {others}")
    counts = counts or {}

    def recorded(node: str) -> tuple[int, int]:
        return counts.get(node, 0), _claims().get(node, 0)

    entries = _entries(tree.version, to)
    listed = nearest_listed(tree, code, entries)
    if not listed:
        return []
    if code in tree.ancestors(listed[0]):
        targets = {below: _choose(entries[below], to, recorded)[0] for below in listed if entries[below]}
        return [_covering(IcdTree.load(to), targets, counts)] if targets else []
    entry = entries[_nearest(tree, code, listed)]
    return _choose(entry, to, recorded) if entry else []
