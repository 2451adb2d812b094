"""The recipe for peers: what leaves for PyHealth, what its script computes, and what comes back. PyHealth is not needed."""

import ast
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mera_hf.data.prepared import Prepared, load_prepared
from mera_hf.data.samples import Sample, prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores
from mera_hf.evaluation.rankings.reference import fit_threshold


FOLDER = Path(__file__).parents[1] / "recipes" / "peers"


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


exporting, ranking = load_script("export"), load_script("pyhealth_rank")


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers") / "export"
    counts = exporting.export(dataset, folder)
    rows = pq.read_table(folder / "visits.parquet").to_pylist()
    assert counts == {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")}
    return rows, json.loads((folder / "codes.json").read_text())


def test_the_export_is_the_split_without_the_visits_to_predict(dataset, exported):
    rows, codes = exported
    expected = [
        {
            "patient_id": patient["patient_id"],
            "split": split,
            "profile": patient["profile"],
            "visits": [visit["codes"] for visit in patient["visits"]][: -1 if split == "test" else None],
        }
        for split, patients in load_prepared(dataset).items()
        for patient in patients
    ]
    assert rows == expected
    assert codes == Prepared.open(dataset).codes


def test_the_samples_are_those_of_the_reference_rankers(dataset, exported):
    rows, codes = exported
    prepared = load_prepared(dataset)
    for split, target in (("train", "every"), ("validation", "last"), ("test", "last")):
        expected = [
            {
                "patient_id": prepared[split][sample.patient]["patient_id"],
                "history": [[codes[code] for code in visit] for visit in sample.history],
                "target": [] if split == "test" else [codes[code] for code in sample.target],
            }
            for sample in prediction_samples(prepared[split], codes, target)
        ]
        assert ranking.make_samples(rows, split) == expected
        assert expected


def test_the_export_overwrites_nothing(dataset, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="`output_dir` .* is not empty; choose another folder"):
        exporting.export(dataset, tmp_path)
    monkeypatch.setattr(sys, "argv", ["export.py", "--dataset", str(tmp_path), "--output-dir", str(tmp_path / "new")])
    assert exporting.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.fixture
def scored():
    """Scores with ties of 60 patients for 40 codes, and the true codes as a matrix and as samples."""
    rng = np.random.default_rng(0)
    scores = rng.choice(np.linspace(-3, 3, 50), size=(60, 40)).astype(np.float32)
    truth = (rng.random((60, 40)) < 0.1).astype(np.float32)
    truth[:, 0] = 1  # every patient has a code
    samples = [Sample(i, [], row.nonzero()[0].tolist(), {}) for i, row in enumerate(truth)]
    return scores, truth, samples


def test_ranks_and_measures_as_we_do(scored):
    scores, truth, samples = scored
    np.testing.assert_array_equal(ranking.rank(scores), order_from_scores(scores))
    expected = evaluate_ranking(order_from_scores(scores), None, samples, (20,))["recall@20"]
    assert ranking.recall(scores, truth) == pytest.approx(expected)


def test_the_threshold_is_the_one_we_fit(scored):
    scores, truth, samples = scored
    assert ranking.fit_threshold(scores, truth) == fit_threshold(scores, samples)


def test_rankings_are_written_in_the_format_of_predict(tmp_path):
    logits = np.array([[0.0, 2.0, -1.0], [1.0, 1.0, 3.0]], dtype=np.float32)
    ranking.write_rankings(["p1", "p2"], ["A", "B", "C"], logits, 1.0, tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert [str(field.type).replace("element", "item") for field in table.schema] == [
        "string",
        "list<item: string>",
        "list<item: float>",
        "int32",
    ]
    first, second = table.to_pylist()
    assert (first["patient_id"], first["codes"], first["set_size"]) == ("p1", ["B", "A", "C"], 1)
    assert (second["patient_id"], second["codes"], second["set_size"]) == ("p2", ["C", "A", "B"], 3)
    assert first["probabilities"] == pytest.approx([1 / (1 + np.exp(-2)), 0.5, 1 / (1 + np.exp(1))])
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_the_script_needs_nothing_of_ours():
    tree = ast.parse((FOLDER / "pyhealth_rank.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    required = {line.split("==")[0] for line in (FOLDER / "requirements.txt").read_text().splitlines() if "==" in line}
    assert imported - sys.stdlib_module_names == required


def test_the_shell_script_is_read_by_bash():
    subprocess.run(["bash", "-n", str(FOLDER / "peers.sh")], check=True)


def test_the_log_is_of_these_settings_and_holds_every_run():
    runs = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    pins = dict(line.split("==") for line in (FOLDER / "requirements.txt").read_text().splitlines() if "==" in line)
    for run in runs:
        assert run["settings"] == ranking.SETTINGS
        assert {name: run["versions"][name] for name in pins} == pins
        curve = run["validation_recall@20"]
        assert run["epochs_trained"] == len(curve) and run["epoch_chosen"] == 1 + curve.index(max(curve))
        assert run["validation_recall_chosen"] == pytest.approx(max(curve), abs=1e-5)
        assert len(curve) in (run["epoch_chosen"] + ranking.SETTINGS["patience"], ranking.SETTINGS["epochs"])
    names = [(run["model"], run["output_bias"], run["seed"]) for run in runs]
    assert sorted(names) == sorted(itertools.product(ranking.MODELS, ranking.STARTS, range(3)))
