"""The ontology: ICD-9-CM and ICD-10-CM trees, how a code is written, its groups, its match in the other version.

A code is one string everywhere, version and dotted code: `ICD9CM:250.23`, `ICD10CM:E11.65`. Nodes above the codes are
written the same way: `ICD9CM:240-279`, `ICD10CM:CH4`. Importing this package reads no table; the first look-up does.
"""

from mera_hf.icd.gem import gem_map
from mera_hf.icd.groupings import ccs, ccsr, ccsr_groups
from mera_hf.icd.order import level_groups, sort_codes
from mera_hf.icd.tree import LEVELS, IcdTree, UnknownCodeError, code_tree, describe
from mera_hf.spelling_mera import ICD9CM, ICD10CM, NUMBERS, VERSIONS


__all__ = [
    "ICD9CM",
    "ICD10CM",
    "LEVELS",
    "NUMBERS",
    "VERSIONS",
    "IcdTree",
    "UnknownCodeError",
    "ccs",
    "ccsr",
    "ccsr_groups",
    "code_tree",
    "describe",
    "gem_map",
    "level_groups",
    "sort_codes",
]
