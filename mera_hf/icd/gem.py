"""From one ICD version to the other by the General Equivalence Maps of CMS."""

from collections.abc import Sequence
from functools import cache

from mera_hf.errors import InputError
from mera_hf.icd.listed import nearest_listed
from mera_hf.icd.reading import read_columns
from mera_hf.icd.tree import LEVELS, IcdTree, code_tree
from mera_hf.spelling_mera import VERSIONS


@cache
def _targets(source: str, target: str) -> dict[str, list[str]]:
    """Source code to target codes, best first; an empty list where the map says that there is none."""
    return {
        f"{source}:{code}": [f"{target}:{mapped}" for mapped in codes.split(" ") if mapped]
        for code, codes in zip(*read_columns(f"{source.lower()}_to_{target.lower()}"), strict=True)
    }


def _covering(tree: IcdTree, nodes: Sequence[str]) -> str | None:
    """The narrowest node that is or contains all of `nodes`, None if that is broader than a category."""
    covering = None
    for level_nodes in zip(*((*tree.ancestors(node), node) for node in nodes), strict=False):
        if len(set(level_nodes)) > 1:
            break
        covering = level_nodes[0]
    if covering is None or LEVELS.index(tree.level(covering)) < LEVELS.index("category"):
        return None
    return covering


def gem_map(code: str, to: str) -> list[str]:
    """The codes of version `to` that the map gives for `code`, best first.

    The order is this project's choice: exact before approximate; a target that stands alone before one that is part
    of a combination of codes; lower scenario, then lower choice list; a target that the opposite map sends back to
    `code` before one that it does not; the title that shares the larger part of its words with that of `code`; a
    title with the word "unspecified"; last the order of the tree. The list of a combination is flat.

    The maps list the billable codes of ICD-9-CM v32 and of one ICD-10-CM release before FY2017. For a code that they
    do not list (split or added later, retired before, or broader), the codes that stand for it
    ([`listed.nearest_listed`]) are mapped to their best targets, ignoring those without a map; the answer is the
    narrowest node that is or contains all of these, if it is a category or below: `ICD10CM:E78.00` gives 272.0,
    `ICD9CM:585` gives N18, `ICD9CM:250` gives nothing. This is this project's choice; the node need not be billable.
    The maps are not the last edition of CMS (FY2018): see the README of the tables.

    Args:
        code (`str`): with its version, such as `"ICD10CM:E11.65"`.
        to (`str`): `"ICD9CM"` or `"ICD10CM"`, the version that `code` does not have.

    Returns:
        `list[str]`: codes with their version; empty where the map says that there is none, or where nothing that
        stands for `code` has a common category.

    Raises [`InputError`] for a bad `to`, [`UnknownCodeError`] or [`InputError`] where `code` is no node.
    """
    tree = code_tree(code)
    if to not in VERSIONS or to == tree.version:
        others = " or ".join(name for name in VERSIONS if name != tree.version)
        raise InputError(f"`to` is {to!r}; {code} can be mapped to {others}")
    table = _targets(tree.version, to)
    if code in table:
        return list(table[code])
    best = [table[listed][0] for listed in nearest_listed(tree, code, table) if table[listed]]
    covering = _covering(IcdTree.load(to), best)
    return [] if covering is None else [covering]


def gem_best(code: str, to: str) -> str | None:
    """The first of [`gem_map`], None where it is empty: `gem_best("ICD10CM:I10", to="ICD9CM")` is `"ICD9CM:401.9"`.

    The other targets of a combination are lost. Args and errors as in [`gem_map`].
    """
    targets = gem_map(code, to)
    return targets[0] if targets else None
