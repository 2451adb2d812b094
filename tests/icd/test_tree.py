"""The trees: counts, every spelling of every code, relations between nodes, and that loading is lazy."""

import pickle
import subprocess
import sys
from collections import Counter

import pytest

from mera_hf.errors import InputError
from mera_hf.icd import LEVELS, VERSIONS, IcdTree, UnknownCodeError, code_tree, describe


ICD9 = IcdTree.load("ICD9CM")
ICD10 = IcdTree.load("ICD10CM")
BOTH = pytest.mark.parametrize("tree", [ICD9, ICD10], ids=lambda tree: tree.version)


@pytest.mark.parametrize(
    ("tree", "nodes", "chapters", "blocks", "categories", "billable", "retired"),
    [(ICD9, 17726, 19, 154, 1234, 14567, 0), (ICD10, 99115, 22, 297, 1918, 74719, 610)],
)
def test_counts(tree, nodes, chapters, blocks, categories, billable, retired):
    levels = Counter(tree.level(node) for node in tree)
    assert len(tree) == len(set(tree)) == nodes
    assert (levels["chapter"], levels["block"], levels["category"]) == (chapters, blocks, categories)
    assert len(tree.codes(billable=True)) == sum(map(tree.is_billable, tree)) == billable
    assert sum(map(tree.is_retired, tree)) == retired
    assert len(tree.codes()) == nodes - chapters - blocks
    assert sorted(tree.codes(billable=True) + tree.codes(billable=False)) == sorted(tree.codes())


@BOTH
def test_every_spelling_of_every_code_is_read(tree):
    for code in tree.codes():
        dotted = code.partition(":")[2]
        plain = dotted.replace(".", "")
        for spelling in (code, code.lower(), dotted, plain, plain.lower(), f" {plain}  "):
            assert tree.normalize(spelling) == code


def test_every_icd9_number_is_read_without_its_leading_zeros():
    padded = 0
    for code in ICD9.codes():
        whole, dot, rest = code.partition(":")[2].partition(".")
        if not whole.isdigit() or whole[0] != "0":
            continue
        # A whole number and its fraction keep their dot in a spreadsheet; without a dot only categories are padded.
        assert ICD9.normalize(f"{int(whole)}{dot}{rest}") == code
        padded += 1
    assert padded > 1000


@BOTH
def test_groups_are_read_as_they_are_written(tree):
    for node in tree:
        if tree.level(node) in ("chapter", "block"):
            assert tree.normalize(node.partition(":")[2].lower()) == node


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("25023", "250.23"),
        ("250.23", "250.23"),
        ("250", "250"),
        ("250.", "250"),
        ("4019", "401.9"),
        ("8", "008"),
        ("38", "038"),
        ("70", "070"),
        ("38.1", "038.1"),
        ("8.45", "008.45"),
        ("389", "389"),
        ("0380", "038.0"),
        ("038", "038"),
        ("v1582", "V15.82"),
        ("V10", "V10"),
        ("E8490", "E849.0"),
        ("e849", "E849"),
        ("E849.0", "E849.0"),
        ("ICD9CM:250.23", "250.23"),
        ("icd9cm:25023", "250.23"),
        ("240-279", "240-279"),
    ],
)
def test_icd9_spellings(raw, code):
    assert ICD9.normalize(raw) == f"ICD9CM:{code}"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("e11.65", "E11.65"),
        ("E1165", "E11.65"),
        ("T81.4XXA", "T81.4XXA"),
        ("t814xxa", "T81.4XXA"),
        ("B20", "B20"),
        ("B20-B20", "B20-B20"),
        ("C7A", "C7A"),
        ("C7A00", "C7A.00"),
        ("QA00", "QA0.0"),
        ("ch4", "CH4"),
        ("ICD10CM:E11.65", "E11.65"),
    ],
)
def test_icd10_spellings(raw, code):
    assert ICD10.normalize(raw) == f"ICD10CM:{code}"


@pytest.mark.parametrize(
    ("tree", "raw", "nearest", "other"),
    [
        (ICD9, "250.99", "ICD9CM:250.9", None),
        (ICD9, "25099", "ICD9CM:250.9", None),
        (ICD9, "2502.3", "ICD9CM:250.2", None),
        (ICD9, "8.99", "ICD9CM:008", None),
        (ICD9, "e11.65", None, "ICD10CM:E11.65"),
        (ICD9, "ICD10CM:E11.65", None, "ICD10CM:E11.65"),
        (ICD9, "V1.5", None, None),
        (ICD9, "", None, None),
        (ICD10, "4019", None, "ICD9CM:401.9"),
        (ICD10, "E11.659", "ICD10CM:E11.65", None),
        (ICD10, "8", None, "ICD9CM:008"),
        (ICD10, "E8490", "ICD10CM:E84.9", "ICD9CM:E849.0"),
        (ICD10, "E1.169", "ICD10CM:E11.6", None),
    ],
)
def test_unknown_codes_say_what_is_near(tree, raw, nearest, other):
    with pytest.raises(UnknownCodeError) as caught:
        tree.normalize(raw)
    error = caught.value
    assert isinstance(error, InputError)
    assert (error.value, error.version, error.nearest, error.other) == (raw, tree.version, nearest, other)
    assert repr(raw) in str(error)
    assert nearest is None or nearest in str(error)


def test_error_messages():
    with pytest.raises(UnknownCodeError, match=r"'250.99' is not an ICD-9-CM code; .* prefix is ICD9CM:250.9$"):
        ICD9.normalize("250.99")
    with pytest.raises(UnknownCodeError, match=r"'E11.65' is not .*; it is an ICD-10-CM code: set version 10\?"):
        ICD9.normalize("E11.65")
    with pytest.raises(InputError, match=r"a code must be a string, got 250.0 \(float\)"):
        ICD9.normalize(250.0)
    with pytest.raises(InputError, match="`version` is 'ICD11'; set one of ICD9CM, ICD10CM"):
        IcdTree.load("ICD11")
    with pytest.raises(InputError, match="`level` is 'group'; set one of chapter, block"):
        ICD9.ancestor("ICD9CM:250", "group")
    with pytest.raises(InputError, match="'250.23' has no version; write it as ICD9CM:<code> or ICD10CM:<code>"):
        code_tree("250.23")
    for method in (ICD9.position, ICD9.ancestors, ICD9.children, ICD9.level, ICD9.description, ICD9.is_billable):
        with pytest.raises(UnknownCodeError, match="'ICD9CM:250.99'"):
            method("ICD9CM:250.99")


def test_an_error_survives_the_way_out_of_a_worker_process():
    with pytest.raises(UnknownCodeError) as caught:
        ICD9.normalize("25099")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@BOTH
def test_ancestors_lead_from_a_chapter_to_the_parent(tree):
    for node in tree:
        path = tree.ancestors(node)
        levels = [LEVELS.index(tree.level(step)) for step in (*path, node)]
        assert levels == sorted(set(levels)) and levels[0] == 0
        assert tree.parent(node) == (path[-1] if path else None)
        if path:
            assert node in tree.children(path[-1])
        # Below the category no level is skipped, and a code extends its parent.
        if levels[-1] > LEVELS.index("category"):
            assert levels[-1] == levels[-2] + 1
            assert node.replace(".", "").startswith(path[-1].replace(".", ""))
        for step in (*path, node):
            assert tree.ancestor(node, tree.level(step)) == step
        for level in set(LEVELS) - {tree.level(step) for step in (*path, node)}:
            assert tree.ancestor(node, level) is None


@BOTH
def test_order_is_depth_first(tree):
    walked = []

    def walk(node):
        walked.append(node)
        for child in tree.children(node):
            walk(child)

    for chapter in [node for node in tree if tree.level(node) == "chapter"]:
        walk(chapter)
    assert walked == list(tree)
    assert all(tree.position(node) == index for index, node in enumerate(tree))


@BOTH
def test_every_group_of_every_level_is_contiguous(tree):
    below = {node: [] for node in tree}
    for node in tree:
        for above in tree.ancestors(node):
            below[above].append(tree.position(node))
    for node, positions in below.items():
        start = tree.position(node) + 1
        assert positions == list(range(start, start + len(positions)))
        assert len(tree.descendants(node)) == len(positions)


def test_children_stand_in_the_order_of_the_tabular_list():
    chapters = [node for node in ICD9 if ICD9.level(node) == "chapter"]
    assert chapters[-3:] == ["ICD9CM:800-999", "ICD9CM:V01-V91", "ICD9CM:E000-E999"]
    assert [node for node in ICD10 if ICD10.level(node) == "chapter"] == [f"ICD10CM:CH{n}" for n in range(1, 23)]
    assert ICD10.children("ICD10CM:F68") == ("ICD10CM:F68.1", "ICD10CM:F68.A", "ICD10CM:F68.8")
    # Z22.50 to Z22.59 are retired, and stand where they stood.
    assert ICD10.children("ICD10CM:Z22")[4:8] == tuple(f"ICD10CM:Z22.{end}" for end in ("4", "50", "51", "52"))


def test_relations_by_hand():
    assert ICD9.ancestors("ICD9CM:250.23") == ("ICD9CM:240-279", "ICD9CM:249-259", "ICD9CM:250", "ICD9CM:250.2")
    assert ICD10.ancestors("ICD10CM:E11.65") == ("ICD10CM:CH4", "ICD10CM:E08-E13", "ICD10CM:E11", "ICD10CM:E11.6")
    assert ICD9.ancestors("ICD9CM:285.9") == ("ICD9CM:280-289", "ICD9CM:285")
    assert ICD9.level("ICD9CM:250.23") == "subcategory2"
    assert ICD10.level("ICD10CM:T81.4XXA") == "subcategory2"
    assert ICD9.ancestor("ICD9CM:285.9", "block") is None
    assert ICD9.ancestor("ICD9CM:250", "category") == "ICD9CM:250"
    assert ICD9.children("ICD9CM:250.2") == tuple(f"ICD9CM:250.2{digit}" for digit in range(4))
    assert ICD9.siblings("ICD9CM:250.21") == ("ICD9CM:250.20", "ICD9CM:250.22", "ICD9CM:250.23")
    assert ICD9.children("ICD9CM:250.23") == ()
    assert ICD9.parent("ICD9CM:240-279") is None
    assert len(ICD9.siblings("ICD9CM:240-279")) == 18
    assert "ICD9CM:250.23" in ICD9 and "250.23" not in ICD9 and "ICD10CM:E11.65" not in ICD9


def test_titles():
    assert describe("ICD9CM:401.9") == "Unspecified essential hypertension"
    assert describe("ICD10CM:E11.65") == "Type 2 diabetes mellitus with hyperglycemia"
    assert describe("ICD9CM:001-139") == "Infectious And Parasitic Diseases"
    assert describe("ICD10CM:CH4") == "Endocrine, nutritional and metabolic diseases"
    assert describe("ICD10CM:B20-B20") == "Human immunodeficiency virus [HIV] disease"
    assert describe("ICD10CM:H81.0") == "Ménière's disease"
    assert all(tree.description(node) for tree in (ICD9, ICD10) for node in tree)


def test_e_and_v_codes_of_the_two_versions_are_kept_apart():
    assert describe(ICD9.normalize("V10")) == "Personal history of malignant neoplasm"
    assert describe(ICD10.normalize("V10")) == "Pedal cycle rider injured in collision with pedestrian or animal"


def test_retired_codes_are_known_but_not_billable():
    code = ICD10.normalize("Z2252")
    assert ICD10.is_retired(code) and not ICD10.is_billable(code)
    assert not ICD10.is_retired("ICD10CM:E11.65") and ICD10.is_billable("ICD10CM:E11.65")
    assert not ICD9.is_billable("ICD9CM:250") and not ICD9.is_billable("ICD9CM:240-279")


def test_a_tree_is_loaded_once_and_looks_up_by_dictionary():
    assert IcdTree.load("ICD9CM") is ICD9 is code_tree("ICD9CM:250.23")
    # A scan would read the list of nodes; without it every look-up of a position still works.
    tree = IcdTree("ICD9CM", ["0", "2"], ["", "b"], ["001-139", "001"], ["Infections", "Cholera"])
    nodes, tree._nodes = tree._nodes, None
    assert isinstance(tree._positions, dict)
    assert tree.normalize("1") == "ICD9CM:001"
    assert [tree.position(node) for node in nodes] == [0, 1]
    assert "ICD9CM:001" in tree and tree.description("ICD9CM:001") == "Cholera"


def test_import_is_lazy():
    program = (
        "import sys, mera_hf.icd as icd\n"
        "from mera_hf.icd import gem, groupings, tree\n"
        "caches = tree._load, gem._entries, gem._claims, groupings._groups\n"
        "assert not any(cache.cache_info().currsize for cache in caches), 'a table was read'\n"
        "icd.describe('ICD9CM:401.9')\n"
        "assert tree._load.cache_info().currsize == 1, 'the other tree was read'\n"
        "heavy = {'torch', 'pandas', 'numpy', 'transformers', 'datasets', 'polars', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_versions_are_in_sort_order():
    assert list(VERSIONS) == ["ICD9CM", "ICD10CM"]
