"""`mera card`: prints or writes, and replaces nothing unasked."""

import pytest
from command import RECIPES, mera
from hub.cases_of_cards import TRAINING, write_checkpoint
from ranking_cases import metrics_dict

from mera_hf.evaluation.results import write_metrics


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "model", training=TRAINING)


def test_a_card_is_printed_or_written(checkpoint, tmp_path):
    metrics = metrics_dict()
    metrics["run"]["recipe"] = TRAINING["recipe"]
    write_metrics(metrics, tmp_path / "metrics.json")
    printed = mera("card", checkpoint, "--metrics", tmp_path / "metrics.json", "--repo", "org/x")
    assert printed.status == 0 and printed.out.startswith("---\n") and "# x\n" in printed.out
    options = ("--metrics", tmp_path / "metrics.json", "--repo", "org/x", "--output", tmp_path / "new" / "README.md")
    assert mera("card", checkpoint, *options).status == 0
    assert (tmp_path / "new" / "README.md").read_text() == printed.out
    again = mera("card", checkpoint, *options)
    assert again.status == 2 and "add `--overwrite`" in again.err
    assert mera("card", checkpoint, *options, "--overwrite").status == 0


def test_a_folder_of_recipes_has_a_card_without_results(tmp_path):
    run = mera("card", RECIPES / "llama2-7b", "--repo", "mera-llama2")
    assert run.status == 0 and "This is a recipe, not a model" in run.out
    run = mera("card", RECIPES / "llama2-7b", "--metrics", tmp_path / "metrics.json")
    assert run.status == 2 and "a card of recipes has no results" in run.err


def test_what_is_no_checkpoint_is_refused(tmp_path):
    run = mera("card", tmp_path)
    assert run.status == 2 and "holds no checkpoint of mera" in run.err
