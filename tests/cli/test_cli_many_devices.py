"""`accelerate launch` of a verb on two processes writes what one process writes, once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import RECIPES, TINY, memorize, mera, train
from safetensors.torch import load_file


def launch(engine: str, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)}
    options = ["--config_file", RECIPES / "accelerate" / f"{engine}.yaml", "--num_processes", "2"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, *arguments]
    run = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-4000:]
    return run


def assert_same_checkpoint(ours: Path, theirs: Path) -> None:
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    weights, wanted = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert weights.keys() == wanted.keys()
    for name, tensor in weights.items():
        # AdamW makes more of rounding than the steps of test_many_devices.py, which are held to 1e-5
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-4)
    config, wanted = (json.loads((folder / "config.json").read_text()) for folder in (ours, theirs))
    for name in (config.keys() | wanted.keys()) - {"use_cache"}:  # which the Trainer sets while it trains
        if name in ("calibration", "eov_value", "eov_offset") and wanted[name] is not None:
            assert config[name] == pytest.approx(wanted[name], rel=1e-2, abs=1e-2)
        elif name == "conformal" and wanted[name] is not None:
            for kind in ("codes", "visits"):
                assert config[name][kind] == pytest.approx(wanted[name][kind], rel=1e-2)
        else:
            assert config[name] == wanted[name], name


def test_two_processes_train_the_checkpoint_of_one(small, tmp_path):
    options = ("--num-train-epochs", "2", "--max-grad-norm", "1", "--hidden-dropout", "0", "--use-cpu")
    one = train(
        small / "dataset", tmp_path / "one", small / "memorized", *options, "--per-device-train-batch-size", "16"
    )
    shutil.copytree(small / "model", tmp_path / "two")
    run = launch(
        "ddp",
        *("--module", "mera_hf.cli", "train", "--config", RECIPES / "tiny-cpu" / "train.yaml"),
        *("--dataset", small / "dataset", "--model-name-or-path", small / "memorized"),
        *("--output-dir", tmp_path / "two", "--overwrite", "--logging-steps", "1", "--initialise", "description"),
        *(*options, "--per-device-train-batch-size", "8"),
    )
    assert_same_checkpoint(tmp_path / "two", tmp_path / "one")
    assert run.stdout.count("written to") == run.stdout.count("R@10") == one.out.count("R@10") == 1
    logs = [json.loads((tmp_path / name / "training.json").read_text())["log"] for name in ("one", "two")]
    for line, other in zip(*logs, strict=True):
        for name in {"loss", "loss_contrastive", "loss_confidence"} & line.keys():
            assert other[name] == pytest.approx(line[name], abs=1e-4)


def test_two_processes_memorize_the_checkpoint_of_one_with_shared_out_weights(small, tmp_path):
    options = ("--groups", "false", "--per-device-train-batch-size")
    memorize(small / "dataset", tmp_path / "one", *options, "32")
    run = launch(
        "fsdp2",
        *(Path(__file__).parent / "mera_on_cpus.py", "memorize", "--config", RECIPES / "tiny-cpu" / "memorize.yaml"),
        *("--dataset", small / "dataset", "--output-dir", tmp_path / "two", "--from-scratch", TINY),
        *("--initialise", "description", "--num-train-epochs", "1", *options, "16"),
    )
    assert_same_checkpoint(tmp_path / "two", tmp_path / "one")
    assert run.stdout.count("written to") == run.stdout.count("code to definition seen") == 1
    shares = [json.loads((tmp_path / name / "memorization.json").read_text()) for name in ("one", "two")]
    assert shares[0] == shares[1]


@pytest.mark.parametrize("verb", ["demo", "cross-validate"])
def test_what_runs_in_one_process_says_so(verb, small, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = {
        "demo": ("--output-dir", tmp_path / "out"),
        "cross-validate": ("--config", RECIPES / "tiny-cpu" / "train.yaml", "--dataset", small / "dataset"),
    }
    run = mera(verb, *options[verb])
    assert run.status == 2 and not (tmp_path / "out").exists()
    assert run.err == f"mera {verb}: it runs in one process; start it without `accelerate launch`.\n"
