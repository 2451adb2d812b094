"""`mera app`: what it serves and says, and what it refuses."""

import importlib.util

import pytest
from command import mera

from mera_hf.app import launching


@pytest.fixture
def served(monkeypatch):
    """What would be served, without a server."""
    calls = []

    class Page:
        local_url = "http://127.0.0.1:7860/"

        def block_thread(self):
            calls.append("waits")

    def launch(name, model, tokenizer, *arguments, **options):
        calls.append((name, *arguments, options))
        return Page()

    monkeypatch.setattr(launching, "launch", launch)
    return calls


def test_it_serves_on_this_computer_until_it_is_stopped(small, served):
    run = mera("app", small / "model", "--no-browser")
    assert run.status == 0, run.err
    assert run.out == "model is at http://127.0.0.1:7860/   (Ctrl+C stops it)\n"
    assert served == [("model", None, "127.0.0.1", None, {"browser": False}), "waits"]


def test_options_reach_the_page(small, served):
    run = mera("app", small / "model", "--dataset", small / "dataset", "--host", "0.0.0.0", "--port", "7999")
    assert run.status == 0, run.err
    assert served[0] == ("model", str(small / "dataset"), "0.0.0.0", 7999, {"browser": True})


def test_patients_of_credentialed_data_are_not_served_to_others(small):
    run = mera("app", small / "model", "--dataset", small / "dataset", "--host", "0.0.0.0", "--no-browser")
    assert run.status == 2 and run.out == ""
    assert "`--dataset`" in run.err and "credentialed" in run.err


@pytest.mark.parametrize("port", ["0", "70000"])
def test_a_port_that_does_not_exist(small, port):
    run = mera("app", small / "model", "--port", port)
    assert run.status == 2 and f"`--port` is {port}; choose one between 1 and 65535." in run.err


def test_without_gradio(small, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = mera("app", small / "model")
    assert run.status == 2 and "pip install 'mera_hf[app]'" in run.err


def test_a_checkpoint_that_is_not_there(tmp_path):
    run = mera("app", tmp_path / "none", "--no-browser")
    assert run.status == 2 and "is not a folder here" in run.err
