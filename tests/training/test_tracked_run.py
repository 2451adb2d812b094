"""The run of a tracker, from what the packages of the trackers say of themselves."""

import sys
from types import SimpleNamespace

import pytest

from mera_hf.training.tracked_run import TrackedRun


class Held:
    """As a `ContextVar` reads."""

    def __init__(self, value):
        self.get = lambda: value


def begin(monkeypatch, report_to, wandb=None, trackio=None, space=None, main=True):
    variables = SimpleNamespace(current_run=Held(trackio), current_space_id=Held(space))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=wandb))
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(context_vars=variables))
    tracked = TrackedRun()
    tracked.on_train_begin(SimpleNamespace(report_to=report_to), SimpleNamespace(is_world_process_zero=main), None)
    return tracked.run


ONLINE = SimpleNamespace(id="x1", url="https://wandb.ai/me/mera/runs/x1")
OFFLINE = SimpleNamespace(id="x2", url="")
TRACKIO = SimpleNamespace(name="a-run")


@pytest.mark.parametrize(
    ("opened", "run"),
    [
        ({}, None),
        ({"wandb": ONLINE}, {"name": "wandb", "id": "x1", "url": "https://wandb.ai/me/mera/runs/x1"}),
        ({"wandb": OFFLINE}, {"name": "wandb", "id": "x2", "url": None}),
        ({"trackio": TRACKIO}, {"name": "trackio", "id": "a-run", "url": None}),
        (
            {"wandb": OFFLINE, "trackio": TRACKIO, "space": "me/board"},
            {"name": "trackio", "id": "a-run", "url": "https://huggingface.co/spaces/me/board"},
        ),
        ({"wandb": ONLINE, "main": False}, None),
    ],
)
def test_the_run_that_can_be_linked_is_remembered(monkeypatch, opened, run):
    assert begin(monkeypatch, ["tensorboard", "wandb", "trackio"], **opened) == run


def test_a_tracker_that_was_not_asked_for_is_not_looked_at(monkeypatch):
    assert begin(monkeypatch, ["tensorboard"], wandb=ONLINE, trackio=TRACKIO) is None
