"""How a checkpoint is opened: what is imported for it, and which revision of it on the Hub."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from command import mera
from tiny import tiny_mera


REVISIONS = {"v1": "1" * 40, "main": "2" * 40}  # by their commits
SCRIPT = """
import contextlib, gc, io, json, sys
from mera_hf.cli.main import main

def predict(*options):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["predict", "org/tiny", "--visits", "428.0; 486", "--json", *options]) == 0
    return json.loads(out.getvalue())

said = {"main": predict()}
said["imported"] = sorted({name.partition(".")[0] for name in sys.modules})
said["collector"] = gc.isenabled(), gc.get_freeze_count()
said["v1"] = predict("--revision", "v1")
assert gc.get_freeze_count() == said["collector"][1]
from transformers import pipeline
said["pipeline"] = pipeline("diagnosis-prediction", model="org/tiny", revision="v1", device="cpu")("428.0; 486")
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What a fresh process says of two revisions of one checkpoint in the cache of the Hub, without a network."""
    cache = tmp_path_factory.mktemp("hub")
    repo = cache / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    for seed, (name, commit) in enumerate(REVISIONS.items()):
        (repo / "refs" / name).write_text(commit)
        for part in tiny_mera("llama", seed=seed):
            part.save_pretrained(repo / "snapshots" / commit)
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert result.returncode == 0, result.stderr
    folders = {name: repo / "snapshots" / commit for name, commit in REVISIONS.items()}
    return json.loads(result.stdout), folders


def test_one_patient_needs_few_libraries(said):
    """What these cost to import, a patient would wait for. (scipy and accelerate are imported by transformers itself.)"""
    imported = set(said[0]["imported"])
    assert {"torch", "transformers", "mera_hf"} <= imported
    heavy = {"trl", "peft", "datasets", "evaluate", "pyarrow", "polars", "pandas", "sklearn", "matplotlib"}
    heavy |= {"bitsandbytes", "tensorboard", "wandb", "trackio", "gradio", "fastapi", "torchvision"}
    assert imported & heavy == set()


def test_what_is_imported_is_left_alone_by_the_garbage_collector(said):
    enabled, frozen = said[0]["collector"]
    assert enabled and frozen > 100_000


def test_the_revision_is_the_one_that_is_named(said):
    rankings, folders = said
    for name, folder in folders.items():
        assert rankings[name] == json.loads(mera("predict", folder, "--visits", "428.0; 486", "--json").out)
    assert rankings["v1"] != rankings["main"]
    codes = [[row["code"] for row in rankings[name]["ranking"]] for name in ("pipeline", "v1")]
    assert codes[0] == codes[1]


@pytest.mark.parametrize(
    "verb", [("predict", "--visits", "428.0"), ("evaluate", "--dataset", "none"), ("export", "--output-dir", "none")]
)
def test_verbs_pass_the_revision_on(verb, monkeypatch):
    from transformers import AutoConfig

    asked = []

    def from_pretrained(name, revision=None):
        asked.append((name, revision))
        raise OSError("not here")

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    run = mera(verb[0], "org/name", "--revision", "v3", *verb[1:])
    assert run.status == 2 and "'org/name' is not a folder here and cannot be fetched: not here" in run.err
    assert asked == [("org/name", "v3")]
