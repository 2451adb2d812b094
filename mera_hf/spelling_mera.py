"""How a code is written: where its dot lies, which zeros a spreadsheet took away, and which code of a model it means."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple


class Version(NamedTuple):
    """A version of ICD.

    Attributes:
        number (`str`): how people choose it, such as `"9"`.
        name (`str`): what its codes begin with, such as `"ICD9CM"`.
        label (`str`): what people call it, such as `"ICD-9-CM"`.
        shape (`re.Pattern`): a code without its version; the part before the dot, then the part after it.
    """

    number: str
    name: str
    label: str
    shape: re.Pattern


ICD9CM = Version("9", "ICD9CM", "ICD-9-CM", re.compile(r"([0-9]{1,3}|V[0-9]{2}|E[0-9]{3})\.?([0-9]{0,2})"))
ICD10CM = Version("10", "ICD10CM", "ICD-10-CM", re.compile(r"([A-Z][0-9A-Z]{2})\.?([0-9A-Z]{0,4})"))
# By name, in sort order. The versions stand here and nowhere else: `mera_hf.icd` hands them on
VERSIONS = {version.name: version for version in (ICD9CM, ICD10CM)}
NUMBERS = {version.number: version.name for version in VERSIONS.values()}
_SHORTEST = 3  # characters of a category
_MOST_BELOW = 3  # codes that a message names


def dotted(version: str, text: str) -> str | None:
    """The dotted form of an upper-case spelling without its version, or None where it has not the shape of a code.

    The dot lies after three characters, in an ICD-9-CM E code after four. A dot that is written must lie there.

    Lost zeros (ICD-9-CM numbers that went through a spreadsheet) come back where the part before the dot has fewer
    than three digits, and nowhere else: `8` is 008, `38` is 038, `38.1` is 038.1. A number without a dot and with
    three digits or more is read as written: `389` is 389 and never 038.9, `0380` is 038.0, `4019` is 401.9.

    Args:
        version (`str`): `"ICD9CM"` or `"ICD10CM"`.
        text (`str`): the spelling, such as `"25023"`, `"250.23"`, `"T814XXA"`.
    """
    match = VERSIONS[version].shape.fullmatch(text)
    if match is None:
        return None
    head, tail = match.groups()
    head = head.zfill(3)
    return f"{head}.{tail}" if tail else head


def split_visits(text: str) -> list[list[str]]:
    """The spellings of each visit in `"250.00 401.9; 428.0"`: visits lie between semicolons, codes between blanks or commas.
    A visit without codes is an empty list."""
    return [part.replace(",", " ").split() for part in text.rstrip(" ;").split(";")]


class CodeReader:
    """
    Reads codes in any spelling as codes of one model, without the ICD tables.

    A code that the model does not rank is read as the nearest code above it that the model has, a category for its
    subcategory, since many data sets keep categories only. Above it are its prefixes, as in the tree of either version. That
    the spelling is a code of its version at all is not checked, which needs the tables of `mera_hf.icd`.

    Args:
        codes (`list[str]`): codes of the model, such as `ICD9CM:250.00`.
    """

    which = "say which (`icd='9'` or `icd='10'`)"  # what a message asks for where both versions may be meant

    def __init__(self, codes: list[str]):
        self.codes = dict.fromkeys(codes)  # in their order, and quick to look up
        self.versions = sorted({code.split(":")[0] for code in codes})

    def version(self, icd: str | int | None) -> str | None:
        """The version of codes that are written without one: `icd`, or the only one that the model knows; else `None`.

        Args:
            icd (`str` or `int`, *optional*): `"9"`, `"10"`, `"ICD9CM"` or `"ICD-10-CM"`.

        Raises:
            `ValueError`: for another version, or one that the model does not know.
        """
        if icd is None:
            return self.versions[0] if len(self.versions) == 1 else None
        version = _version(str(icd))
        if version is None:
            raise ValueError(f"`icd` is {icd!r}; give '9' or '10'.")
        if version not in self.versions:
            raise ValueError(f"`icd` is {icd!r}, and this model knows {VERSIONS[self.versions[0]].label} codes only.")
        return version

    def read_visits(self, visits: Sequence[Collection[str]], version: str | None) -> list[list[str]]:
        """
        The codes of each visit as codes of the model, each once.

        Args:
            visits (sequence of collections of `str`): as [`split_visits`] gives them.
            version (`str`, *optional*): as in [`read`].

        Raises:
            `ValueError`: naming the visit, from 1, for one without codes and for a code that cannot be read.
        """
        read = []
        for number, codes in enumerate(visits, start=1):
            if isinstance(codes, str) or not isinstance(codes, Iterable):
                raise ValueError(f"visit {number}: its codes are {codes!r}; give a list of codes, as in ['250.00'].")
            if not len(codes):
                raise ValueError(f"visit {number} of {len(visits)} is empty; give its codes or leave it out.")
            try:
                read.append(list(dict.fromkeys(self.read(raw, version) for raw in codes)))
            except ValueError as error:
                raise ValueError(f"visit {number}: {error}") from error
        return read

    def read(self, raw: str, version: str | None) -> str:
        """
        The code of the model that a spelling means.

        Args:
            raw (`str`): `"25023"`, `"250.23"`, `"38"`, `"v1582"`, `"e11.65"`, `"ICD9CM:250.23"`, `"ICD-10:I50.9"`.
            version (`str`, *optional*): `"ICD9CM"` or `"ICD10CM"`, of a spelling that does not say it.

        Raises:
            `ValueError`: for a spelling whose version is not said, or that the model has no code for.
        """
        if not isinstance(raw, str):
            raise ValueError(f"a code must be a string, got {raw!r}; numbers lose leading and trailing zeros.")
        head, colon, text = raw.strip().upper().rpartition(":")
        if colon:
            version = _version(head)
        elif version is None:
            raise ValueError(
                f"{raw!r} may be ICD-9-CM or ICD-10-CM, and this model knows both; {self.which}, or write the version with "
                "the code, as in ICD10CM:I50.9."
            )
        code = None if version is None else dotted(version, text)
        above = code
        while above and len(above) >= _SHORTEST:
            if f"{version}:{above}" in self.codes:
                return f"{version}:{above}"
            above = above[:-1].rstrip(".")
        known = " and ".join(VERSIONS[name].label for name in self.versions)
        below = [name for name in self.codes if code and name.startswith(f"{version}:{code}")]
        if below:
            more = f" and {len(below) - _MOST_BELOW:,} more" if len(below) > _MOST_BELOW else ""
            advice = f"name one that it has below: {', '.join(below[:_MOST_BELOW])}{more}."
        else:
            advice = "leave it out."
        raise ValueError(
            f"{raw!r} is not one of the {len(self.codes):,} codes of this model ({known}), nor is a code above it; {advice}"
        )


def _version(name: str) -> str | None:
    """`ICD9CM` for `9`, `ICD-9`, `ICD9CM` and so on; `None` for anything else."""
    number = name.strip().upper().replace("-", "").removeprefix("ICD").removesuffix("CM")
    return NUMBERS.get(number)


__all__ = ["ICD9CM", "ICD10CM", "NUMBERS", "VERSIONS", "CodeReader", "Version", "dotted", "split_visits"]
