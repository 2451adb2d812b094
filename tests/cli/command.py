"""`mera` in this process."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

from mera_hf.cli.main import main


RECIPES = Path(__file__).parents[2] / "recipes"
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
TINY = json.dumps({"model_type": "llama", **SIZE})


@dataclass
class Run:
    status: int
    out: str
    err: str


def mera(*arguments) -> Run:
    """Run `mera` and catch what it prints; a session fixture has no `capsys`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            status = end.code
    return Run(status, out.getvalue(), err.getvalue())


def succeed(*arguments) -> Run:
    run = mera(*arguments)
    assert run.status == 0, run.err
    return run


def memorize(dataset, output, *options) -> Run:
    """The tiny recipe, made tinier."""
    recipe = RECIPES / "tiny-cpu" / "memorize.yaml"
    fast = ("--from-scratch", TINY, "--initialise", "description", "--num-train-epochs", "1")
    return succeed("memorize", "--config", recipe, "--dataset", dataset, "--output-dir", output, *fast, *options)


def train(dataset, output, memorized, *options) -> Run:
    recipe = RECIPES / "tiny-cpu" / "train.yaml"
    start = ("--from-scratch", TINY) if memorized is None else ("--model-name-or-path", memorized)
    start = (*start, "--initialise", "description")
    fast = (*start, "--num-train-epochs", "2", "--logging-steps", "1")
    return succeed("train", "--config", recipe, "--dataset", dataset, "--output-dir", output, *fast, *options)


def few_references(monkeypatch):
    """Only the references that take no training: the others take seconds at hundreds of codes."""
    from mera_hf.evaluation import evaluate

    defaults = list(evaluate.evaluate_checkpoint.__defaults__)
    defaults[defaults.index(evaluate.REFERENCES)] = ("prevalence", "copy_history")
    monkeypatch.setattr(evaluate.evaluate_checkpoint, "__defaults__", tuple(defaults))
