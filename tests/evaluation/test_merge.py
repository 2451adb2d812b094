"""Seeds put together."""

import json

import pytest

from mera_hf.errors import InputError
from mera_hf.evaluation.merge import merge_evaluations
from mera_hf.evaluation.results import read_metrics, write_metrics


def one_run(folder, seed, recall):
    figures = {"recall@10": recall, "recall@20": recall + 0.1, "weighted_f1": 0.2}
    metrics = {
        "dataset": {"name": "toy", "fingerprint": "0", "split": "test", "patients": 3, "codes": 4},
        "protocol": {"target": "last", "candidates": "cohort", "history": "codes"},
        "rankers": {"mera": figures, "prevalence": {"recall@10": 0.1, "recall@20": 0.2, "weighted_f1": 0.05}},
        "controls": {},
        "run": {"recipe": "toy/train", "seed": seed, "versions": {}, "seconds": 1.0, "peak_memory_mb": 1},
    }
    folder.mkdir()
    write_metrics(metrics, folder / "metrics.json")
    return folder


def test_merging_writes_the_spread_and_its_table(tmp_path):
    folders = [one_run(tmp_path / str(seed), seed, recall) for seed, recall in enumerate((0.5, 0.52, 0.54))]
    merge_evaluations(tmp_path / "merged", folders)
    merged = read_metrics(tmp_path / "merged" / "metrics.json")
    assert merged["rankers"]["mera"]["recall@10"]["mean"] == pytest.approx(0.52)
    assert merged["rankers"]["mera"]["recall@10"]["std"] == pytest.approx(0.02)
    assert merged["run"]["seed"] == [0, 1, 2]
    assert "52.0 ± 2.0" in (tmp_path / "merged" / "table.md").read_text()
    assert (tmp_path / "merged" / "quality.png").stat().st_size > 1000


def test_merging_refuses_runs_on_other_data(tmp_path):
    folders = [one_run(tmp_path / str(seed), seed, 0.5) for seed in range(2)]
    changed = json.loads((folders[1] / "metrics.json").read_text())
    changed["dataset"]["fingerprint"] = "1"
    (folders[1] / "metrics.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="dataset.fingerprint"):
        merge_evaluations(tmp_path / "merged", folders)
    assert not (tmp_path / "merged").exists()
