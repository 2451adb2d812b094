"""`report_to`: what a tracker gets while `mera train` runs, read back from what it wrote on this machine."""

import json
import os
import struct
import subprocess
import sys

import pytest
from command import RECIPES, TINY, mera, train


LOGGED = (
    *("train/loss", "train/loss_contrastive", "train/loss_confidence", "train/learning_rate"),
    *("eval/loss", "eval/loss_contrastive", "eval/loss_confidence"),
    *("eval/recall_10", "eval/recall_20", "eval/weighted_f1"),  # tensorboardX writes @ so
    *("eval/mean_set_size", "eval/empty_set_share"),
)
EPOCHS = ("--eval-strategy", "epoch")


def scalars(path) -> dict[str, list[float]]:
    """What an event file of TensorBoard holds: records of a length, its checksum, an event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, at, values = path.read_bytes(), 0, {}
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                values.setdefault(value.tag, []).append(value.simple_value)
    return values


def test_tensorboard_gets_loss_parts_recall_and_set_sizes(small, tmp_path):
    pytest.importorskip("tensorboardX")
    train(small / "dataset", tmp_path / "model", small / "memorized", "--report-to", "tensorboard", *EPOCHS)
    (events,) = (tmp_path / "model").rglob("events.out.tfevents.*")
    values = scalars(events)
    assert set(LOGGED) <= values.keys()
    assert len(values["eval/recall_20"]) == len(values["eval/mean_set_size"]) == 2, "once an epoch"
    # The same figures as in the checkpoint's own log
    training = json.loads((tmp_path / "model" / "training.json").read_text())
    for name in ("loss_contrastive", "eval_recall@20", "eval_mean_set_size"):
        logged = [entry[name] for entry in training["log"] if name in entry]
        tag = name.replace("eval_", "eval/").replace("@", "_") if name.startswith("eval_") else f"train/{name}"
        assert values[tag] == pytest.approx(logged, rel=1e-5)
    assert training["tracker"] is None, "it has neither ID nor link"


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_the_run_of_a_local_tracker_is_recorded(tracker, small, tmp_path):
    """In a process of its own: these trackers keep state of the process."""
    pytest.importorskip(tracker)
    local = {"WANDB_MODE": "offline", "WANDB_DIR": tmp_path, "TRACKIO_DIR": tmp_path / "trackio", "HOME": tmp_path}
    command = [sys.executable, "-m", "mera_hf.cli", "train", "--config", RECIPES / "tiny-cpu" / "train.yaml"]
    command += ["--dataset", small / "dataset", "--output-dir", tmp_path / "model", "--from-scratch", TINY]
    command += [
        "--initialise",
        "description",
        "--max-steps",
        "2",
        "--report-to",
        tracker,
        "--run-name",
        "a-run",
        *EPOCHS,
    ]
    environment = {**os.environ, **{name: str(value) for name, value in local.items()}}
    done = subprocess.run(
        [str(part) for part in command], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads((tmp_path / "model" / "training.json").read_text())["tracker"]
    assert run["name"] == tracker and run["id"] and run["url"] is None
    if tracker == "wandb":
        assert list(tmp_path.glob(f"wandb/offline-run-*-{run['id']}/run-{run['id']}.wandb"))
    else:
        assert run["id"] == "a-run" and list((tmp_path / "trackio").glob("huggingface*"))


@pytest.mark.parametrize("tracker", ["no-such-tracker", "wandb"])
def test_a_tracker_that_is_not_there_is_said_before_anything_is_read(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    recipe = RECIPES / "tiny-cpu" / "train.yaml"
    run = mera("train", "--config", recipe, "--dataset", "x", "--output-dir", tmp_path / "y", "--report-to", tracker)
    assert run.status == 2 and f"`report_to` is {tracker}" in run.err and not (tmp_path / "y").exists()
