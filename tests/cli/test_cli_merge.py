"""`mera merge`: what it prints and writes, and what it refuses."""

import json

import pytest
import torch
from command import mera, succeed, train
from safetensors.torch import load_file


ADAPTER = ("--use-peft", "true", "--lora-r", "4")


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """The folder of a training with adapters."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    train(small / "dataset", folder, small / "memorized", *ADAPTER)
    return folder


def test_a_trained_adapter_becomes_the_checkpoint_that_training_wrote(small, trained, tmp_path):
    output = tmp_path / "merged"
    run = succeed("merge", trained / "adapter", "--output-dir", output)
    assert "logits of the merged model in float32, over 64 synthetic histories" in run.out
    (line,) = (line for line in run.out.splitlines() if line.startswith("  the adapter on its base"))
    largest, mean, same, both = line.split()[-4:]
    assert 0 <= float(mean) <= float(largest) < 1e-4 and same == both == "100.0%"
    assert "quantised" not in run.out and f"written to {output}" in run.out
    figures = json.loads((output / "merged.json").read_text())
    assert figures["base"] == str(small / "memorized")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (output, trained))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-6)
    ranked = [succeed("predict", folder, "--visits", "428.0 250.00").out for folder in (output, trained)]
    assert ranked[0] == ranked[1]


def test_after_quantised_training_it_says_how_far_the_quantised_model_is(small, tmp_path):
    pytest.importorskip("bitsandbytes")
    train(small / "dataset", tmp_path / "run", small / "memorized", *ADAPTER, "--load-in-4bit", "true")
    run = succeed("merge", tmp_path / "run" / "adapter", "--output-dir", tmp_path / "merged", "--dtype", "bfloat16")
    lines = [line for line in run.out.splitlines() if line.startswith("  the adapter on ")]
    assert [line.split("  ")[1] for line in lines] == ["the adapter on its base", "the adapter on the quantised base"]
    assert all(float(line.split()[-4]) > 0 for line in lines)
    assert "in bfloat16" in run.out
    assert {weight.dtype for weight in load_file(tmp_path / "merged" / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_bad_input_is_one_line_and_nothing_is_written(small, trained, tmp_path):
    output = tmp_path / "merged"
    adapter = trained / "adapter"
    for arguments, says in (
        ((trained,), f"no adapter; name '{adapter}'"),
        ((small / "memorized",), "holds no adapter_config.json, so it is no adapter"),
        ((tmp_path / "nowhere",), "nowhere' holds no adapter_config.json"),
        ((adapter, "--base", tmp_path / "nowhere"), "say where: base=... (--base)"),
        ((adapter, "--base", adapter), "is an adapter; merge it into its base first"),
    ):
        run = mera("merge", *arguments, "--output-dir", output)
        lines = [line for line in run.err.replace("\r", "\n").splitlines() if line.startswith("mera merge: ")]
        assert run.status == 2 and run.out == "" and len(lines) == 1 and says in lines[0], run.err
        assert not output.exists()
    run = mera("merge", adapter, "--output-dir", trained, "--overwrite")
    assert run.status == 2 and "`mera merge` did not write it" in run.err
    assert mera("merge", adapter, "--output-dir", output, "--dtype", "int8").status == 2
    succeed("merge", adapter, "--output-dir", output)
    run = mera("merge", adapter, "--output-dir", output)
    assert run.status == 2 and "(--overwrite)" in run.err
    succeed("merge", adapter, "--output-dir", output, "--overwrite")


def test_an_adapter_is_no_checkpoint(trained):
    run = mera("predict", trained / "adapter", "--visits", "428.0")
    assert run.status == 2 and "is an adapter; merge it into its base first: `mera merge`" in run.err
