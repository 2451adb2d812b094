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


def pair(code, mapped, approximate=1, no_map=0, combination=0, scenario=0, choice_list=0):
    flags = {"approximate": approximate, "no_map": no_map, "combination": combination, "scenario": scenario}
    return {"a": code, "b": mapped, "choice_list": str(choice_list), **{k: str(v) for k, v in flags.items()}}


TITLES = {
    "B1": "Other disease",
    "B2": "Heart disease",
    "B31": "Heart disease, unspecified",
    "B41": "Disease of unspecified side",
    "B5": "Unspecified disease",
}


def gem(script, rows, back=()):
    """`{code: entry}` and the pairs that are left out, for source codes A1 to A9 and the targets of `TITLES`."""
    sources = {f"A{number}": (f"A{number}", "Disease") for number in range(1, 10)}
    targets = {code: (code, title) for code, title in TITLES.items()}
    table, left_out = script.gem_table(rows, list(back), "a", "b", {"a": sources, "b": targets})
    return dict(table), left_out


def test_gem_table_holds_the_equal_targets_in_order(script):
    rows = [
        pair("A1", "B1"), pair("A1", "B2", approximate=0),  # exact before approximate
        pair("A2", "B1", combination=1, scenario=1, choice_list=1), pair("A2", "B2"),  # alone before combined
        pair("A3", "B1"), pair("A3", "B2"), pair("A3", "B5"),  # those that come back before others
        pair("A4", "B41"), pair("A4", "B2"), pair("A4", "B31"), pair("A4", "B1"), pair("A4", "B5"),
        pair("A9", "B9"), pair("C1", "B1"),
    ]  # fmt: skip
    table, left_out = gem(script, rows, [pair("A3", "B2"), pair("A3", "B1", combination=1)])
    # Unspecified as a whole, then short, then in the order of the tree.
    assert table == {"A1": "B2", "A2": "B2", "A3": "B1 B2", "A4": "B5 B31 B1 B2 B41"}
    assert left_out == ["A9>B9", "C1>B1"]


def test_gem_table_holds_combinations_whole(script):
    choices = [
        (1, 2, "B1"), (1, 1, "B2"), (1, 2, "B5"),
        (10, 1, "B1"), (10, 2, "B2"),
        (2, 1, "B41"), (2, 2, "B2"), (2, 1, "B31"),
    ]  # fmt: skip
    rows = [
        pair("A1", code, combination=1, scenario=scenario, choice_list=choice) for scenario, choice, code in choices
    ]
    assert gem(script, rows)[0] == {"A1": "B2+B5|B1 B31|B41+B2 B1+B2"}
    assert gem(script, rows, [pair("A1", "B1")])[0] == {"A1": "B2+B1 B31|B41+B2 B1+B2"}


def test_gem_table_without_a_map_takes_what_the_opposite_map_sends_to_the_code(script):
    rows = [pair(code, "NoDx", no_map=1) for code in ("A1", "A2", "A3")]
    back = [
        pair("A1", "B1", combination=1, scenario=1, choice_list=2), pair("A1", "B5", combination=1, scenario=1, choice_list=2),
        pair("A2", "B1", combination=1, scenario=1, choice_list=2), pair("A2", "B2"),
    ]  # fmt: skip
    assert gem(script, rows, back)[0] == {"A1": "B5 B1", "A2": "B2", "A3": ""}


def test_claims_table_counts_a_code_once_a_claim(script):
    rows = [
        {"CLM_ID": "1", "ICD9_DGNS_CD_1": "4280", "ICD9_DGNS_CD_2": "4280", "ICD9_DGNS_CD_3": "4019"},
        {"CLM_ID": "2", "ICD9_DGNS_CD_1": "4280", "ICD9_DGNS_CD_2": "", "ICD9_DGNS_CD_3": "99999"},
    ]
    nodes = {"4019": ("401.9", ""), "4280": ("428.0", ""), "4281": ("428.1", "")}
    assert script.claims_table(rows, nodes) == [["401.9", "1"], ["428.0", "2"]]


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
        ("icd9cm_claims", 2, 3962),
    ],
)
def test_shipped_tables(name, columns, rows):
    table = read_columns(name)
    assert [len(column) for column in table] == [rows] * columns
    assert (TABLES / f"{name}.tsv.gz").read_bytes()[4:8] == bytes(4)


def test_shipped_claims_are_those_that_come_with_the_package(script):
    nodes = script.code_nodes([list(row) for row in zip(*read_columns("icd9cm_tree"), strict=True)])
    table = script.claims_table(script.read_source(script.CLAIMS.parent, script.CLAIMS.name), nodes)
    assert table == [list(row) for row in zip(*read_columns("icd9cm_claims"), strict=True)]


def test_shipped_tables_are_small_and_described():
    readme = (TABLES / "README.md").read_text()
    tables = sorted(TABLES.glob("*.gz"))
    assert len(tables) == 8 and all(f"`{path.name.removesuffix('.tsv.gz')}`" in readme for path in tables)
    assert sum(path.stat().st_size for path in tables) < 2_000_000
