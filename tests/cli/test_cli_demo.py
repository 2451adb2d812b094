"""`mera demo`, with fewer patients, a smaller model and fewer steps."""

import functools
import json
import socket

import pytest
import yaml
from command import SIZE, mera

from mera_hf.cli import demo
from mera_hf.data import prepare as prepare_module
from mera_hf.evaluation.results import read_metrics
from mera_hf.training import recipe


@pytest.fixture
def short(monkeypatch, tmp_path):
    for name in ("memorize", "train"):
        keys = yaml.safe_load((recipe.RECIPES / "demo" / f"{name}.yaml").read_text()) | {
            "max_steps": 2,
            "per_device_train_batch_size": 16,
        }
        if name == "memorize":
            keys["groups"] = False
            keys["from_scratch"] |= SIZE
        (tmp_path / "recipes" / "demo").mkdir(parents=True, exist_ok=True)
        (tmp_path / "recipes" / "demo" / f"{name}.yaml").write_text(yaml.safe_dump(keys))
    monkeypatch.setattr(recipe, "RECIPES", tmp_path / "recipes")
    monkeypatch.setattr(prepare_module, "prepare", functools.partial(prepare_module.prepare, sample=80))
    attempts = []

    def refuse(self, address):
        attempts.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


def test_the_demo_runs_through_and_leaves_everything_in_one_folder(short, tmp_path):
    folder = tmp_path / "demo"
    run = mera("demo", "--output-dir", folder, "--seed", "3")
    assert run.status == 0, run.err
    assert short == [], "nothing reached for the network"
    assert {path.name for path in folder.iterdir()} == {
        *("dataset", "memorized", "model"),
        *("metrics.json", "table.md", "report.html", "plots"),
    }
    metrics = read_metrics(folder / "metrics.json")
    assert metrics["dataset"]["name"] == "diabetes130" and metrics["run"]["seed"] == 3
    assert (
        metrics["run"]["recipe"]
        == json.loads((folder / "model" / "training.json").read_text())["recipe"]
        == "demo/train"
    )
    assert set(metrics["rankers"]) == {"mera", *demo.REFERENCES}
    for words in ("1. Prepare", "2. Memorize", "3. Train", "4. Evaluate", "5. Predict", f"everything is in {folder}"):
        assert words in run.out
    assert f"{folder / 'report.html'}" in run.out and "train_loss" not in run.out
    # The command that it suggests works
    suggested = next(line for line in run.out.splitlines() if line.strip().startswith("mera predict"))
    assert suggested.strip() == f'mera predict {folder / "model"} --visits "428 250.00; 584 428" --sex F --age 72'

    again = mera("demo", "--output-dir", folder)
    assert again.status == 2 and "add `--overwrite`" in again.err and read_metrics(folder / "metrics.json") == metrics


def test_a_folder_that_holds_no_demo_is_kept(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    run = mera("demo", "--output-dir", tmp_path, "--overwrite")
    assert run.status == 2 and "holds no demo" in run.err and (tmp_path / "letter.txt").read_text() == "mine"


def test_the_quick_demo_trains_nothing(short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mera-demo").mkdir()
    (tmp_path / "mera-demo" / "report.html").write_text("the whole demo's")
    run = mera("demo", "--quick")
    assert run.status == 0, run.err
    assert short == [], "nothing reached for the network"
    folder = tmp_path / "mera-demo-quick"
    assert {path.name for path in folder.iterdir()} == {"dataset", "metrics.json", "table.md", "report.html", "plots"}
    assert set(read_metrics(folder / "metrics.json")["rankers"]) == {"mera", *demo.QUICK_REFERENCES}
    for words in (
        "1. Predict",
        "What moved these ranks",
        "2. Prepare",
        "3. Evaluate",
        "everything is in mera-demo-quick",
    ):
        assert words in run.out
    suggested = next(line for line in run.out.splitlines() if line.strip().startswith("mera predict"))
    assert suggested.strip() == 'mera predict mera-tiny-diabetes130 --visits "428 250.00; 584 428" --sex F --age 72'

    again = mera("demo", "--quick")
    assert again.status == 2 and "add `--overwrite`" in again.err


def test_the_quick_demo_has_no_seed(tmp_path):
    run = mera("demo", "--quick", "--seed", "1", "--output-dir", tmp_path / "x")
    assert run.status == 2 and "`--quick` trains nothing" in run.err and not (tmp_path / "x").exists()
