"""Which entries of a table stand for a code that the table itself does not list.

CCS, CCSR and the GEM list the billable codes of one year. Data holds codes of other years, and broader codes.
"""

from collections.abc import Container

from mera_hf.icd.tree import LEVELS, IcdTree


def nearest_listed(tree: IcdTree, code: str, table: Container[str]) -> list[str]:
    """The codes of `table` that stand for `code` (this project's choice).

    `code` itself if it is listed; otherwise the listed codes below it; otherwise those of its parent, by the same
    rule, and so on up to the category. A code of a later year thereby finds the broader code that it splits
    (ICD10CM:E78.00 finds E78.0), or its siblings (ICD10CM:F10.11 finds F10.10, F10.120, ...); a broader code finds the
    codes that it was split into (ICD9CM:585 finds 585.1 to 585.9).

    Args:
        tree (`IcdTree`): the tree of `code`.
        code (`str`): a node of the tree.
        table (container of `str`): the listed codes.

    Returns:
        `list[str]`: in depth-first order; empty where no code up to the category is listed.
    """
    node = code
    while True:
        if node in table:
            return [node]
        below = [descendant for descendant in tree.descendants(node) if descendant in table]
        if below or LEVELS.index(tree.level(node)) <= LEVELS.index("category"):
            return below
        parent = tree.parent(node)
        assert parent is not None  # below a category
        node = parent
