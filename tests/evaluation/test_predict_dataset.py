"""Ranking a data set: the same rankings as `model.rank`, however the data lie on disk and wherever the run was stopped."""

import json
import math

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import CODES, patients, tiny_mera

from mera_hf.data import patient_files
from mera_hf.data.schema import DRG_VISITS_FEATURES, VISITS_FEATURES
from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.predict import predict_dataset


SCHEMA = VISITS_FEATURES.arrow_schema
ROWS = patients(23, seed=5, fewest_visits=1)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(patient_files, "SHARD_ROWS", 5)


def write(path, rows=None, schema=SCHEMA, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(ROWS if rows is None else rows, schema), path, **options)
    return path


def parts(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def read(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))])


def assert_ranked(folder, model, tokenizer, rows, top_k):
    table, ranking = read(folder), model.rank(rows, tokenizer, top_k=top_k)
    assert table["patient_id"].to_pylist() == [row["patient_id"] for row in rows]
    assert table["codes"].to_pylist() == [[CODES[code] for code in order] for order in ranking.order.tolist()]
    assert table["set_size"].to_pylist() == ranking.set_sizes.tolist()
    found = torch.tensor(table["probabilities"].to_pylist())
    torch.testing.assert_close(found, ranking.probabilities, rtol=0, atol=1e-5)


# -- what is ranked -----------------------------------------------------------------------------------------------


def test_rankings_are_those_of_the_model_in_the_order_of_the_rows(llama, tmp_path):
    model, tokenizer = llama
    # Row groups that do not end where shards do
    write(tmp_path / "rows.parquet", row_group_size=3)
    summary = predict_dataset(
        model, tokenizer, tmp_path / "rows.parquet", tmp_path / "out", top_k=7, checkpoint="mine"
    )
    assert_ranked(tmp_path / "out", model, tokenizer, ROWS, 7)
    assert list(parts(tmp_path / "out")) == [f"part-0000{number}.parquet" for number in range(5)]
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "out").glob("part-*"))] == [5, 5, 5, 5, 3]
    schema = read(tmp_path / "out").schema
    assert schema.metadata == {b"mera_hf.ranks": b"the visit after the last"}
    assert str(schema.remove_metadata()).splitlines() == [
        "patient_id: string",
        "codes: list<element: string>",
        "  child 0, element: string",
        "probabilities: list<element: float>",
        "  child 0, element: float",
        "set_size: int32",
        "unread_visits: int32",
    ]
    assert summary == json.loads((tmp_path / "out" / "predict.json").read_text())
    assert summary["patients"] == 23 and summary["parts"] == 5 and summary["processes"] == 1
    assert summary["checkpoint"] == "mine" and summary["top_k"] == 7 and summary["versions"]["torch"]
    (file,) = summary["inputs"]
    assert file["name"] == "rows.parquet" and file["bytes"] == (tmp_path / "rows.parquet").stat().st_size
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "run.json",
        "predict.json",
        *parts(tmp_path / "out"),
    }


def test_a_folder_of_files_is_read_by_name(llama, tmp_path):
    model, tokenizer = llama
    for name, rows in (("b", ROWS[6:7]), ("a", ROWS[:6]), ("c", []), ("d", ROWS[7:])):
        write(tmp_path / "in" / f"{name}.parquet", rows)
    (tmp_path / "in" / "notes.txt").write_text("not read")
    summary = predict_dataset(model, tokenizer, tmp_path / "in", tmp_path / "out")
    assert_ranked(tmp_path / "out", model, tokenizer, ROWS, len(CODES))
    assert [file["patients"] for file in summary["inputs"]] == [6, 1, 0, 16]
    assert summary["top_k"] == len(CODES)  # 20 are more than there are


def test_a_split_of_a_prepared_folder(llama, tmp_path):
    model, tokenizer = llama
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "prepare.json").write_text("{}")
    for name, rows in (("test", ROWS[:4]), ("train", ROWS[4:10])):
        write(tmp_path / "in" / "data" / f"{name}.parquet", rows)
    predict_dataset(model, tokenizer, tmp_path / "in", tmp_path / "default")
    assert_ranked(tmp_path / "default", model, tokenizer, ROWS[:4], len(CODES))
    predict_dataset(model, tokenizer, tmp_path / "in", tmp_path / "train", split="train")
    assert_ranked(tmp_path / "train", model, tokenizer, ROWS[4:10], len(CODES))
    with pytest.raises(InputError, match="`split` is 'dev'; choose one of train, validation, test"):
        predict_dataset(model, tokenizer, tmp_path / "in", tmp_path / "out", split="dev")


def test_files_with_a_drg_severity_are_ranked_as_without(llama, tmp_path):
    graded = [row | {"visits": [visit | {"drg_severity": 4} for visit in row["visits"]]} for row in ROWS]
    for name, rows, schema in (("plain", ROWS, SCHEMA), ("graded", graded, DRG_VISITS_FEATURES.arrow_schema)):
        predict_dataset(*llama, write(tmp_path / f"{name}.parquet", rows, schema), tmp_path / name, top_k=7)
    assert parts(tmp_path / "plain") == parts(tmp_path / "graded")


def test_without_visits_the_profile_ranks(llama, tmp_path):
    model, tokenizer = llama
    rows = [{**row, "visits": visits} for row, visits in zip(ROWS[:6], [[], None] * 3, strict=True)]
    write(tmp_path / "rows.parquet", [*rows, ROWS[6]])
    summary = predict_dataset(model, tokenizer, tmp_path / "rows.parquet", tmp_path / "out")
    assert summary["without_visits"] == 6 and summary["patients"] == 7
    rows = [{**row, "visits": []} for row in rows]
    assert_ranked(tmp_path / "out", model, tokenizer, [*rows, ROWS[6]], len(CODES))


def test_max_length_and_batch_tokens_reach_the_model(llama, tmp_path, monkeypatch):
    model, tokenizer = llama
    write(tmp_path / "rows.parquet")
    widths, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda input_ids, **rest: widths.append(input_ids.shape) or forward(input_ids, **rest)
    )
    predict_dataset(model, tokenizer, tmp_path / "rows.parquet", tmp_path / "out", max_length=12, batch_tokens=30)
    assert all(rows * length <= 30 for rows, length in widths) and any(rows > 1 for rows, _ in widths)
    expected = model.rank(ROWS, tokenizer, max_length=12).order
    assert not torch.equal(expected, model.rank(ROWS, tokenizer).order)
    assert read(tmp_path / "out")["codes"].to_pylist() == [[CODES[code] for code in row] for row in expected.tolist()]


def test_what_is_not_read_is_counted(llama, tmp_path):
    model, tokenizer = llama
    write(tmp_path / "rows.parquet")
    model.config.max_length = 20  # the default of whatever reads
    summary = predict_dataset(model, tokenizer, tmp_path / "rows.parquet", tmp_path / "out")
    unread = model.rank(ROWS, tokenizer, max_length=20).unread_visits
    assert read(tmp_path / "out")["unread_visits"].to_pylist() == unread.tolist()
    assert summary["max_length"] == 20 and summary["unread_visits"] == unread.sum() > 0
    assert summary["patients_with_unread_visits"] == (unread > 0).sum() < len(ROWS)
    assert_ranked(tmp_path / "out", model, tokenizer, ROWS, len(CODES))
    # Also of the parts that an earlier run wrote
    (tmp_path / "out" / "predict.json").unlink()
    (tmp_path / "out" / "part-00002.parquet").unlink()
    again = predict_dataset(model, tokenizer, tmp_path / "rows.parquet", tmp_path / "out", resume=True)
    assert again["parts_of_this_run"] == 1 and again["unread_visits"] == summary["unread_visits"]
    whole = predict_dataset(model, tokenizer, tmp_path / "rows.parquet", tmp_path / "whole", max_length=256)
    assert (whole["unread_visits"], whole["patients_with_unread_visits"]) == (0, 0)


def test_lengths_that_cannot_be_are_refused(llama, tmp_path):
    write(tmp_path / "rows.parquet")
    for length, says in (
        (257, "`max_length` is 257, and the llama model has positions for 256"),
        (0, "is 0; it must be"),
    ):
        with pytest.raises(InputError, match=says):
            predict_dataset(*llama, tmp_path / "rows.parquet", tmp_path / "out", max_length=length)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="`max_length` is 4, but the profile of a patient takes"):
        predict_dataset(*llama, tmp_path / "rows.parquet", tmp_path / "out", max_length=4)


def test_other_widths_of_the_same_types_are_read(llama, tmp_path):
    """As Polars and pandas write them: large strings and lists, ages as integers, a column without a value."""
    model, tokenizer = llama
    rows = [{**row, "profile": {**row["profile"], "race": None}} for row in ROWS]
    frame = pl.DataFrame(
        rows, schema_overrides={"profile": pl.Struct({"sex": pl.String, "age": pl.Int8, "race": pl.Null})}
    )
    frame = frame.with_columns(pl.lit("extra").alias("more"))
    pq.write_table(frame.to_arrow(), tmp_path / "rows.parquet")
    assert "large_list" in str(pq.read_schema(tmp_path / "rows.parquet"))
    predict_dataset(model, tokenizer, tmp_path / "rows.parquet", tmp_path / "out")
    assert_ranked(tmp_path / "out", model, tokenizer, frame.to_dicts(), len(CODES))


# -- stopped and resumed ------------------------------------------------------------------------------------------


def interrupt(model, monkeypatch, shards: int):
    """Let the model rank so many shards and then fail, as a machine may."""
    rank, calls = type(model).rank, []

    def failing(self, *arguments, **keywords):
        calls.append(1)
        if len(calls) > shards:
            raise RuntimeError("power cut")
        return rank(self, *arguments, **keywords)

    monkeypatch.setattr(type(model), "rank", failing)
    return calls


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_interrupted_and_resumed_is_the_same_to_the_last_byte(llama, tmp_path, monkeypatch, shards):
    model, tokenizer = llama
    data = write(tmp_path / "rows.parquet")
    predict_dataset(model, tokenizer, data, tmp_path / "whole", top_k=4)
    with monkeypatch.context() as patch:
        interrupt(model, patch, shards)
        with pytest.raises(RuntimeError, match="power cut"):
            predict_dataset(model, tokenizer, data, tmp_path / "cut", top_k=4)
    assert len(parts(tmp_path / "cut")) == shards and not (tmp_path / "cut" / "predict.json").exists()
    # A part that was being written, and one that the disk lost the end of
    (tmp_path / "cut" / "part-00003.parquet.unfinished").write_bytes(b"PAR1")
    if shards > 1:
        (tmp_path / "cut" / "part-00000.parquet").write_bytes(b"PAR1")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "cut").glob("part-*.parquet")}
    with monkeypatch.context() as patch:
        calls = interrupt(model, patch, 99)
        summary = predict_dataset(model, tokenizer, data, tmp_path / "cut", top_k=4, resume=True)
    broken = shards > 1
    assert len(calls) == summary["parts_of_this_run"] == 5 - shards + broken
    assert parts(tmp_path / "cut") == parts(tmp_path / "whole")
    for name, inode in before.items():
        assert (tmp_path / "cut" / name).stat().st_ino == inode or broken and name == "part-00000.parquet"
    # Nothing is left to do
    with monkeypatch.context() as patch:
        calls = interrupt(model, patch, 0)
        predict_dataset(model, tokenizer, data, tmp_path / "cut", top_k=4, resume=True)
    assert not calls


def test_a_resumed_run_must_be_the_same_run(llama, tmp_path):
    model, tokenizer = llama
    data = write(tmp_path / "rows.parquet")
    predict_dataset(model, tokenizer, data, tmp_path / "out", top_k=4)

    def refused(match, model=model, dataset=data, **changes):
        with pytest.raises(InputError, match=match):
            predict_dataset(model, tokenizer, dataset, tmp_path / "out", resume=True, **{"top_k": 4, **changes})

    refused(r"has another `top_k` \(it was 4, now it is 5\)", top_k=5)
    refused(r"has another `max_length` \(it was None, now it is 9\)", max_length=9)
    refused(r"has another `batch_tokens` \(it was 4096, now it is 7\)", batch_tokens=7)
    refused("has another `inputs`", dataset=write(tmp_path / "other" / "rows.parquet", ROWS[:-1]))
    refused("has another `model`", model=tiny_mera("llama", seed=1)[0])
    calibrated, _ = tiny_mera("llama")
    calibrated.config.eov_value = 0.4
    refused("has another `model`", model=calibrated)
    with pytest.raises(InputError, match="holds no run; start without it"):
        predict_dataset(model, tokenizer, data, tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="give one of the two"):
        predict_dataset(model, tokenizer, data, tmp_path / "out", resume=True, overwrite=True)


def test_a_file_that_changes_on_the_way_is_noticed(tmp_path):
    data = write(tmp_path / "rows.parquet")
    shards = patient_files.cut_shards([data], [23])
    assert [len(rows) for _, rows in patient_files.read_shards(shards)] == [5, 5, 5, 5, 3]
    write(data, ROWS[:22])
    with pytest.raises(InputError, match="has changed since it was checked"):
        list(patient_files.read_shards(shards))


def test_what_is_there_is_kept_unless_it_is_ours_and_may_go(llama, tmp_path):
    model, tokenizer = llama
    data = write(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="is not empty and holds no rankings"):
        predict_dataset(model, tokenizer, data, tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        predict_dataset(model, tokenizer, data, data)
    out = tmp_path / "out"
    predict_dataset(model, tokenizer, data, out)
    before = parts(out)
    with pytest.raises(InputError, match=r"holds rankings; .*--resume.*--overwrite"):
        predict_dataset(model, tokenizer, data, out)
    # Input with a fault: what is there stays
    bad = write(tmp_path / "bad.parquet", [{**ROWS[0], "patient_id": None}])
    with pytest.raises(InputError, match="`patient_id` is empty"):
        predict_dataset(model, tokenizer, bad, out, overwrite=True)
    assert parts(out) == before
    (out / "mine.txt").write_text("kept")
    predict_dataset(model, tokenizer, write(tmp_path / "few.parquet", ROWS[:6]), out, overwrite=True)
    assert_ranked(out, model, tokenizer, ROWS[:6], len(CODES))
    assert len(parts(out)) == 2 and (out / "mine.txt").read_text() == "kept"


# -- bad input ----------------------------------------------------------------------------------------------------


def visit(*codes):
    return {"codes": list(codes), "time": None, "text": None}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"patient_id": None}, "`patient_id` is empty"),
        ({"visits": [visit(CODES[0]), visit()]}, "a visit has no codes"),
        ({"visits": [visit(CODES[0]), {"codes": None, "time": None, "text": None}]}, "a visit has no codes"),
        ({"visits": [None]}, "a visit has no codes"),
        ({"visits": [visit(CODES[0]), visit(CODES[1], "ICD9CM:733.00")]}, "is not one of the 19 codes of this model"),
        ({"visits": [visit("250.00")]}, "is not one of the 19 codes of this model"),
        ({"visits": [visit(CODES[0], None)]}, "is not one of the 19 codes of this model"),
        ({"profile": {"sex": "F", "age": math.nan, "race": None}}, "`profile.age` is not between 0 and 130"),
        ({"profile": {"sex": "F", "age": 131.0, "race": None}}, "`profile.age` is not between 0 and 130"),
        ({"profile": {"sex": "F", "age": -1.0, "race": None}}, "`profile.age` is not between 0 and 130"),
    ],
)
@pytest.mark.parametrize("row", [0, 7, 22])
def test_a_row_with_a_fault_is_named_before_anything_is_ranked(llama, tmp_path, change, says, row):
    model, tokenizer = llama
    # Rows without visits before it, so that rows and visits are counted apart
    rows = [{**other, "visits": []} if number % 3 == 1 else other for number, other in enumerate(ROWS)]
    rows[row] = {**rows[row], **change}
    write(tmp_path / "rows.parquet", rows, row_group_size=3)  # batches are put together from pieces
    with pytest.raises(InputError, match=says) as refusal:
        predict_dataset(model, tokenizer, tmp_path / "rows.parquet", tmp_path / "out")
    assert str(refusal.value).startswith(f"rows.parquet, row {row} (the first is row 0): ")
    assert "733" not in str(refusal.value) and not (tmp_path / "out").exists()


def without(column):
    return SCHEMA.remove(SCHEMA.get_field_index(column))


def retyped(column, kind):
    return SCHEMA.set(SCHEMA.get_field_index(column), pa.field(column, kind))


@pytest.mark.parametrize(
    ("schema", "rows", "says"),
    [
        (without("visits"), None, r"has no column `visits` \(it has patient_id, profile\)"),
        (without("profile"), None, "has no column `profile`"),
        (retyped("patient_id", pa.int64()), [], "`patient_id` has the type int64, not string"),
        (
            retyped("profile", pa.struct({"sex": pa.string(), "age": pa.float32()})),
            None,
            "`profile` has no field `race`",
        ),
        (retyped("visits", pa.list_(pa.string())), [], "`visits` has the type string, not struct"),
        (
            retyped("visits", pa.list_(pa.struct({"codes": pa.string(), "time": pa.string(), "text": pa.string()}))),
            [],
            "`visits.codes` has the type string, not list",
        ),
    ],
)
def test_a_file_of_another_schema(llama, tmp_path, schema, rows, says):
    model, tokenizer = llama
    write(tmp_path / "in" / "a.parquet")
    write(tmp_path / "in" / "b.parquet", rows, schema)
    with pytest.raises(InputError, match=says) as refusal:
        predict_dataset(model, tokenizer, tmp_path / "in", tmp_path / "out")
    assert str(refusal.value).startswith("b.parquet") and not (tmp_path / "out").exists()


def test_input_that_is_none(llama, tmp_path):
    model, tokenizer = llama
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("patient_id")
    write(tmp_path / "none.parquet", [])
    for dataset, says in (
        ("nowhere", "does not exist"),
        ("empty", "holds no .parquet file"),
        ("text.parquet", "cannot be read as Parquet"),
        ("none.parquet", "holds no patient"),
    ):
        with pytest.raises(InputError, match=says):
            predict_dataset(model, tokenizer, tmp_path / dataset, tmp_path / "out")
    with pytest.raises(InputError, match="is not a prepared dataset, which has splits"):
        predict_dataset(model, tokenizer, tmp_path / "none.parquet", tmp_path / "out", split="test")
    for name in ("top_k", "batch_tokens", "max_length"):
        with pytest.raises(InputError, match=f"`{name}` is 0; it must be 1 or more"):
            predict_dataset(model, tokenizer, tmp_path / "none.parquet", tmp_path / "out", **{name: 0})
    assert not (tmp_path / "out").exists()
