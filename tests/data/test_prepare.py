"""The prepared folder: what is in it, that it appears whole or not at all, and that it is opened with care."""

import argparse
import json
import shutil

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from mera_hf.cli.main import main
from mera_hf.cli.prepare import add_arguments, run
from mera_hf.data import prepare as prepare_module
from mera_hf.data.prepare import check_raw_files, prepare
from mera_hf.data.prepared import Prepared, load_prepared, read_report
from mera_hf.data.schema import DRG_VISITS_FEATURES, VISITS_FEATURES
from mera_hf.data.splits import random_split
from mera_hf.errors import InputError


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory):
    """Both prepared forms of the bundled benchmark: `(folder, report)` without and with one-visit patients."""
    root = tmp_path_factory.mktemp("prepared")
    return [
        (root / name, prepare("diabetes130", None, root / name, keep_single_visit=keep))
        for name, keep in (("multi", False), ("single", True))
    ]


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_its_files(diabetes):
    (folder, report), _ = diabetes
    data = {f"data/{name}.parquet" for name in ("train", "validation", "test")}
    assert files(folder) == data | {"README.md", "LICENSE", "codes.json", "prepare.json"}
    assert json.loads((folder / "prepare.json").read_text()) == report.to_dict() == read_report(folder)
    assert str(folder.parent) not in "".join(path.read_text() for path in folder.iterdir() if path.is_file())


def test_diabetes130_counts(diabetes):
    (_, multi), (_, single) = diabetes
    assert multi.read == {"patients": 71_518, "visits": 101_766, "code_rows": 303_496}
    assert (multi.cohort["patients"], multi.cohort["visits"], multi.cohort["codes"]) == (16_773, 47_021, 793)
    assert multi.fingerprint == "b6852758fdb0ddf9" and "drg_severities" not in multi.cohort
    assert {name: counts["patients"] for name, counts in multi.splits.items()} == {
        "train": 11_778,
        "validation": 1_639,
        "test": 3_356,
    }
    # One-visit patients go to train, and leave validation and test as they are.
    assert (single.cohort["codes"], single.cohort["single_visit_patients"]) == (915, 54_744)
    assert single.splits["train"]["patients"] == 11_778 + 54_744
    assert single.splits["validation"] == multi.splits["validation"] and single.splits["test"] == multi.splits["test"]


def test_load_dataset_opens_the_folder(diabetes, tmp_path):
    for folder, report in diabetes:
        opened = load_dataset(str(folder), cache_dir=str(tmp_path))
        prepared = load_prepared(folder)
        for name, counts in report.splits.items():
            assert opened[name].features == prepared[name].features == VISITS_FEATURES
            assert len(opened[name]) == len(prepared[name]) == counts["patients"]
            assert opened[name][0] == prepared[name][0]


def test_splits_follow_the_hash(diabetes):
    (folder, _), (single, _) = diabetes
    for name, dataset in load_prepared(folder).items():
        assert {random_split(patient, 0) for patient in dataset["patient_id"]} == {name}
    prepared = load_prepared(single)
    assert min(len(visits) for visits in prepared["test"]["visits"]) == 2
    assert min(len(visits) for visits in prepared["train"]["visits"]) == 1


def test_codes_json(diabetes):
    (folder, _), _ = diabetes
    codes = Prepared.open(folder).entries
    train = load_prepared(folder)["train"]
    of = {code["code"]: code for code in codes}
    assert list(of)[:2] == ["ICD9CM:003", "ICD9CM:005"] and list(of)[-1].startswith("ICD9CM:E")
    held = [[code for visit in visits for code in visit["codes"]] for visits in train["visits"]]
    for code in ("ICD9CM:428", "ICD9CM:250.01", "ICD9CM:003"):
        assert of[code]["patients"] == sum(code in patient for patient in held)
        assert of[code]["visits"] == sum(patient.count(code) for patient in held)
    assert of["ICD9CM:428"]["description"] == "Heart failure"


def test_preparing_twice_gives_the_same_bytes(raw, tmp_path):
    folder = raw("visits_csv")
    reports = [prepare("visits_csv", folder, tmp_path / name) for name in "ab"]
    assert reports[0] == reports[1]
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("source,license", [("mimic3", "odbl"), ("mimic4", "odbl")])
def test_demo_card(demo, tmp_path, source, license):
    report = prepare(source, demo(source), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    card = yaml.safe_load(text.split("---")[1])
    assert card["license"] == license and not report.credentialed
    assert card["configs"][0]["data_files"][0] == {"split": "train", "path": "data/train.parquet"}
    assert card["size_categories"] == ["n<1K"] and card["task_categories"] == ["text-classification"]
    assert (
        "never test on them what was trained" in text
        and "Open Database License" in (tmp_path / "out/LICENSE").read_text()
    )
    assert "patients with fewer than 2 visits" in text and report.fingerprint in text


def test_drg_severities_of_the_demo(demo, tmp_path):
    """They come and go with the table, and change nothing else."""
    source = tmp_path / "raw"
    shutil.copytree(demo("mimic4"), source)
    graded = prepare("mimic4", source, tmp_path / "graded")
    (source / "hosp" / "drgcodes.csv").unlink()
    plain = prepare("mimic4", source, tmp_path / "plain")

    table = pl.read_csv(demo("mimic4") / "hosp" / "drgcodes.csv").filter(pl.col("drg_type") == "APR")
    admissions = pl.read_csv(demo("mimic4") / "hosp" / "admissions.csv").join(table, on="hadm_id", how="left")
    recorded = {
        (str(patient), time.replace(" ", "T")): severity
        for patient, time, severity in admissions.select("subject_id", "admittime", "drg_severity").iter_rows()
    }
    found, bare = load_prepared(tmp_path / "graded"), load_prepared(tmp_path / "plain")
    opened = load_dataset(str(tmp_path / "graded"), cache_dir=str(tmp_path / "cache"))
    known = 0
    for name, rows in found.items():
        assert rows.features == opened[name].features == DRG_VISITS_FEATURES and rows[0] == opened[name][0]
        assert bare[name].features == VISITS_FEATURES
        for row, other in zip(rows, bare[name], strict=True):
            severities = [visit.pop("drg_severity") for visit in row["visits"]]
            assert severities == [recorded[row["patient_id"], visit["time"]] for visit in row["visits"]]
            assert row == other
            known += len(severities) - severities.count(None)
    assert graded.cohort == plain.cohort | {"drg_severities": known} and known == 171
    assert (
        graded.fingerprint != plain.fingerprint
        and Prepared.open(tmp_path / "graded").entries == Prepared.open(tmp_path / "plain").entries
    )
    assert "visits with a known DRG severity" in graded.table()
    assert "Of the visits, 171 have a `drg_severity`" in (tmp_path / "graded" / "README.md").read_text()
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "drg_severity" not in card and "| DRG severities of visits (no table DRGCODES) | 275 |" in card
    assert "no table DRGCODES" in plain.table()
    again = prepare("mimic4", demo("mimic4"), tmp_path / "plain", overwrite=True)
    assert again.changes == ["raw file drgcodes.csv is new"] and again.fingerprint == graded.fingerprint


def test_full_mimic_is_marked_credentialed(raw, tmp_path):
    report = prepare("mimic3", raw("mimic3"), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert report.credentialed and read_report(tmp_path / "out")["credentialed"]
    assert "Credentialed; not to be shared" in text
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    # The unknown code 99999 is dropped from the public source, and said.
    assert report.dropped["unknown codes"] == 1 and "`99999`" in text and "99999" in report.table()


@pytest.mark.parametrize("icd", ["9", "10"])
def test_the_rows_of_mapped_codes_add_up(demo, tmp_path, icd):
    out = tmp_path / "out"
    report = prepare("mimic4", demo("mimic4"), out, icd=icd)
    assert read_report(out)["code_rows"] == report.code_rows
    *changes, (last, used) = report.code_rows.items()
    assert last == "used" and used == sum(count for _, count in changes)
    assert changes[0] == ("read", report.read["code_rows"]) and report.code_rows["codes added by combinations"] > 0
    held = sum(len(visit["codes"]) for rows in load_prepared(out).values() for row in rows for visit in row["visits"])
    assert used == held
    shared = report.dropped.keys() & report.code_rows.keys()
    assert len(shared) == 4 and all(report.dropped[what] == -report.code_rows[what] for what in shared)
    merged = -report.code_rows["codes merged within a visit by the map"]
    assert merged > 0 and f"| codes merged within a visit by the map | -{merged} |" in (out / "README.md").read_text()
    assert f"{'used':<42}{used:>9,}" in report.table()


def test_the_rows_add_up_with_unknown_and_repeated_codes(raw, tmp_path):
    report = prepare("mimic3", raw("mimic3"), tmp_path / "out", icd="10")
    assert report.code_rows == {
        "read": 9,
        "unknown codes": -1,
        "codes repeated within a visit": -1,
        "codes without a counterpart in ICD10CM": 0,
        "codes merged within a visit by the map": 0,
        "codes added by combinations": 1,  # 250.23 is hyperosmolarity and hyperglycaemia
        "codes left out with their visits": -1,  # the one visit of patient 3
        "used": 7,
    }


def test_kept_codes_have_no_rows_of_a_map(raw, tmp_path):
    out = tmp_path / "out"
    report = prepare("visits_csv", raw("visits_csv"), out)
    assert report.code_rows is None and "code_rows" not in read_report(out)
    assert "Mapped codes" not in (out / "README.md").read_text() and "code rows" not in report.table()


def test_field_cohort_maps_to_icd9_and_its_split_refuses_small_data(demo, tmp_path):
    report = prepare("mimic4", demo("mimic4"), tmp_path / "out", cohort="field")
    assert report.arguments["icd"] == "9"
    assert all(code["code"].startswith("ICD9CM:") for code in Prepared.open(tmp_path / "out").entries)
    for source, message in (
        ("mimic3", "more than 7,000 patients.*cohort has 14"),
        ("mimic4", "10000 patients, and the cohort has"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(source, demo(source), tmp_path / source, cohort="field", split="field")
    with pytest.raises(InputError, match="defined for mimic3 and mimic4, not for diabetes130"):
        prepare("diabetes130", None, tmp_path / "diabetes", split="field")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_field_split_of_a_whole_cohort(tmp_path):
    lines = ["patient,visit,code,version"]
    lines += [f"{i:05},{visit},{code},9" for i in range(50) for visit, code in ((1, "4019"), (2, "486"))]
    (tmp_path / "visits.csv").write_text("\n".join(lines))
    prepare("visits_csv", tmp_path / "visits.csv", tmp_path / "first")
    lines += [f"{i:05},{visit},{code},9" for i in range(50, 90) for visit, code in ((1, "4019"), (2, "486"))]
    (tmp_path / "visits.csv").write_text("\n".join(lines))
    prepare("visits_csv", tmp_path / "visits.csv", tmp_path / "second")
    before, after = load_prepared(tmp_path / "first"), load_prepared(tmp_path / "second")
    for name in before:
        assert set(before[name]["patient_id"]) <= set(after[name]["patient_id"])


def test_small_split_may_be_empty_but_train_may_not(tmp_path):
    train = next(str(i) for i in range(100) if random_split(str(i), 0) == "train")
    test = next(str(i) for i in range(100) if random_split(str(i), 0) == "test")
    path = tmp_path / "visits.csv"
    path.write_text(f"patient,visit,code,version\n{train},1,486,9\n{train},2,486,9\n")
    prepare("visits_csv", path, tmp_path / "out")
    assert "No patient fell into validation and test" in (tmp_path / "out" / "README.md").read_text()
    opened = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    # `load_dataset` cannot open a split without rows: the card leaves it out.
    assert {name: len(rows) for name, rows in opened.items()} == {"train": 1}
    assert [len(rows) for rows in load_prepared(tmp_path / "out").values()] == [1, 0, 0]
    path.write_text(f"patient,visit,code,version\n{test},1,486,9\n{test},2,486,9\n")
    with pytest.raises(InputError, match="train is empty"):
        prepare("visits_csv", path, tmp_path / "other")


def test_existing_folder_and_changed_raw_files(raw, tmp_path):
    folder, out = raw("visits_csv"), tmp_path / "out"
    prepare("visits_csv", folder, out)
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(InputError, match=r"holds visits_csv as prepared earlier\. Choose another folder.*--overwrite"):
        prepare("visits_csv", folder, out)
    assert check_raw_files(out, folder) == check_raw_files(out, folder / "visits.csv") == []

    table = folder / "visits.csv"
    table.write_text(table.read_text() + "p3,1,2020-01-01,486,9,,,\np3,2,2020-01-02,486,9,,,\n")
    assert check_raw_files(out, folder) == ["raw file visits.csv changed since"]
    with pytest.raises(InputError, match="raw file visits.csv changed since"):
        prepare("visits_csv", folder, out)
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    report = prepare("visits_csv", folder, out, seed=1, overwrite=True)
    assert report.changes == ["raw file visits.csv changed since", "seed: 0 -> 1"]
    assert "raw file visits.csv changed since" in report.table()
    assert read_report(out)["cohort"]["patients"] == 3
    assert check_raw_files(out, tmp_path) == ["raw file visits.csv is not there any more"]


def test_a_folder_of_somebody_else_is_never_overwritten(raw, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="did not write it"):
        prepare("visits_csv", raw("visits_csv"), out, overwrite=True)
    assert files(out) == {"thesis.txt"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_nothing_behind(raw, tmp_path, monkeypatch, overwrite):
    folder, root = raw("visits_csv"), tmp_path / "root"
    if overwrite:
        prepare("visits_csv", folder, root / "out")
    else:
        root.mkdir()
    before = {name: (root / name).read_bytes() for name in files(root)}

    def fail(*_):
        raise OSError("disk full")

    # The card is written after the Parquet files.
    monkeypatch.setattr("mera_hf.data.prepare.dataset_card", fail)
    with pytest.raises(OSError, match="disk full"):
        prepare("visits_csv", folder, root / "out", overwrite=overwrite)
    assert {name: (root / name).read_bytes() for name in files(root)} == before
    assert [path.name for path in root.iterdir()] == (["out"] if overwrite else [])


def test_failing_rename_puts_the_old_folder_back(raw, tmp_path, monkeypatch):
    folder, root = raw("visits_csv"), tmp_path / "root"
    prepare("visits_csv", folder, root / "out")
    rename = prepare_module.Path.rename

    def fail(self, target):
        if self.name == "new":
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(prepare_module.Path, "rename", fail)
    with pytest.raises(OSError, match="busy"):
        prepare("visits_csv", folder, root / "out", overwrite=True)
    assert [path.name for path in root.iterdir()] == ["out"] and len(load_prepared(root / "out")["train"])


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"source": "mimic5"}, "`source` is 'mimic5'. Choose one of diabetes130, mimic3"),
        ({"cohort": "mine"}, "`cohort` is 'mine'"),
        ({"split": "half"}, "`split` is 'half'"),
        ({"icd": "11"}, "`icd` is '11'"),
        ({"unknown": "ignore"}, "`unknown` is 'ignore'"),
        ({"output_dir": None}, "`output_dir` is missing"),
        ({"source": "mimic3", "data_dir": None}, "`data_dir` is missing.*mimic3"),
        ({"min_visits": 0}, "`min_visits` is 0"),
        ({"min_visits": 3}, "cohort is empty"),
        ({"sample": 0}, "`sample` is 0"),
        ({"source": "mimic3", "split": "field", "keep_single_visit": True}, "fixed train set"),
    ],
)
def test_bad_arguments(raw, tmp_path, arguments, message):
    folder = raw("visits_csv")
    arguments = {"source": "visits_csv", "data_dir": folder, "output_dir": tmp_path / "out"} | arguments
    with pytest.raises(InputError, match=message):
        prepare(**arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_bad_rows_write_nothing(raw, tmp_path):
    with pytest.raises(InputError, match=r"visits\.csv, row 3: '250\.99'"):
        prepare("visits_csv", raw("visits_csv", replace={"250.00": "250.99"}), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_load_prepared_refuses_what_is_broken(raw, tmp_path):
    with pytest.raises(InputError, match="is not a prepared dataset.*mera prepare"):
        load_prepared(tmp_path)
    with pytest.raises(InputError, match="is not a prepared dataset"):
        Prepared.open(tmp_path / "nowhere")
    good = tmp_path / "good"
    prepare("visits_csv", raw("visits_csv"), good)
    train = good / "data" / "train.parquet"

    def broken(name, change):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        shutil.copytree(good, tmp_path / name)
        change(tmp_path / name)
        return tmp_path / name

    with pytest.raises(InputError, match="A patient is in two splits: row 0 of train and row 0 of test"):
        load_prepared(broken("twice", lambda folder: shutil.copy(train, folder / "data/test.parquet")))
    with pytest.raises(InputError, match="test.parquet' cannot be read.*--overwrite"):
        load_prepared(broken("missing", lambda folder: (folder / "data/test.parquet").unlink()))
    with pytest.raises(InputError, match="test.parquet' cannot be read"):
        load_prepared(broken("cut", lambda folder: (folder / "data/test.parquet").write_bytes(b"PAR1")))
    with pytest.raises(InputError, match="train.parquet': The column `patient_id` has the type"):
        load_prepared(
            broken("types", lambda folder: pl.read_parquet(train).write_parquet(folder / "data/train.parquet"))
        )
    empty = pq.read_table(train).slice(0, 0)
    with pytest.raises(InputError, match="no patients in train"):
        load_prepared(broken("empty", lambda folder: pq.write_table(empty, folder / "data/train.parquet")))
    with pytest.raises(InputError, match="prepare.json' cannot be read"):
        load_prepared(broken("report", lambda folder: (folder / "prepare.json").write_text("{")))
    with pytest.raises(InputError, match="has no codes"):
        Prepared.open(broken("codes", lambda folder: (folder / "codes.json").write_text("[]")))


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*map(str, arguments)])


def test_cli(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        run(parse("visits_csv", "--data-dir", raw("visits_csv"), "--output-dir", out, "--icd", "9", "--seed", "3"))
        == 0
    )
    text = capsys.readouterr().out
    assert "2 patients" in text and f"next: mera memorize --config RECIPE --dataset {out}" in text
    assert read_report(out)["arguments"] | {"icd": "9", "seed": 3} == read_report(out)["arguments"]
    with pytest.raises(InputError, match="--overwrite"):
        run(parse("visits_csv", "--data-dir", raw("visits_csv"), "--output-dir", out))


def test_cli_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    text = capsys.readouterr().out
    assert "mera prepare diabetes130 --output-dir data/diabetes130" in text and "--keep-single-visit" in text
