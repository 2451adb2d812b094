"""A training that is cut short and goes on ends where an unbroken one ends."""

import subprocess
import sys
import time

import torch
from command import RECIPES, TINY, mera, train
from safetensors.torch import load_file


STEPS = (
    "--num-train-epochs",
    "6",
    "--save-strategy",
    "steps",
    "--save-steps",
    "2",
    "--per-device-train-batch-size",
    "16",
)


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_killed_after_a_saved_step_and_resumed_is_the_same_to_the_last_bit(small, tmp_path):
    train(small / "dataset", tmp_path / "whole", small / "memorized", *STEPS)
    arguments = ["train", "--config", RECIPES / "tiny-cpu" / "train.yaml", "--dataset", small / "dataset"]
    arguments += ["--output-dir", tmp_path / "cut", "--model-name-or-path", small / "memorized", *STEPS]
    arguments = [str(argument) for argument in arguments]
    # A pause after each step leaves time to see a saved one and kill
    slow = (
        "import time; from transformers import TrainerCallback as C; C.on_step_end = lambda *a, **k: time.sleep(0.2)"
    )
    runner = f"import sys; {slow}; from mera_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", runner, *arguments], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        # A step is saved to its end once the next one is there
        while len(list((tmp_path / "cut").glob("checkpoints/checkpoint-*/trainer_state.json"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    saved = {path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()}
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"checkpoints"}, "nothing that looks finished"
    assert "checkpoint-2" in saved and "checkpoint-18" not in saved

    refused = mera(*arguments)
    assert refused.status == 2 and "`--resume` to go on" in refused.err
    # A step whose saving was cut short is passed over: before the state of the Trainer, or within it
    for step, state in (("16", None), ("14", '{"epoch": 1')):
        (folder := tmp_path / "cut" / "checkpoints" / f"checkpoint-{step}").mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    train(small / "dataset", tmp_path / "cut", small / "memorized", *STEPS, "--resume")
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_moving_average_is_resumed_too(small, tmp_path):
    options = (*STEPS, "--ema-decay", "0.9")
    train(small / "dataset", tmp_path / "whole", small / "memorized", *options)
    for later in sorted((tmp_path / "whole" / "checkpoints").iterdir()):
        if later.name != "checkpoint-4":
            for path in sorted(later.rglob("*"), reverse=True):
                path.unlink()
            later.rmdir()
    whole = weights(tmp_path / "whole")
    train(small / "dataset", tmp_path / "whole", small / "memorized", *options, "--resume")
    assert_same(weights(tmp_path / "whole"), whole)


def test_what_cannot_be_resumed_is_refused(small, tmp_path):
    arguments = ["train", "--config", RECIPES / "tiny-cpu" / "train.yaml", "--dataset", small / "dataset"]
    arguments += ["--from-scratch", TINY, "--output-dir", tmp_path / "new"]
    run = mera(*arguments, "--resume")
    assert run.status == 2 and "holds no saved step" in run.err and not (tmp_path / "new").exists()
    run = mera(*arguments, "--resume", "--overwrite")
    assert run.status == 2 and "give one of them" in run.err
