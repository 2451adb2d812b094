"""`mera predict --dataset`: the same rankings as for one patient, also from a run that was killed and went on."""

import json
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from command import mera, succeed


def parts(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def test_it_says_what_it_did(rankings, small):
    output, run = rankings
    assert run.out.startswith("60 patients ranked, in ")
    assert f"written to {output}: predict.json and 5 files part-*.parquet" in run.out
    assert "60/60" in run.err and "patients" in run.err, "a progress bar over patients"
    summary = json.loads((output / "predict.json").read_text())
    assert summary["patients"] == 60 and summary["checkpoint"] == str(small / "model")


def test_a_patient_is_ranked_as_by_the_one_patient_form(rankings, patient_files, small):
    output, _ = rankings
    row = pq.read_table(patient_files / "3.parquet").to_pylist()[7]
    ranked = pq.read_table(output / "part-00003.parquet").to_pylist()[7]
    visits = "; ".join(" ".join(visit["codes"]) for visit in row["visits"])
    profile = ("--sex", row["profile"]["sex"], "--age", row["profile"]["age"], "--race", row["profile"]["race"])
    one = json.loads(mera("predict", small / "model", "--visits", visits, *profile, "--top-k", "5", "--json").out)
    assert ranked["patient_id"] == row["patient_id"] and ranked["set_size"] == one["set_size"]
    assert ranked["codes"] == [entry["code"] for entry in one["ranking"]]
    assert ranked["probabilities"] == pytest.approx([entry["probability"] for entry in one["ranking"]], abs=1e-4)


def test_killed_and_resumed_is_the_same_to_the_last_byte(rankings, patient_files, small, tmp_path):
    arguments = [
        "predict",
        small / "model",
        "--dataset",
        patient_files,
        "--output-dir",
        tmp_path / "cut",
        "--top-k",
        "5",
    ]
    arguments = [str(argument) for argument in arguments]
    # A pause before each shard leaves time to see one and kill
    slow = "from mera_hf.modeling_mera import MeraForDiagnosis as M; import time; rank = M.rank; "
    slow += "M.rank = lambda *a, **k: (time.sleep(0.5), rank(*a, **k))[1]"
    runner = f"import sys; {slow}; from mera_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", runner, *arguments], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "cut" / "part-00000.parquet").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert 0 < len(list((tmp_path / "cut").glob("part-*.parquet"))) < 5
    assert not (tmp_path / "cut" / "predict.json").exists(), "nothing that looks finished"
    run = mera(*arguments)
    assert run.status == 2 and "--resume" in run.err
    run = succeed(*arguments, "--resume")
    assert "60 patients ranked" in run.out
    assert parts(tmp_path / "cut") == parts(rankings[0])


def test_a_prepared_folder_has_splits(small, tmp_path):
    arguments = ("predict", small / "model", "--dataset", small / "dataset")
    for split in ("test", "validation"):
        options = () if split == "test" else ("--split", split)
        succeed(*arguments, "--output-dir", tmp_path / split, *options)
        rows = pq.read_metadata(small / "dataset" / "data" / f"{split}.parquet").num_rows
        assert json.loads((tmp_path / split / "predict.json").read_text())["patients"] == rows > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--dataset", "x", "--output-dir", "y", "--sex", "F"), "`--sex` belongs to `--visits`, not to `--dataset`"),
        (("--dataset", "x", "--output-dir", "y", "--json"), "`--json` belongs to `--visits`"),
        (("--dataset", "x", "--output-dir", "y", "--explain"), "`--explain` belongs to `--visits`"),
        (("--visits", "486", "--output-dir", "y"), "`--output-dir` belongs to `--dataset`, not to `--visits`"),
        (("--visits", "486", "--resume"), "`--resume` belongs to `--dataset`"),
        (("--dataset", "x"), "`--output-dir` is missing"),
        (("--dataset", "x", "--output-dir", "y", "--top-k", "0"), "`--top-k` is 0"),
        (("--dataset", "nowhere.parquet", "--output-dir", "y"), "`dataset` 'nowhere.parquet' does not exist"),
    ],
)
def test_options_that_do_not_go_together(small, options, says):
    run = mera("predict", small / "model", *options)
    assert run.status == 2 and run.out == "" and f"mera predict: {says}" in run.err


def test_one_patient_or_a_data_set(small):
    run = mera("predict", small / "model", "--visits", "486", "--dataset", "x")
    assert run.status == 2 and "not allowed with argument" in run.err


def test_a_code_that_the_model_does_not_know(work, small, tmp_path):
    folder, _ = work("mimic4")
    options = ("--dataset", folder / "dataset", "--split", "train", "--output-dir", tmp_path / "out")
    run = mera("predict", small / "model", *options)
    assert run.status == 2 and "mera predict: train.parquet, row 0 (the first is row 0): a visit has a code" in run.err
    assert "ICD10CM:" not in run.err and not (tmp_path / "out").exists()
