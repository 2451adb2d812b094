"""`mera predict --dataset` in two processes."""

import json
import subprocess
import sys


def parts(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def test_two_processes_write_what_one_writes(rankings, patient_files, small, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "mera_hf.cli", "predict", small / "model", "--dataset", patient_files, "--top-k", "5"]
    run = subprocess.run([*map(str, command), "--output-dir", tmp_path / "two"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert parts(tmp_path / "two") == parts(rankings[0])
    ours, theirs = (json.loads((folder / "predict.json").read_text()) for folder in (tmp_path / "two", rankings[0]))
    assert (ours.pop("processes"), theirs.pop("processes")) == (2, 1)
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert run.stdout.count("60 patients ranked") == 1, "the first process speaks for both"

    # What is wrong is wrong for both
    run = subprocess.run([*map(str, command), "--output-dir", tmp_path / "two"], capture_output=True, text=True)
    assert run.returncode != 0 and "mera predict: `output_dir`" in run.stderr and "This should not" not in run.stderr
