"""The measurements at scale run at a tiny size, and the committed figures are theirs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


def script(name, output, *options) -> dict:
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--output-dir", output, *options]
    run = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads((output / f"{name}.json").read_text())


def test_memory_of_ranking(tmp_path):
    result = script("predict_memory", tmp_path, "--patients", "150")
    assert result["patients"] == result["curve"][-1]["patients"] == 150 and result["peak_mb"] > 100
    assert (tmp_path / "predict_memory.png").read_bytes().startswith(b"\x89PNG")


def test_time_and_memory_of_preparing(tmp_path):
    result = script("prepare_scale", tmp_path, "--rows", "3000")
    assert result["read"]["code_rows"] == 3000 and result["cohort"]["patients"] > 10
    assert result["seconds"] > 0 and result["peak_mb"] > 50


def test_time_and_memory_of_evaluating(tmp_path):
    result = script("evaluation_scale", tmp_path, "--patients", "60", "--codes", "80")
    assert (result["patients"], result["codes"], result["rankers"]) == (60, 80, 6)
    assert result["seconds"] == pytest.approx(sum(result["sections"].values()), abs=0.1) and result["peak_mb"] > 50


def test_the_committed_curve_is_flat():
    result = json.loads((ROOT / "tests" / "benchmarks" / "predict_memory.json").read_text())
    assert result["patients"] == result["curve"][-1]["patients"] >= 1_000_000
    _, second, third, fourth = result["mean_mb_of_each_quarter"]
    assert max(third, fourth) <= 1.05 * second
    assert result["peak_mb"] < 1.5 * second


def test_the_committed_preparing_fits():
    result = json.loads((ROOT / "tests" / "benchmarks" / "prepare_scale.json").read_text())
    assert result["read"]["code_rows"] == 5_000_000 and result["cores"] == 2
    assert result["peak_mb"] < 8 * 1024


def test_the_committed_evaluation_fits():
    result = json.loads((ROOT / "tests" / "benchmarks" / "evaluation_scale.json").read_text())
    assert (result["patients"], result["codes"], result["cores"]) == (20_000, 5_000, 2)
    assert result["seconds"] < 60 and result["peak_mb"] < 4 * 1024
