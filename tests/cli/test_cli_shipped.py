"""The checkpoints that come with the package, by name, where the command names a checkpoint."""

import json

import pytest
from command import RECIPES, mera, succeed

from mera_hf.errors import InputError
from mera_hf.shipped import shipped_checkpoint
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.recipe import parse_recipe


NAME = "mera-tiny-diabetes130"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_predict_by_name_is_predict_by_folder():
    options = ("--visits", "428.0 250.00; 584.9", "--json")
    by_name, by_folder = succeed("predict", NAME, *options), succeed("predict", shipped_checkpoint(NAME), *options)
    assert by_name.out == by_folder.out
    assert json.loads(by_name.out)["ranking"][0]["code"] == "ICD9CM:584"


def test_evaluate_finds_the_training_log_too(monkeypatch):
    told = {}

    def evaluate_checkpoint(model, tokenizer, dataset, split, **options):
        told.update(options)
        raise InputError("that is enough")

    monkeypatch.setattr("mera_hf.evaluation.evaluate.evaluate_checkpoint", evaluate_checkpoint)
    assert "that is enough" in mera("evaluate", NAME, "--dataset", "x").err
    assert (told["recipe"], told["seed"]) == ("tiny-cpu/train", 0) and told["training"]["log"]


def test_compare_and_export_by_name():
    assert "history term" in mera("export", NAME, "--output-dir", "plain").err
    assert "'not-prepared'" in mera("compare", NAME, "--dataset", "not-prepared").err


def test_a_training_starts_from_the_memorized_one_by_name():
    options = ["--model-name-or-path", "mera-tiny-memorized"]
    parts = parse_recipe(RECIPES / "tiny-cpu" / "train.yaml", options, MeraTrainerConfig)
    assert parts[1].model_name_or_path == shipped_checkpoint("mera-tiny-memorized")


def test_an_unknown_name_is_told_those_that_there_are():
    run = mera("predict", "mera-tiny-diabetes", "--visits", "428")
    assert run.status == 2 and "With mera come mera-tiny-diabetes130 and mera-tiny-memorized." in run.err


def test_the_memorized_one_does_not_rank():
    run = mera("predict", "mera-tiny-memorized", "--visits", "428")
    assert run.status == 2 and "'mera-tiny-memorized' was memorized but not trained to rank" in run.err
