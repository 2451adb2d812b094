"""The script for GPUs runs at a tiny size on a CPU, and says so where there is no GPU."""

import json

import pytest
import torch
from benchmarks import gpu


def test_the_script_runs_at_a_tiny_size(tmp_path, recwarn):
    pytest.importorskip("bitsandbytes")
    output = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--device", "cpu", "--steps", "1", "--output", str(output)]) == 0
    # 4-bit weights that were packed for evaluation have no gradient
    assert not [warning for warning in recwarn if "4bit" in str(warning.message)]
    figures = json.loads(output.read_text())
    assert figures["command"].startswith("python -m tests.benchmarks.gpu --tiny --device cpu")
    assert figures["device"] == "CPU" and figures["torch"] == torch.__version__ and "transformers" in figures
    assert figures["bfloat16_matrix_product_tflops"] > 0 and figures["loss_against_products"]["ratio"] > 0
    assert all(
        difference < 0.05 for part in figures["bfloat16_against_float32"].values() for difference in part.values()
    )
    training = figures["training"]
    assert list(training) == ["lora", "qlora", "full"]
    for run in training.values():
        assert run["tokens_a_second"] > 0 and run["share_of_matrix_product_rate"] > 0
        # <bos> <profile>, and three visits of a mark, twelve codes and EOV
        assert run["tokens_a_step"] == 2 * (2 + 3 * 14) and run["decisions_a_step"] == 2 * 2 * 13
        assert run["peak_memory_gb"] is None
    assert (
        training["lora"]["trained_weights"]
        == training["qlora"]["trained_weights"]
        < training["full"]["trained_weights"]
    )
    # The base is the same but for its precision, and so is the loss, nearly
    assert training["qlora"]["loss"] == pytest.approx(training["lora"]["loss"], rel=0.05)


def test_work_of_a_training():
    size = gpu.Size(8, 16, 3, 4, 2, words=100, codes=9, patients=1, visits=1, positions=1, matrix=1)
    # query and output 8 x 8, key and value 8 x 4, and three matrices 8 x 16 of the feed-forward layer
    weights = 2 * 64 + 2 * 32 + 3 * 128
    full = 3 * (6 * weights * 10 + 6 * 8 * 10**2) + 6 * 5 * 10 * 8
    assert gpu._work(size, length=10, decisions=5, frozen=False) == full
    assert gpu._work(size, length=10, decisions=5, frozen=True) == full - 3 * 2 * weights * 10


@pytest.mark.parametrize("arguments", [["--device", "cpu"], []])
def test_a_large_model_without_a_gpu_is_refused(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([*arguments, "--output", str(tmp_path / "gpu.json")]) == 2
    assert "GPU" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_does_not_fit_is_reported(monkeypatch):
    def out_of_memory(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(gpu, "_train", out_of_memory)
    figures = gpu.train("full", gpu.TINY, torch.device("cpu"), "sdpa", 1, 1.0)
    assert figures == {"out_of_memory": "CUDA out of memory. Tried to allocate 2.00 GiB."}
