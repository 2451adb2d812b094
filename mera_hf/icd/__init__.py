"""The ontology: ICD-9-CM and ICD-10-CM trees, how a code is written, its groups, its match in the other version.

A code is one string everywhere, version and dotted code: `ICD9CM:250.23`, `ICD10CM:E11.65`. Nodes above the codes are
written the same way: `ICD9CM:240-279`, `ICD10CM:CH4`. Importing this package reads no table; the first look-up does.
"""

from ..spelling_mera import VERSIONS
from .gem import gem_best, gem_map
from .groupings import ccs, ccsr
from .order import level_groups, sort_codes
from .tree import LEVELS, IcdTree, code_tree, describe
from .unknown import CodeReport, UnknownCodeError


__all__ = [
    "LEVELS",
    "VERSIONS",
    "CodeReport",
    "IcdTree",
    "UnknownCodeError",
    "ccs",
    "ccsr",
    "code_tree",
    "describe",
    "gem_best",
    "gem_map",
    "level_groups",
    "sort_codes",
]
