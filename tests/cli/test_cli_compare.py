"""`mera compare`: what it prints and writes, and what it refuses."""

import json

import pyarrow.parquet as pq
import pytest
from command import few_references, mera, succeed

from mera_hf.cli.compare import named
from mera_hf.errors import InputError
from mera_hf.evaluation.results import read_metrics


FEW = ("--references", "prevalence", "copy_history")


@pytest.fixture(scope="module")
def evaluated(small, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated") / "out"
    run = succeed(
        *("evaluate", small / "model", "--dataset", small / "dataset", "--split", "train"),
        *("--output-dir", output, "--save-rankings"),
    )
    return output, run


def test_evaluate_saves_rankings_when_asked(small, evaluated):
    output, run = evaluated
    assert "rankings.parquet holds patients' identifiers" in run.out
    table = pq.read_table(output / "rankings.parquet")
    split = pq.read_table(small / "dataset" / "data" / "train.parquet")
    assert table.column_names == ["patient_id", "codes", "probabilities", "set_size", "unread_visits"]
    assert table["patient_id"].to_pylist() == split["patient_id"].to_pylist()
    assert len(table["codes"][0]) == len(json.loads((small / "dataset" / "codes.json").read_text()))


def test_evaluating_anew_takes_old_rankings_away(small, evaluated, tmp_path, monkeypatch):
    few_references(monkeypatch)
    (tmp_path / "rankings.parquet").write_bytes((evaluated[0] / "rankings.parquet").read_bytes())
    succeed("evaluate", small / "model", "--dataset", small / "dataset", "--output-dir", tmp_path, "--overwrite")
    assert not (tmp_path / "rankings.parquet").exists() and (tmp_path / "metrics.json").exists()
    run = mera("evaluate", small / "model", "--dataset", small / "dataset", "--save-rankings")
    assert run.status == 2 and "`--save-rankings` needs a folder to write to" in run.err


def test_a_checkpoint_beside_its_own_rankings(small, evaluated, tmp_path):
    file, output = evaluated[0] / "rankings.parquet", tmp_path / "out"
    arguments = ("compare", small / "model", f"peer={file}", f"both={file},{small / 'model'}")
    options = ("--dataset", small / "dataset", "--split", "train", *FEW, "--output-dir", output)
    run = succeed(*arguments, *options)
    metrics = read_metrics(output / "metrics.json")
    rankers = metrics["rankers"]
    assert list(rankers) == ["model", "peer", "both", "prevalence", "copy_history"]
    assert rankers["model"] == rankers["peer"] == read_metrics(evaluated[0] / "metrics.json")["rankers"]["mera"]
    assert rankers["both"]["recall@20"]["values"] == [rankers["model"]["recall@20"]] * 2
    for row in metrics["comparisons"]:
        if row["b"] in ("peer", "both"):
            assert (row["difference"], row["interval"], row["p"]) == (0, [0, 0], 1)
    assert "model less copy history, points" in run.out and "R@20" in run.out
    assert f"written to {output}: metrics.json, table.md, compare.html" in run.out
    again = mera(*arguments, *options)
    assert again.status == 2 and "holds measurements; choose another folder or add `--overwrite`" in again.err


def test_without_a_folder_nothing_is_written(small, evaluated):
    before = sorted(small.rglob("*"))
    file = evaluated[0] / "rankings.parquet"
    run = succeed("compare", file, "--dataset", small / "dataset", "--split", "train", "--references", "prevalence")
    assert "rankings less prevalence, points" in run.out and "nothing written" in run.out
    assert sorted(small.rglob("*")) == before


def test_names(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "retain.parquet").touch()
    model, file = str(tmp_path / "model"), str(tmp_path / "retain.parquet")
    assert named([model, file, "org/mera", "a=x", "b=x,y"]) == {
        **{"model": [model], "retain": [file], "org/mera": ["org/mera"]},
        **{"a": ["x"], "b": ["x", "y"]},
    }
    for arguments, says in (
        (["x,y"], "has several runs; put a name in front: `NAME=x,y`"),
        (["a=x,x"], "gives a run twice"),
        (["a="], "a part is empty"),
        (["=x"], "a part is empty"),
        (["a=x,,y"], "a part is empty"),
        (["a=x", "a=y"], "two rankers are called 'a'"),
        ([model, f"{model}/"], "two rankers are called 'model'"),
    ):
        with pytest.raises(InputError, match=says):
            named(arguments)


def test_what_predict_wrote_is_refused_for_what_it_is(small, tmp_path):
    """Long lists or short ones, the patients of the split or others, one file, several or the whole folder."""
    for top_k in ("3", "99"):
        folder = tmp_path / top_k
        options = ("--dataset", small / "dataset", "--output-dir", folder, "--top-k", top_k)
        succeed("predict", small / "model", *options)
        part = folder / "part-00000.parquet"
        for ranker in (part, folder, f"mine={part},{folder}"):
            for split in ("test", "train"):
                run = mera("compare", ranker, "--dataset", small / "dataset", "--split", split)
                assert run.status == 2 and "holds rankings of `mera predict`" in run.err, run.err
                assert "Give the checkpoint itself" in run.err and "set_size" not in run.err


def test_bad_input(small, evaluated, tmp_path):
    file, output = evaluated[0] / "rankings.parquet", tmp_path / "out"
    (tmp_path / "notes.txt").touch()
    for arguments, says in (
        ((file,), "rankings.parquet must rank exactly the"),  # of train, not of test
        ((tmp_path / "nowhere.parquet",), "the file of rankings"),
        ((tmp_path / "nowhere",), "is not a folder here and cannot be fetched"),
        ((tmp_path / "notes.txt",), "is no folder of a checkpoint and no Parquet file"),
        ((f"gru={file}", "--references", "gru"), "a ranker is called 'gru', as a reference ranker is"),
        ((f"{file},{file}",), "has several runs; put a name in front"),
        ((small / "model", "--batch-size", "0"), "`--batch-size` is 0"),
    ):
        run = mera("compare", *arguments, "--dataset", small / "dataset", "--output-dir", output)
        lines = [line for line in run.err.replace("\r", "\n").splitlines() if line.startswith("mera compare: ")]
        assert run.status == 2 and run.out == "" and len(lines) == 1 and says in lines[0], run.err
        assert not output.exists()
    run = mera("compare", small / "model", "--dataset", small / "dataset", "--references", "chet")
    assert run.status == 2 and "invalid choice: 'chet'" in run.err
