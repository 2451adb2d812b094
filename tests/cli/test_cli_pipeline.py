"""The whole path of a user, on three data sets: prepare, memorize, train, evaluate, predict."""

import json

import pytest
from cohort import visit_rows, write_visits
from command import RECIPES, TINY, few_references, memorize, mera, succeed, train
from transformers import AutoModel, AutoTokenizer

from mera_hf.data.prepared import Prepared, load_prepared, read_report
from mera_hf.data.splits import split_hash
from mera_hf.evaluation.results import read_metrics
from mera_hf.evaluation.sections.findings import findings


SOURCES = ("visits_csv", "mimic3", "mimic4")


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("source", SOURCES)
def test_every_stage_writes_its_files_and_says_where_and_what_next(work, source):
    folder, printed = work(source)
    assert names(folder / "dataset") >= {"README.md", "data", "codes.json", "prepare.json"}
    checkpoint = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names(folder / "memorized") == checkpoint | {"memorization.json", "memorize_run.json"}
    assert names(folder / "model") == checkpoint | {"training.json"}

    for verb, written, following in (
        ("prepare", "dataset", "memorize --config"),
        ("memorize", "memorized", f"train --config RECIPE --dataset {folder / 'dataset'}"),
        ("train", "model", f"evaluate {folder / 'model'} --dataset {folder / 'dataset'}"),
    ):
        assert f"written to {folder / written}" in printed[verb].out
        assert f"next: mera {following}" in printed[verb].out

    codes = Prepared.open(folder / "dataset").codes
    model = AutoModel.from_pretrained(folder / "model").eval()
    assert model.config.codes == codes
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    patients = load_prepared(folder / "dataset")["test"].to_list()
    assert model.rank(patients, tokenizer).order.sort().values.tolist() == [list(range(len(codes)))] * len(patients)


def test_results_go_to_standard_output_and_the_log_to_standard_error(work):
    _, printed = work("visits_csv")
    for verb in ("memorize", "train"):
        assert "train_loss" not in printed[verb].out and "train_loss" in printed[verb].err
        assert "%|" not in printed[verb].out
        assert "Warning" not in printed[verb].err, "nothing that the user cannot act on"
    assert "code to definition unseen" in printed["memorize"].out
    assert "R@10" in printed["train"].out


def test_training_says_where_few_patients_were_calibrated_on(work):
    assert "fewer than 20 validation patients" in work("visits_csv")[1]["train"].out
    assert "fitted on the training patients" in work("visits_csv")[1]["train"].out
    assert "fitted on the training patients" in work("mimic3")[1]["train"].out


def test_the_mixed_source_keeps_both_versions_side_by_side(work):
    codes = Prepared.open(work("mimic4")[0] / "dataset").codes
    assert {code.split(":")[0] for code in codes} == {"ICD9CM", "ICD10CM"}


@pytest.mark.parametrize("source", SOURCES)
def test_evaluate_writes_a_valid_report(work, source, tmp_path, monkeypatch):
    if source == "mimic4":  # the trained references take seconds at its hundreds of codes
        few_references(monkeypatch)
    folder, _ = work(source)
    run = succeed("evaluate", folder / "model", "--dataset", folder / "dataset", "--output-dir", tmp_path / "out")
    metrics = read_metrics(tmp_path / "out" / "metrics.json")
    assert metrics["dataset"]["name"] == source
    assert metrics["dataset"]["patients"] == read_report(folder / "dataset")["splits"]["test"]["patients"] >= 3
    assert metrics["dataset"]["split"] == "test" and metrics["protocol"]["candidates"] == "cohort"
    test_patients = load_prepared(folder / "dataset")["test"]["patient_id"]
    assert metrics["dataset"]["split_sha256"] == split_hash(test_patients)
    assert metrics["run"]["recipe"] == "tiny-cpu/train" and metrics["run"]["seed"] == 0
    assert {"mera", "prevalence", "copy_history"} <= set(metrics["rankers"])
    told = {"shuffled_history", "shuffled_profile"}
    assert metrics["controls"].keys() == metrics["drops"].keys() == told
    assert names(tmp_path / "out") == {"metrics.json", "table.md", "report.html", "plots"}
    assert "R@20" in run.out and "copy history" in run.out
    memorized = json.loads((folder / "memorized" / "memorization.json").read_text())
    log = json.loads((folder / "memorized" / "memorize_run.json").read_text())
    assert log["seconds"] > 0 and log["hardware"]["device"] and log["tracker"] is None and log["log"][-1]["step"] > 0
    training = json.loads((folder / "model" / "training.json").read_text())
    assert training["memorization"] == memorized
    assert training["hardware"]["device"]
    assert metrics["findings"] == findings(metrics, training, memorized, read_config(folder))
    for finding in metrics["findings"]:
        assert finding["says"] in run.out and finding["knob"] in run.out
    assert f"written to {tmp_path / 'out'}: metrics.json, table.md, report.html, plots/" in run.out
    suggested = run.out.split("next: mera ")[1].strip()
    verb, checkpoint, option, visits = suggested.split(" ", 3)
    assert mera(verb, checkpoint, option, visits.strip('"')).status == 0, "the next command can be pasted"


def read_config(folder):
    return json.loads((folder / "model" / "config.json").read_text())


def test_evaluate_without_a_folder_writes_nothing_and_says_so(small, monkeypatch):
    few_references(monkeypatch)
    before = sorted(small.rglob("*"))
    run = succeed("evaluate", small / "model", "--dataset", small / "dataset", "--split", "validation")
    assert "nothing written" in run.out and sorted(small.rglob("*")) == before


def test_a_cohort_of_fewer_than_twenty_codes_is_measured_without_a_report(tmp_path, monkeypatch):
    few_references(monkeypatch)
    write_visits(tmp_path / "visits.csv", [row for row in visit_rows(90) if row[3] < "402"])
    succeed("prepare", "visits_csv", "--data-dir", tmp_path / "visits.csv", "--output-dir", tmp_path / "dataset")
    assert len(Prepared.open(tmp_path / "dataset").codes) == 11
    train(tmp_path / "dataset", tmp_path / "model", None, "--from-scratch", TINY)
    out = tmp_path / "out"
    run = succeed("evaluate", tmp_path / "model", "--dataset", tmp_path / "dataset", "--output-dir", out)
    assert names(out) == {"metrics.json", "table.md"}
    assert f"written to {out}: metrics.json, table.md\n" in run.out and "no report.html" in run.out


def test_an_encoder_decoder_goes_the_whole_way(small, tmp_path, monkeypatch):
    few_references(monkeypatch)
    size = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    t5 = ("--from-scratch", json.dumps({"model_type": "t5", **size}))
    dataset, memorized, model = small / "dataset", tmp_path / "memorized", tmp_path / "model"
    printed = memorize(dataset, memorized, *t5, "--groups", "false")
    assert "code to definition unseen" in printed.out and "Warning" not in printed.err
    start = ("--config", RECIPES / "tiny-cpu" / "train.yaml", "--dataset", dataset, "--model-name-or-path", memorized)
    refused = mera("train", *start, "--output-dir", tmp_path / "no")
    assert refused.status == 2 and "`positions='visit'` needs a decoder alone" in refused.err
    printed = train(dataset, model, memorized, "--positions", "token")
    assert "R@10" in printed.out and "Warning" not in printed.err
    printed = succeed("evaluate", model, "--dataset", dataset, "--output-dir", tmp_path / "out")
    metrics = read_metrics(tmp_path / "out" / "metrics.json")
    assert {"mera", "prevalence", "copy_history"} <= set(metrics["rankers"])
    ranking = json.loads(succeed("predict", model, "--visits", "401.9; 428.0", "--json").out)["ranking"]
    probabilities = [row["probability"] for row in ranking]
    assert len(probabilities) == min(20, len(Prepared.open(dataset).codes))
    assert 0 < min(probabilities) <= max(probabilities) < 1
