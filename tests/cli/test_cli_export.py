"""`mera export`: refused where it would rank otherwise, or exported with the loss measured."""

import json

import pytest
from command import mera, succeed, train
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from mera_hf.evaluation.rankings.plain import rank_plain


@pytest.fixture(scope="module")
def served(small, tmp_path_factory):
    """A model trained to be served: nothing but the language model ranks."""
    folder = tmp_path_factory.mktemp("served") / "model"
    fields = ("--history-term", "false", "--code-bias", "false", "--positions", "token", "--eov-loss", "atlop")
    train(small / "dataset", folder, None, *fields)
    return folder


def test_a_model_trained_for_it_is_exported_whole(served, tmp_path):
    run = succeed("export", served, "--output-dir", tmp_path / "plain")
    assert "nothing is left behind" in run.out and f"written to {tmp_path / 'plain'}" in run.out
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert type(plain).__name__ == "LlamaForCausalLM"
    model, tokenizer = AutoModel.from_pretrained(served).eval(), AutoTokenizer.from_pretrained(tmp_path / "plain")
    model.config.rerank_depth = 0
    patient = {"profile": {"sex": "F", "age": 60}, "visits": [{"codes": model.config.codes[3:6]}]}
    top = model.rank([patient], tokenizer).order
    model.language_model = plain
    assert rank_plain(model, tokenizer, [patient], 26, 1).tolist() == top.tolist()


def test_a_model_that_ranks_with_more_is_refused(small, tmp_path):
    run = mera("export", small / "model", "--output-dir", tmp_path / "plain")
    assert run.status == 2 and run.out == ""
    assert "ranks with the history term, the code bias, one position for all codes of a visit" in run.err
    assert "--plain --dataset DIR" in run.err
    run = mera("export", small / "model", "--output-dir", tmp_path / "plain", "--plain")
    assert run.status == 2 and "`--plain` needs `--dataset`" in run.err
    assert not (tmp_path / "plain").exists()


def test_plain_prints_what_is_lost(small, tmp_path):
    options = ("--output-dir", tmp_path / "plain", "--plain", "--dataset", small / "dataset", "--split", "train")
    run = succeed("export", small / "model", *options)
    assert "left behind: the history term, the code bias, one position" in run.out
    measured = json.loads((tmp_path / "plain" / "export.json").read_text())["measured"]
    assert measured["split"] == "train" and f"{measured['patients']} train patients, percent" in run.out
    for name, (whole, plain) in measured["recall"].items():
        (line,) = (line for line in run.out.splitlines() if line.strip().startswith(name))
        assert line.split()[1:] == [f"{100 * whole:.1f}", f"{100 * plain:.1f}", f"{100 * (plain - whole):+.1f}"]
    assert set(measured["recall"]) == {"recall@10", "recall@20"}
    run = mera("export", small / "model", *options)
    assert run.status == 2 and "--overwrite" in run.err
    succeed("export", small / "model", *options, "--overwrite")
