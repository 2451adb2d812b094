"""The tree of one ICD version, held as flat lists in depth-first order."""

from collections.abc import Iterator, Sequence
from functools import cache, cached_property

from mera_hf.errors import InputError
from mera_hf.icd.reading import read_columns
from mera_hf.spelling_mera import VERSIONS, dotted


LEVELS = ("chapter", "block", "category", "subcategory1", "subcategory2", "subcategory3", "subcategory4")
_CATEGORY = LEVELS.index("category")


class UnknownCodeError(InputError):
    """A spelling that is not a code of its version.

    Args:
        value (`str`): the spelling as it was given.
        version (`str`): the version in which it was looked up, `"ICD9CM"` or `"ICD10CM"`.
        nearest (`str`, *optional*): the code of the longest prefix that is valid, such as `"ICD9CM:250.2"`.
        other (`str`, *optional*): the code that the spelling is in the other version.
    """

    def __init__(self, value: str, version: str, nearest: str | None = None, other: str | None = None):
        # All four go to `args`, from which pickle rebuilds an exception: one raised in a worker process must arrive.
        super().__init__(value, version, nearest, other)
        self.value, self.version, self.nearest, self.other = value, version, nearest, other

    def __str__(self) -> str:
        message = f"{self.value!r} is not an {VERSIONS[self.version].label} code"
        if self.nearest is not None:
            message += f"; its nearest valid prefix is {self.nearest}"
        if self.other is not None:
            other = VERSIONS[self.other.partition(":")[0]]
            message += f"; it is an {other.label} code: set version {other.number}?"
        return message


class IcdTree:
    """The ICD-9-CM or ICD-10-CM tree, retired codes included.

    Nodes are strings such as `ICD9CM:240-279` (chapter), `ICD9CM:249-259` (block), `ICD9CM:250` (category),
    `ICD9CM:250.2` and `ICD9CM:250.23` (subcategories). Categories and subcategories are codes, whether billable or
    not. The level of a code is its depth below the category, not its length: ICD-10-CM has no nodes for
    placeholders, so E08.37X1 is a subcategory3. Some chapters have no blocks.

    The order is depth-first, with children as in the official tabular list (in ICD-9-CM the V codes precede the
    E codes), so that the descendants of every node follow it without a gap.

    Every method takes a node as `normalize` writes it, and raises [`UnknownCodeError`] for anything else.

    Example:

        >>> tree = IcdTree.load("ICD9CM")
        >>> tree.normalize("25023")
        'ICD9CM:250.23'
        >>> tree.ancestors("ICD9CM:250.23")
        ('ICD9CM:240-279', 'ICD9CM:249-259', 'ICD9CM:250', 'ICD9CM:250.2')

    Args:
        version (`str`): `"ICD9CM"` or `"ICD10CM"`.
        levels (sequence of `str`): for each node, in depth-first order, the index of its level in `LEVELS`.
        statuses (sequence of `str`): `"b"` for billable, `"r"` for retired, `""` otherwise.
        codes (sequence of `str`): without their version.
        descriptions (sequence of `str`): titles.
    """

    def __init__(
        self,
        version: str,
        levels: Sequence[str],
        statuses: Sequence[str],
        codes: Sequence[str],
        descriptions: Sequence[str],
    ):
        self.version = version
        self._nodes = [f"{version}:{code}" for code in codes]
        self._positions = {node: position for position, node in enumerate(self._nodes)}
        self._levels = list(map(int, levels))
        self._statuses = statuses
        self._descriptions = descriptions
        self._parents: list[int] = []
        # above[l]: position of the last node at a level above l, which is the parent of a node at level l.
        above = [-1] * (len(LEVELS) + 1)
        for position, level in enumerate(self._levels):
            self._parents.append(above[level])
            for deeper in range(level + 1, len(above)):
                above[deeper] = position

    @classmethod
    def load(cls, version: str) -> "IcdTree":
        """The tree of `version` (`"ICD9CM"` or `"ICD10CM"`) from the package's tables, read once a process.

        Raises [`InputError`] for another version.
        """
        if version not in VERSIONS:
            raise InputError(f"`version` is {version!r}; set one of {', '.join(VERSIONS)}")
        return _load(version)

    @cached_property
    def _ends(self) -> list[int]:
        """For each node the position after its last descendant."""
        ends = [0] * len(self._nodes)
        # following[l]: position of the next node at level l or above, which ends the subtree of a node at level l.
        following = [len(self._nodes)] * len(LEVELS)
        for position in reversed(range(len(self._nodes))):
            level = self._levels[position]
            ends[position] = following[level]
            for deeper in range(level, len(LEVELS)):
                following[deeper] = position
        return ends

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[str]:
        """All nodes in depth-first order."""
        return iter(self._nodes)

    def __contains__(self, node: object) -> bool:
        """Whether `node` is a node as `normalize` writes it."""
        return node in self._positions

    def normalize(self, raw: str) -> str:
        """The node that `raw` spells, such as `"ICD9CM:250.23"`.

        Reads codes with a dot or without, with their version or without, in lower case, between blanks, and ICD-9-CM
        numbers that lost their leading zeros: see [`~mera_hf.spelling_mera.dotted`] for the rule. Chapters and blocks are
        read too.

        Args:
            raw (`str`): `"25023"`, `"250.23"`, `"38"`, `"v1582"`, `"e11.65"`, `"T81.4XXA"`, `"ICD9CM:250.23"`.

        Raises [`UnknownCodeError`] with the nearest valid prefix, and the other version if `raw` is a code there;
        [`InputError`] where `raw` is not a string.
        """
        if not isinstance(raw, str):
            raise InputError(
                f"a code must be a string, got {raw!r} ({type(raw).__name__}); read the column as text, since numbers "
                "lose leading and trailing zeros"
            )
        node = self._find(raw)
        if node is None:
            raise self._unknown(raw)
        return node

    def _find(self, raw: str) -> str | None:
        text = raw.strip().upper().removeprefix(f"{self.version}:")
        node = f"{self.version}:{text}"
        if node in self._positions:
            return node
        node = f"{self.version}:{dotted(self.version, text)}"
        return node if node in self._positions else None

    def _unknown(self, raw: str) -> UnknownCodeError:
        text = raw.strip().upper().removeprefix(f"{self.version}:")
        plain = (dotted(self.version, text) or text).replace(".", "")
        # No code is shorter than three characters; below that a prefix would be a lost-zero reading of other digits.
        prefixes = (self._find(plain[:end]) for end in range(len(plain) - 1, 2, -1))
        nearest = next((node for node in prefixes if node is not None), None)
        elsewhere = (IcdTree.load(version)._find(raw) for version in VERSIONS if version != self.version)
        other = next((node for node in elsewhere if node is not None), None)
        return UnknownCodeError(raw, self.version, nearest, other)

    def position(self, node: str) -> int:
        """Index (`int`) of `node` in depth-first order, from 0."""
        try:
            return self._positions[node]
        except KeyError:
            raise self._unknown(node) from None

    def parent(self, node: str) -> str | None:
        """The node above, None for a chapter."""
        above = self._parents[self.position(node)]
        return None if above < 0 else self._nodes[above]

    def ancestors(self, node: str) -> tuple[str, ...]:
        """The nodes from the chapter down to the parent; empty for a chapter."""
        path = []
        above = self._parents[self.position(node)]
        while above >= 0:
            path.append(self._nodes[above])
            above = self._parents[above]
        return tuple(reversed(path))

    def children(self, node: str) -> tuple[str, ...]:
        """The nodes right below, in order."""
        position = self.position(node)
        return self._chain(position + 1, self._ends[position])

    def siblings(self, node: str) -> tuple[str, ...]:
        """The other children of the parent, in order; of a chapter, the other chapters."""
        above = self._parents[self.position(node)]
        family = self._chain(above + 1, self._ends[above] if above >= 0 else len(self._nodes))
        return tuple(other for other in family if other != node)

    def _chain(self, start: int, end: int) -> tuple[str, ...]:
        found = []
        while start < end:
            found.append(self._nodes[start])
            start = self._ends[start]
        return tuple(found)

    def descendants(self, node: str) -> tuple[str, ...]:
        """All nodes below, in depth-first order."""
        position = self.position(node)
        return tuple(self._nodes[position + 1 : self._ends[position]])

    def level(self, node: str) -> str:
        """The level of `node`, one of `LEVELS`."""
        return LEVELS[self._levels[self.position(node)]]

    def ancestor(self, node: str, level: str) -> str | None:
        """`node` itself or its ancestor at `level` (one of `LEVELS`), None where it has none there."""
        if level not in LEVELS:
            raise InputError(f"`level` is {level!r}; set one of {', '.join(LEVELS)}")
        wanted = LEVELS.index(level)
        position = self.position(node)
        while position >= 0 and self._levels[position] > wanted:
            position = self._parents[position]
        return self._nodes[position] if position >= 0 and self._levels[position] == wanted else None

    def description(self, node: str) -> str:
        """The official title of `node`."""
        return self._descriptions[self.position(node)]

    def is_billable(self, node: str) -> bool:
        """Whether `node` may be reported in the tree's release: ICD-9-CM v32 (FY2015), ICD-10-CM April 2026."""
        return self._statuses[self.position(node)] == "b"

    def is_retired(self, node: str) -> bool:
        """Whether `node` is a code of an earlier ICD-10-CM release (FY2016 to FY2025) that is gone now."""
        return self._statuses[self.position(node)] == "r"

    def codes(self, billable: bool | None = None) -> list[str]:
        """The codes in depth-first order: categories and subcategories, not chapters and blocks.

        Args:
            billable (`bool`, *optional*): True keeps the billable codes, False the others, None all.
        """
        return [
            node
            for node, level, status in zip(self._nodes, self._levels, self._statuses, strict=True)
            if level >= _CATEGORY and (billable is None or billable == (status == "b"))
        ]


@cache
def _load(version: str) -> IcdTree:
    return IcdTree(version, *read_columns(f"{version.lower()}_tree"))


def code_tree(code: str) -> IcdTree:
    """The tree to which `code` (`str`, with its version: `"ICD9CM:250.23"`) belongs.

    Raises [`InputError`] where `code` does not begin with a version.
    """
    version, colon, _ = code.partition(":")
    if not colon or version not in VERSIONS:
        raise InputError(f"{code!r} has no version; write it as {' or '.join(f'{name}:<code>' for name in VERSIONS)}")
    return IcdTree.load(version)


def describe(code: str) -> str:
    """The official title of `code` (`str`, with its version): `describe("ICD9CM:401.9")` is
    "Unspecified essential hypertension". Raises [`InputError`] or [`UnknownCodeError`]."""
    return code_tree(code).description(code)
