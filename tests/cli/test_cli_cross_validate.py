"""`mera cross-validate` on the MIMIC-IV demo's patients."""

import json

from command import RECIPES, mera, succeed


RECIPE = RECIPES / "tiny-cpu" / "train-few-patients.yaml"


def test_folds_rank_every_visit_once_beside_the_references(work, tmp_path):
    dataset = work("mimic3")[0] / "dataset"
    arguments = ("--config", RECIPE, "--dataset", dataset, "--folds", "2", "--num-train-epochs", "1")
    run = succeed("cross-validate", *arguments, "--output", tmp_path / "metrics.json")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["dataset"]["split"] == "2 folds over 14 patients"
    assert {"mera", "copy_history", "prevalence"} <= set(metrics["rankers"])
    assert all(0 <= metrics["rankers"]["mera"][name] <= 1 for name in ("recall@10", "recall@20", "weighted_f1"))
    # With one small step from the fitted start the model still copies: prevalence alone is far behind
    assert metrics["rankers"]["mera"]["recall@20"] > metrics["rankers"]["prevalence"]["recall@20"]
    assert "copy history" in run.out
    again = mera("cross-validate", *arguments, "--output", tmp_path / "metrics.json")
    assert again.status == 2 and "exists; choose another file" in again.err


def test_more_folds_than_patients_are_refused(work, tmp_path):
    dataset = work("mimic3")[0] / "dataset"
    run = mera("cross-validate", "--config", RECIPE, "--dataset", dataset, "--folds", "99")
    assert run.status == 2 and "`folds` is 99; choose 2 to 14" in run.err
