"""Results for the Hub and the benchmark that they are of: the right values, the right patients, the files of the dataset."""

import hashlib
import json

import pytest
import yaml
from full_metrics import full_metrics
from huggingface_hub import DatasetCard, parse_eval_result_entries
from ranking_cases import metrics_dict

from mera_hf.data.prepare import prepare
from mera_hf.data.splits import random_split, split_hash
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import COLUMNS, spread
from mera_hf.hub.benchmark import (
    FOLDER,
    REPO,
    check_benchmark,
    definition,
    expected_splits,
    on_benchmark,
    only_ranker,
    prepared_splits,
    tasks,
    write_benchmark,
)
from mera_hf.hub.dataset_card import TASKS, dataset_card
from mera_hf.hub.eval_results import eval_results_files, model_index_results


PATH = ".eval_results/diabetes130-next-visit.yaml"


def benchmark_metrics(**overrides):
    """Metrics that claim to be measured on the benchmark."""
    expected = expected_splits()
    test = expected["splits"]["test"]
    dataset = {"name": "diabetes130", "fingerprint": expected["fingerprint"], "split": "test", "codes": 793}
    dataset |= {"patients": test["patients"], "split_sha256": test["sha256"]}
    return full_metrics(0) | {"dataset": dataset | overrides}


def entries(metrics, *args, **kwargs):
    files = eval_results_files(metrics, *args, **kwargs)
    assert list(files) == [PATH]
    return {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(files[PATH]))}


def test_tasks_are_metrics_with_words():
    assert list(tasks()) == list(TASKS) and list(tasks().values()) == [
        *("recall@20", "recall@10", "weighted_f1", "weighted_f1_eov", "new_recall@20")
    ]
    assert set(tasks().values()) <= set(COLUMNS)
    assert all(task.keys() == {"id", "config", "split"} and task["split"] == "test" for task in definition()["tasks"])
    assert set(definition()) == {"name", "description", "tasks"}, "no framework: the Hub has none for this scorer"
    assert "percent" in definition()["description"]


def test_values_are_percent_and_the_client_reads_them():
    metrics = benchmark_metrics()
    found = entries(metrics, "org/model", "c0ffee")
    assert list(found) == list(tasks())
    for task, metric in tasks().items():
        assert found[task].value == round(100 * metrics["rankers"]["mera"][metric], 2)
        assert found[task].dataset_id == REPO
    notes = found["recall-at-20"].notes
    low, high = (round(100 * end, 2) for end in metrics["intervals"]["mera"]["recall@20"])
    for part in (
        *(
            "percent",
            f"95 % interval over patients {low} to {high}",
            "seed 0",
            "recipe tiny-cpu/train",
            "codes + profile",
        ),
        *(f"fingerprint {expected_splits()['fingerprint']}", "model revision c0ffee", "torch 2.13.0"),
        "mera evaluate org/model --dataset DIR",
    ):
        assert part in notes
    assert metrics["dataset"]["split_sha256"][:16] in notes


def test_seeds_are_named_with_their_spread():
    metrics = benchmark_metrics()
    metrics["rankers"]["mera"]["recall@20"] = spread([0.65, 0.66, 0.67])
    metrics["run"]["seed"] = [0, 1, 2]
    del metrics["intervals"]
    entry = entries(metrics)["recall-at-20"]
    assert entry.value == 66.0
    assert "66.0 ± 1.0, mean and standard deviation of 3 seeds; seed 0, 1, 2" in entry.notes


def test_a_compared_ranker_has_the_command_that_measured_it():
    metrics = benchmark_metrics()
    metrics["rankers"]["retain"] = metrics["rankers"].pop("mera")
    metrics["protocol"]["history"] = "that of each ranker"
    assert only_ranker(metrics) == "retain"
    notes = entries(metrics, "org/retain", ranker="retain")["recall-at-10"].notes
    assert "mera compare RANKINGS.parquet --dataset DIR" in notes and "seed" not in notes
    metrics["rankers"]["other"] = metrics["rankers"]["retain"]
    with pytest.raises(InputError, match="2 rankers beside the references: retain, other.*--ranker NAME"):
        only_ranker(metrics)
    metrics["rankers"] = {"gru": metrics["rankers"]["gru"]}
    with pytest.raises(InputError, match="reference rankers alone"):
        only_ranker(metrics)


@pytest.mark.parametrize(
    "key, value, says",
    [
        ("name", "mimic4", "`dataset.name` is 'mimic4', and 'diabetes130' in the benchmark"),
        ("split", "validation", "Evaluate with `--split test`"),
        ("fingerprint", "0123456789abcdef", "Prepare the data with `mera prepare diabetes130"),
        ("split_sha256", None, "Evaluate again with this version"),
        ("split_sha256", "ab" * 32, "`dataset.split_sha256` is 'abab"),
        ("patients", 100, "`dataset.patients` is 100, and 3356"),
        ("codes", 794, "`dataset.codes` is 794, and 793"),
    ],
)
def test_other_patients_are_refused_with_the_fix(key, value, says):
    metrics = benchmark_metrics(**{key: value})
    with pytest.raises(InputError, match=says):
        check_benchmark(metrics)
    assert eval_results_files(metrics) == {} and not on_benchmark(metrics)


def test_other_protocols_and_missing_figures_are_refused():
    assert on_benchmark(benchmark_metrics())
    metrics = benchmark_metrics()
    metrics["protocol"]["target"] = "every visit from the second on"
    with pytest.raises(InputError, match="`protocol.target`"):
        check_benchmark(metrics)
    metrics = benchmark_metrics()
    metrics["protocol"]["candidates"] = "14567 codes of the model"
    with pytest.raises(InputError, match="candidates: cohort"):
        check_benchmark(metrics)
    metrics = benchmark_metrics()
    del metrics["rankers"]["mera"]["weighted_f1_eov"]
    with pytest.raises(InputError, match="`rankers.mera` lacks weighted_f1_eov"):
        check_benchmark(metrics)
    with pytest.raises(InputError, match="`retain` is not measured here; choose one of mera, prevalence"):
        check_benchmark(metrics, "retain")


def test_the_model_index_names_the_data_that_were_used():
    own = {result.dataset_type for result in model_index_results(metrics_dict())}
    benchmark = {result.dataset_type for result in model_index_results(benchmark_metrics())}
    assert own == {"synthetic"} and benchmark == {REPO}
    few = metrics_dict()
    del few["rankers"]["mera"]["recall@20"]  # a data set of fewer than 20 codes
    assert "R@20, percent" not in {result.metric_name for result in model_index_results(few)}


def test_a_split_hash_depends_on_the_patients_alone():
    patients = ["b", "a", "10"]
    digest = hashlib.sha256(b"10\na\nb\n").hexdigest()
    assert split_hash(patients) == split_hash(reversed(patients)) == digest
    assert split_hash(["a", "b"]) != split_hash(["a", "b", "10"]) and split_hash(["ab"]) != split_hash(["a", "b"])


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "diabetes130"
    prepare("diabetes130", output_dir=folder)
    return folder


def test_the_package_prepares_the_benchmark(diabetes):
    found = prepared_splits(diabetes)
    assert found == expected_splits()
    import pyarrow.parquet as pq

    test = pq.read_table(diabetes / "data" / "test.parquet", columns=["patient_id"])["patient_id"].to_pylist()
    assert {random_split(patient, 0) for patient in test[:50]} == {"test"}
    lines = "".join(f"{patient}\n" for patient in sorted(test))
    assert hashlib.sha256(lines.encode()).hexdigest() == found["splits"]["test"]["sha256"]


def test_the_dataset_repository_is_written_into_the_prepared_folder(diabetes):
    before = dataset_card(diabetes, "me/copy")
    assert "## Benchmark" not in before and 'load_dataset("me/copy")' in before
    assert write_benchmark(diabetes) == ["eval.yaml", "splits.yaml", "README.md"]
    for name in ("eval.yaml", "splits.yaml"):
        assert (diabetes / name).read_bytes() == (FOLDER / name).read_bytes()
    card = (diabetes / "README.md").read_text()
    assert DatasetCard(card).data.license == "cc-by-4.0"
    assert card.count("## Benchmark: Diabetes 130 next-visit diagnosis") == card.count("## How to load") == 1
    for task in tasks():
        assert f"| `{task}` |" in card
    assert "do not try to identify anybody" in card and "base_model" in card
    assert dataset_card(diabetes, REPO) == card, "writing it again changes nothing"
    patient = json.loads((diabetes / "codes.json").read_text())[0]["code"]
    assert patient.startswith("ICD9CM:")


def test_other_rows_are_not_the_benchmark(tmp_path):
    prepare("diabetes130", output_dir=tmp_path / "sample", sample=300)
    with pytest.raises(InputError, match="has other rows than the benchmark"):
        write_benchmark(tmp_path / "sample")
    assert not (tmp_path / "sample" / "eval.yaml").exists()
    (tmp_path / "sample" / "README.md").write_text("mine")
    with pytest.raises(InputError, match="has no section 'Terms and privacy'"):
        dataset_card(tmp_path / "sample", "a/b")
