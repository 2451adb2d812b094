"""The command itself: help, exit statuses, what it may print, and that it never reaches for the network."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from command import RECIPES, TINY, mera

import mera_hf
from mera_hf.cli import predict
from mera_hf.cli.main import VERBS
from mera_hf.training.recipe import RECIPES as SHIPPED


def test_without_a_verb_the_help_lists_them_all():
    run = mera()
    assert run.status == 0 and run.err == ""
    for verb in VERBS:
        assert f"mera {verb} " in run.out
    assert "Patient data stays on this machine" in run.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_words_and_an_example_that_parses(verb):
    run = mera(verb, "--help")
    assert run.status == 0 and run.err == ""
    description = run.out.split("\n\n")[1]
    assert len(description.split()) > 15, "what it does, in sentences"
    for word in ("argparse", "Namespace", "kwargs", "InfoNCE", "logits", "TRL"):
        assert word not in run.out
    if verb != "demo":
        assert f"\n  mera {verb} " in run.out, "an example to paste"
    for line in run.out.splitlines():
        for word in line.split():
            if word.startswith("recipes/"):
                assert (RECIPES.parent / word.rstrip(",.;")).exists() or word == "recipes/", word


@pytest.mark.parametrize("verb", ["demo", "prepare", "evaluate", "compare", "predict", "export", "merge"])
def test_an_unknown_option_is_an_error_of_its_verb(verb):
    required = {
        "demo": (),
        "prepare": ("diabetes130", "--output-dir", "x"),
        "evaluate": ("x", "--dataset", "y"),
        "compare": ("x", "--dataset", "y"),
        "predict": ("x", "--visits", "486"),
        "export": ("x", "--output-dir", "y"),
        "merge": ("x", "--output-dir", "y"),
    }
    run = mera(verb, *required[verb], "--no-such-option")
    assert run.status == 2 and run.out == ""
    assert f"mera {verb}: error: unknown argument --no-such-option" in run.err


def test_an_unknown_verb_and_a_missing_option():
    assert mera("predit").status == 2
    run = mera("predict", "somewhere")
    assert run.status == 2 and "--visits" in run.err and "--dataset" in run.err


def test_the_unexpected_is_one_line_and_a_hint(monkeypatch):
    def broken(args):
        raise RuntimeError("the roof is on fire")

    monkeypatch.setattr(predict, "run", broken)
    run = mera("predict", "x", "--visits", "486")
    assert run.status == 1 and run.out == ""
    assert run.err.splitlines() == [
        "mera predict: RuntimeError: the roof is on fire",
        "This should not happen. Set MERA_DEBUG=1 to see where it came from.",
    ]
    monkeypatch.setenv("MERA_DEBUG", "1")
    assert "Traceback" in mera("predict", "x", "--visits", "486").err


def test_an_interrupt_is_no_crash(monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "run", interrupted)
    run = mera("predict", "x", "--visits", "486")
    assert run.status == 1 and run.err == "mera predict: stopped\n"


def test_the_command_is_installed_and_starts_without_torch():
    (script,) = entry_points(group="console_scripts", name="mera")
    assert script.value == "mera_hf.cli.main:main"
    heavy = "print({'torch', 'transformers', 'polars'} & {*sys.modules})"
    code = f"import sys; from mera_hf.cli.main import main; main([]); {heavy}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("set()\n") and run.stderr == ""


def test_the_recipes_of_the_demo_come_with_the_package():
    assert {path.name for path in (SHIPPED / "demo").glob("*.yaml")} == {"memorize.yaml", "train.yaml"}
    assert SHIPPED.is_relative_to(Path(mera_hf.__file__).parent)


WATCHED = """
import socket, sys

def refuse(*arguments, **keywords):
    print("NETWORK", arguments, file=sys.stderr)
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from mera_hf.cli.main import main

dataset, memorized, model, recipes, tiny = sys.argv[1:]
tiny = ["--from-scratch", tiny, "--initialise", "description", "--max-steps", "1"]
verbs = [
    ["memorize", "--config", f"{recipes}/memorize.yaml", "--dataset", dataset, "--output-dir", memorized, *tiny],
    ["train", "--config", f"{recipes}/train.yaml", "--dataset", dataset, "--output-dir", model, "--max-steps", "1",
     "--model-name-or-path", memorized],
    ["predict", model, "--visits", "428.0", "--top-k", "2"],
]
sys.exit(max(main(verb) for verb in verbs))
"""


def test_a_user_without_any_setting_is_not_reported_to_anyone(small, tmp_path):
    """In a process of its own, without the variables that keep these tests offline: nothing is even tried."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    arguments = (small / "dataset", tmp_path / "memorized", tmp_path / "model", RECIPES / "tiny-cpu", TINY)
    command = [sys.executable, "-c", WATCHED, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "NETWORK" not in run.stderr
    for line in run.stdout.splitlines():
        assert not line.startswith("{") and "%|" not in line, "logs and progress belong on standard error"
    assert "P(next visit)" in run.stdout
