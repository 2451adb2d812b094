import copy
import json
import re

import pytest
from ranking_cases import metrics_dict

from mera_hf.configuration_mera import MeraConfig
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import spread
from mera_hf.evaluation.rankings.setting import protocol
from mera_hf.evaluation.results import (
    build_metrics,
    merge_metrics,
    merge_values,
    read_metrics,
    validate_metrics,
    write_metrics,
)


COMPARISON = {
    **{"a": "mera", "b": "gru", "metric": "recall@20", "difference": 0.017},
    **{"interval": [0.01, 0.03], "p": 0.002, "p_holm": 0.004},
}


def seeds(*values):
    runs = []
    for seed, value in enumerate(values):
        run = copy.deepcopy(metrics_dict())
        run["rankers"]["mera"]["recall@20"] = value
        run["run"] |= {"seed": seed, "seconds": 60.0 + seed}
        runs.append(run)
    return runs


def test_round_trip(tmp_path):
    metrics = build_metrics(**metrics_dict(), intervals={"mera": {"recall@20": [0.62, 0.66]}})
    metrics["comparisons"] = [COMPARISON, COMPARISON | {"difference": -0.017, "interval": [-0.03, -0.01]}]
    write_metrics(metrics, tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == metrics
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_bad_file_is_never_written_over_a_good_one(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(metrics_dict(), path)
    with pytest.raises(InputError, match="`rankers` is empty"):
        write_metrics(metrics_dict(rankers={}), path)
    with pytest.raises(TypeError):
        write_metrics(metrics_dict(run=metrics_dict()["run"] | {"recipe": object()}), path)
    assert read_metrics(path) == metrics_dict()
    assert len(list(tmp_path.iterdir())) == 1


def test_reading_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="nothing.json: cannot be read"):
        read_metrics(tmp_path / "nothing.json")
    (tmp_path / "half.json").write_text('{"dataset": {')
    with pytest.raises(InputError, match="half.json: is not JSON"):
        read_metrics(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="list.json: expected an object with dataset, protocol"):
        read_metrics(tmp_path / "list.json")


def change(path, value, metrics=None):
    metrics = copy.deepcopy(metrics or metrics_dict())
    *parents, last = path.split(".")
    place = metrics
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return metrics


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("protocol", None, "section `protocol` is missing"),
        ("dataset.fingerprint", None, "`dataset.fingerprint` is missing; use null"),
        ("run", [], "`run` must be an object"),
        ("extra", {}, "unknown section `extra`"),
        ("rankers.mera.recall@20", 64.1, "`rankers.mera.recall@20` is 64.1: fractions are expected, not percent"),
        ("rankers.mera.recall@20", float("nan"), "`rankers.mera.recall@20` must be a finite number, not nan"),
        ("rankers.mera.recall@20", "0.6", "must be a finite number, not '0.6'"),
        ("rankers.mera.recall@20", True, "must be a finite number, not True"),
        ("rankers.gru.weighted_f1", -0.1, "`rankers.gru.weighted_f1` is negative"),
        ("rankers.gru.f1", 0.1, "`rankers.gru.f1` is not a metric of this schema"),
        ("rankers.gru.recall@0", 0.1, "`rankers.gru.recall@0` is not a metric"),
        ("controls.shuffled_history.recall@20", 43.5, "`controls.shuffled_history.recall@20` is 43.5"),
        ("rankers.mera.recall@20", {"mean": 0.6}, "must have mean, std and values"),
        ("rankers.mera.recall@20", {"mean": 0.6, "std": 0.0, "values": [0.6]}, "fewer than two runs"),
        (
            "rankers.mera.recall@20",
            {"mean": 0.9, "std": 0.0, "values": [0.6, 0.6]},
            "mean is 0.9, but its values give",
        ),
        ("intervals", {"mera": {"recall@20": [0.7, 0.6]}}, "`intervals.mera.recall@20` has its ends swapped"),
        ("intervals", {"mera": {"recall@20": 0.6}}, r"must be \[low, high\], not 0.6"),
        ("intervals", {"chet": {}}, "`intervals.chet` names no ranker"),
        ("comparisons", {}, "`comparisons` must be a list"),
        ("comparisons", [{"a": "mera", "b": "gru"}], r"`comparisons\[0\]` must have a, b, metric, difference"),
        ("comparisons", [COMPARISON, COMPARISON | {"b": "chet"}], r"\[1\]` names no ranker with recall@20: 'chet'"),
        ("comparisons", [COMPARISON | {"metric": "map"}], "names no ranker with map: 'mera'"),
        ("comparisons", [COMPARISON | {"p": 1.2}], "its p-value is 1.2"),
        ("comparisons", [COMPARISON | {"difference": 2.4}], "`comparisons.0.`, its difference is 2.4: fractions"),
        ("comparisons", [COMPARISON | {"interval": [0.03, 0.01]}], "has its ends swapped"),
    ],
)
def test_the_validator_names_the_place(path, value, message):
    with pytest.raises(InputError, match=message):
        validate_metrics(change(path, value))


def test_merging_seeds():
    runs = seeds(0.64, 0.62, 0.66)
    merged = merge_metrics(runs)
    assert merged["rankers"]["mera"]["recall@20"] == {
        "mean": pytest.approx(0.64),
        "std": pytest.approx(0.02),
        "values": [0.64, 0.62, 0.66],
    }
    assert merged["run"]["seed"] == [0, 1, 2]
    assert merged["run"]["seconds"]["mean"] == 61.0
    assert merged["dataset"] == runs[0]["dataset"]
    validate_metrics(json.loads(json.dumps(merged)))


def broken_down():
    """Small breakdowns of every kind."""
    female = {"patients": 150, "true_codes": 420, "rankers": {"mera": {"recall@20": 0.6}}}
    held_out = {"best": "male", "worst": "female", "difference": -0.01, "interval": [-0.1, 0.05]}
    coarse = {"groups": 19, "patients": 321, "codes_without": 0, "true_codes_without": 0}
    return {
        "strata": {
            "sex": {
                "female": female | {"intervals": {"mera": {"recall@20": [0.5, 0.7]}}},
                "male": {"patients": "< 10"},
            }
        },
        "fairness": {
            "sex": {
                "recall@20": {"best": "male", "worst": "female", "gap": 0.02, "interval": [-0.01, 0.06]}
                | {"held_out": held_out}
            }
        },
        "coarse": {"chapter": coarse | {"rankers": {"mera": {"recall@5": 0.9}, "gru": {"recall@5": 0.8}}}},
        "distance": {"mera": {"wrong_codes": 900, "mean": 2.5, "same_chapter": 0.4, "eov": {"wrong_codes": 0}}},
        "heart_failure": {"skipped": "no candidate code is one of heart failure (428, I50)"},
    }


def test_breakdowns_pass_and_survive_a_round_trip(tmp_path):
    metrics = build_metrics(**metrics_dict(), **broken_down())
    write_metrics(metrics, tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json") == metrics


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "strata.sex.female.rankers.mera.recall@20",
            60.0,
            "`strata.sex.female.rankers.mera.recall@20` is 60.0: fractions",
        ),
        ("strata.sex.female.rankers.chet", {}, "`strata.sex.female.rankers` names no ranker: 'chet'"),
        ("strata.sex.female.intervals.mera.recall@20", [0.7, 0.5], "recall@20` has its ends swapped"),
        ("strata.sex.male.patients", None, "`strata.sex.male` does not say how many `patients`"),
        ("fairness.sex.recall@20.gap", -0.1, "`fairness.sex.recall@20.gap` is negative"),
        ("fairness.sex.recall@20.held_out.difference", -1.1, "held_out.difference` is negative"),
        ("coarse.chapter.groups", float("inf"), "`coarse.chapter.groups` must be a finite number"),
        ("distance.chet", {}, "`distance.chet` names no ranker"),
        ("distance.mera.eov.wrong_codes", -1, "`distance.mera.eov.wrong_codes` is negative"),
        ("heart_failure.rankers", {"mera": {"auc": True}}, "auc` must be a finite number, not True"),
    ],
)
def test_the_validator_looks_into_breakdowns(path, value, message):
    with pytest.raises(InputError, match=re.escape(message)):
        validate_metrics(change(path, value, metrics_dict(**broken_down())))


def test_merging_breakdowns():
    runs = seeds(0.64, 0.62)
    for run in runs:
        run.update(broken_down())
    runs[1]["strata"]["sex"]["female"]["rankers"]["mera"]["recall@20"] = 0.7
    runs[1]["fairness"]["sex"]["recall@20"] |= {"best": "female", "worst": "male", "gap": 0.04}
    runs[1]["distance"]["mera"]["wrong_codes"] = 1000
    del runs[1]["coarse"]
    merged = merge_metrics(runs)
    assert merged["strata"]["sex"] == {
        "female": {"patients": 150, "true_codes": 420, "rankers": {"mera": {"recall@20": spread([0.6, 0.7])}}},
        "male": {"patients": "< 10"},
    }
    # Whom the seeds serve worst differs, and an interval is that of one run
    held_out = {"best": "male", "worst": "female", "difference": spread([-0.01, -0.01])}
    assert merged["fairness"]["sex"]["recall@20"] == {"gap": spread([0.02, 0.04]), "held_out": held_out}
    assert merged["distance"]["mera"]["wrong_codes"]["values"] == [900, 1000]
    assert merged["heart_failure"] == broken_down()["heart_failure"] and "coarse" not in merged
    validate_metrics(json.loads(json.dumps(merged)))


def test_merging_values():
    bins = [[{"predicted": 0.1, "count": 5}], [{"predicted": 0.3, "count": 5}]]
    assert merge_values(bins) == [{"predicted": spread([0.1, 0.3]), "count": 5}]
    assert merge_values([{"a": [1, 2]}, {"a": [1, 2, 3]}]) == {}
    assert merge_values([{"a": 0.5}, {"a": "none"}]) == {}
    assert merge_values([0.5, 0.5]) == spread([0.5, 0.5])


def test_merging_what_does_not_belong_together():
    def differing(change):
        runs = seeds(0.64, 0.62)
        change(runs[1])
        return runs

    for change_run, message in (
        (
            lambda run: run["dataset"].update(fingerprint="other"),
            "differs from run 1 in `dataset.fingerprint`: 'other'",
        ),
        (lambda run: run["protocol"].update(candidates="tree"), "`protocol.candidates`"),
        (lambda run: run["run"].update(recipe="large.yaml"), "`run.recipe`: 'large.yaml' instead of 'tiny.yaml'"),
        (lambda run: run["run"].update(seed=0), "same seed"),
        (lambda run: run["rankers"].pop("gru"), "same `rankers` and metrics"),
    ):
        with pytest.raises(InputError, match=message):
            merge_metrics(differing(change_run))
    with pytest.raises(InputError, match="1 run, two or more"):
        merge_metrics(seeds(0.6))


def test_the_protocol_says_what_a_model_reads_and_ranks():
    codes = ["ICD9CM:250.00", "ICD9CM:401.9"]
    fields = {"code_token_start": 9, "id2label": dict(enumerate(codes))}
    config = MeraConfig(use_profile=False, **fields)
    assert protocol(config, codes) == {"target": "last", "candidates": "cohort", "history": "codes"}
    config = MeraConfig(history_text="code+description", use_profile=True, use_visit_text=True, **fields)
    assert protocol(config, codes[:1], "every visit") == {
        "target": "every visit",
        "candidates": "2 codes of the model",
        "history": "code+description + profile + text of visits",
    }
