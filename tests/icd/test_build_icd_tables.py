"""The script that builds the tables, on small sources; and the shipped tables, by the form that it writes."""

import gzip
import importlib.util
from pathlib import Path

import pytest

import mera_hf.icd
from mera_hf.errors import InputError
from mera_hf.icd.reading import read_columns


ROOT = Path(__file__).parents[2]
TABLES = Path(mera_hf.icd.__file__).parent / "tables"


@pytest.fixture(scope="module")
def script():
    path = ROOT / "datasets_scripts" / "build_icd_tables.py"
    spec = importlib.util.spec_from_file_location("build_icd_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def node(code, parent, kind, billable="0", retired="0", description="Title"):
    fields = {"code": code, "parent": parent, "kind": kind, "billable": billable, "retired": retired}
    return {**fields, "dotted": code if len(code) < 4 else f"{code[:3]}.{code[3:]}", "description": description}


def test_tree_table_is_depth_first_with_retired_codes_in_their_place(script):
    rows = [
        node("CH1", "", "chapter", description="Infections (A00-B99)"),
        node("A15-A15", "CH1", "block", description="Tuberculosis (A15)"),
        node("A00-A09", "CH1", "block", description="Intestinal (A00-A09)"),
        node("A15", "A15-A15", "category", billable="1", description="Tuberculosis (A15)"),
        node("A00", "A00-A09", "category"),
        node("A000", "A00", "subcategory", billable="1"),
        node("A00A", "A00", "subcategory", billable="1"),
        node("A009", "A00", "subcategory", billable="1"),
        node("A001", "A00", "subcategory", retired="1"),
        node("A0001", "A000", "subcategory", retired="1"),
    ]
    assert script.tree_table(rows) == [
        ["0", "", "CH1", "Infections"],
        ["1", "", "A15-A15", "Tuberculosis"],
        ["2", "b", "A15", "Tuberculosis (A15)"],
        ["1", "", "A00-A09", "Intestinal"],
        ["2", "", "A00", "Title"],
        ["3", "b", "A00.0", "Title"],
        ["4", "r", "A00.01", "Title"],
        ["3", "r", "A00.1", "Title"],
        ["3", "b", "A00.A", "Title"],
        ["3", "b", "A00.9", "Title"],
    ]
    assert script.tree_counts(rows) == {
        "chapter": 1, "block": 2, "category": 2, "subcategory": 5, "billable": 4, "retired": 2,
    }  # fmt: skip


def test_icd9_order_ends_with_v_codes_then_e_codes(script):
    codes = ["E000-E999", "V01-V91", "001-139", "800-999"]
    rows = sorted((node(code, "", "chapter") for code in codes), key=script.icd9_order)
    assert [row["code"] for row in rows] == ["001-139", "800-999", "V01-V91", "E000-E999"]


def test_grouping_table_leaves_out_and_names_codes_that_the_tree_lacks(script):
    nodes = {"A000": ("A00.0", ""), "A001": ("A00.1", ""), "B20": ("B20", "")}
    rows = [{"code": code, "ccs": ccs} for code, ccs in (("B20", "10"), ("A001", "2"), ("Z99", "2"), ("A000", "2"))]
    assert script.grouping_table(rows, ["ccs"], nodes) == ([["2", "A00.0 A00.1"], ["10", "B20"]], ["Z99"])


def test_gem_table_puts_the_best_target_first(script):
    def pair(code, mapped, approximate=1, no_map=0, combination=0, scenario=0, choice_list=0):
        flags = {"approximate": approximate, "no_map": no_map, "combination": combination, "scenario": scenario}
        return {"a": code, "b": mapped, "choice_list": str(choice_list), **{k: str(v) for k, v in flags.items()}}

    sources = {code: (code, "Acute disease of heart") for code in ("A1", "A2", "A3", "A4", "A5", "A6")}
    targets = {
        "B1": ("B1", "Other disease"), "B2": ("B2", "Acute heart disease"), "B3": ("B3", "Unspecified disease"),
        "B4": ("B4", "Other disease"),
    }  # fmt: skip
    rows = [
        pair("A1", "B1"), pair("A1", "B4", approximate=0),  # exact before approximate
        pair("A2", "B1", combination=1, scenario=1, choice_list=1), pair("A2", "B4"),  # alone before combined
        pair("A3", "B1", combination=1, scenario=1, choice_list=2),  # choice lists in order, one target once
        pair("A3", "B4", combination=1, scenario=1, choice_list=1),
        pair("A3", "B1", combination=1, scenario=2, choice_list=1),
        pair("A4", "B2"), pair("A4", "B4"),  # back again before likeness
        pair("A5", "B1"), pair("A5", "B3"), pair("A5", "B2"), pair("A5", "B4"),  # likeness, unspecified, order
        pair("A6", "NoDx", no_map=1),
        pair("A7", "B1"), pair("A1", "B9"),
    ]  # fmt: skip
    table, left_out = script.gem_table(rows, [{"a": "A4", "b": "B4"}], "a", "b", sources, targets)
    assert table == [
        ["A1", "B4 B1"], ["A2", "B4 B1"], ["A3", "B4 B1"], ["A4", "B4 B2"], ["A5", "B2 B3 B1 B4"], ["A6", ""],
    ]  # fmt: skip
    assert left_out == ["A7>B1", "A1>B9"]


def test_tables_are_written_byte_by_byte_the_same(script, tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        script.write_table(tmp_path / folder / "t.tsv.gz", [["1", "é"], ["2", ""]])
    first, second = ((tmp_path / folder / "t.tsv.gz").read_bytes() for folder in ("first", "second"))
    assert first == second
    assert first[4:8] == bytes(4)  # no time stamp
    assert gzip.decompress(first).decode() == "1\té\n2\t\n"
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["t.tsv.gz"]
    with pytest.raises(InputError, match="a cell of t.tsv.gz holds a tab"):
        script.write_table(tmp_path / "t.tsv.gz", [["a\tb"]])


def test_bad_sources_end_with_one_message_and_status_2(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        script.main(["--data-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "has no file icd9cm_v32_tree.tsv.gz" in capsys.readouterr().err
    columns = "code\tdotted\tparent\tkind\tbillable\tdescription\n"
    for name in ("icd9cm_v32_tree.tsv.gz", "icd10cm_2026apr_tree.tsv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(f"{columns}001-139\t001-139\t\tchapter\t0\tOne\n".encode()))
    with pytest.raises(InputError, match="icd9cm_v32_tree.tsv.gz has 1 chapter, not 19; take the release"):
        script.build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("icd9cm_tree", 4, 17726),
        ("icd10cm_tree", 4, 99115),
        ("icd9cm_ccs", 3, 283),
        ("icd10cm_ccs", 3, 283),
        ("icd10cm_ccsr", 2, 515),
        ("icd9cm_to_icd10cm", 2, 14567),
        ("icd10cm_to_icd9cm", 2, 69829),
    ],
)
def test_shipped_tables(name, columns, rows):
    table = read_columns(name)
    assert [len(column) for column in table] == [rows] * columns
    assert (TABLES / f"{name}.tsv.gz").read_bytes()[4:8] == bytes(4)


def test_shipped_tables_are_small_and_described():
    readme = (TABLES / "README.md").read_text()
    tables = sorted(TABLES.glob("*.gz"))
    assert len(tables) == 7 and all(f"`{path.name.removesuffix('.tsv.gz')}`" in readme for path in tables)
    assert sum(path.stat().st_size for path in tables) < 2_000_000
