"""Order and groups of a vocabulary."""

import random

import pytest

from mera_hf.errors import InputError
from mera_hf.icd import LEVELS, IcdTree, UnknownCodeError, code_tree, level_groups, sort_codes


def test_sort_is_depth_first_and_icd9_comes_first():
    codes = "ICD10CM:A00.0 ICD9CM:E849.0 ICD9CM:V10 ICD9CM:250.23 ICD9CM:250 ICD10CM:F68.8 ICD10CM:F68.A".split()
    expected = "ICD9CM:250 ICD9CM:250.23 ICD9CM:V10 ICD9CM:E849.0 ICD10CM:A00.0 ICD10CM:F68.A ICD10CM:F68.8".split()
    assert sort_codes(codes) == expected
    assert sort_codes([]) == []


def test_groups_by_hand():
    codes = ["ICD9CM:250", "ICD9CM:250.02", "ICD9CM:250.23", "ICD9CM:285.9", "ICD9CM:401.9", "ICD10CM:E11.65"]
    assert level_groups(codes) == {
        "chapter": [0, 0, 0, 1, 2, 3],
        "block": [0, 0, 0, -1, 1, 2],
        "category": [0, 0, 0, 1, 2, 3],
        "subcategory1": [-1, 0, 1, 2, 3, 4],
        "subcategory2": [-1, 0, 1, -1, -1, 2],
    }
    assert level_groups([]) == {}


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_groups_of_every_level_are_contiguous_and_numbered_in_order(share):
    draw = random.Random(0)
    nodes = [node for version in ("ICD9CM", "ICD10CM") for node in IcdTree.load(version).codes()]
    codes = sort_codes(draw.sample(nodes, round(share * len(nodes))))
    groups = level_groups(codes)
    assert set(groups) <= set(LEVELS)
    for level, numbers in groups.items():
        starts = [number for before, number in zip([None, *numbers], numbers, strict=False) if number != before]
        changes = [number for number in starts if number != -1]
        assert changes == list(range(max(numbers) + 1))
        # Two codes are in the same group exactly if they have the same node at the level.
        nodes_of = {}
        for code, number in zip(codes, numbers, strict=True):
            node = code_tree(code).ancestor(code, level)
            assert (node is None) == (number == -1)
            assert nodes_of.setdefault(number, node) == node


def test_bad_vocabularies():
    with pytest.raises(InputError, match="`codes` has ICD9CM:401.9 before ICD9CM:250; give distinct codes"):
        level_groups(["ICD9CM:401.9", "ICD9CM:250"])
    with pytest.raises(InputError, match="`codes` has ICD9CM:250 before ICD9CM:250;"):
        level_groups(["ICD9CM:250", "ICD9CM:250"])
    with pytest.raises(UnknownCodeError, match="'ICD9CM:25023' is not an ICD-9-CM code"):
        sort_codes(["ICD9CM:25023"])
    with pytest.raises(InputError, match="'250.23' has no version"):
        sort_codes(["250.23"])
