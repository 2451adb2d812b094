"""The clinical groupings of AHRQ HCUP: CCS for both versions, CCSR for ICD-10-CM."""

from functools import cache

from mera_hf.errors import InputError
from mera_hf.icd.listed import nearest_listed
from mera_hf.icd.reading import read_columns
from mera_hf.icd.tree import code_tree
from mera_hf.spelling_mera import ICD10CM


@cache
def _groups(name: str, version: str) -> dict[str, tuple[str, ...]]:
    # A row holds a group: its id, its name where the grouping has names, its codes.
    return {
        f"{version}:{code}": tuple(group)
        for *group, codes in zip(*read_columns(f"{version.lower()}_{name}"), strict=True)
        for code in codes.split(" ")
    }


def _group(name: str, code: str) -> tuple[str, ...] | None:
    tree = code_tree(code)
    table = _groups(name, tree.version)
    found = {table[listed] for listed in nearest_listed(tree, code, table)}
    return found.pop() if len(found) == 1 else None


def ccs(code: str) -> tuple[str, str] | None:
    """The CCS group of `code` (`str`, with its version): `ccs("ICD9CM:428.0")` is
    `("108", "Congestive heart failure; nonhypertensive")`.

    Source: single-level CCS for ICD-9-CM (2015), CCS for ICD-10-CM (beta, 2019.1), which use the same 283 ids; a few
    names are worded differently. A code that the grouping does not list has the group of the codes that stand for it
    ([`listed.nearest_listed`], this project's choice) where these agree: `ICD9CM:428` is 108, `ICD9CM:250` is None.

    Raises [`UnknownCodeError`] or [`InputError`] where `code` is no node.
    """
    group = _group("ccs", code)
    return None if group is None else (group[0], group[1])


def ccsr_groups(code: str) -> bool:
    """Whether CCSR groups the version of `code` (`str`, with its version) at all."""
    return code.startswith(f"{ICD10CM.name}:")


def ccsr(code: str) -> str | None:
    """The default CCSR category of `code` (`str`, ICD-10-CM with its version), an id such as `"END003"`.

    A code that CCSR does not list is read as in [`ccs`]. Raises [`InputError`] for an ICD-9-CM code, which CCSR does
    not group, and [`UnknownCodeError`] or [`InputError`] where `code` is no node.
    """
    if code_tree(code).version != ICD10CM.name:
        raise InputError(f"CCSR groups ICD-10-CM codes alone, got {code!r}; use `ccs` or map it with `gem_map`")
    group = _group("ccsr", code)
    return None if group is None else group[0]
