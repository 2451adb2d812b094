"""`evaluate.load` of the metric module, from its folder and from its file, without a network."""

import doctest
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
from ranking_cases import random_orders, random_samples

import mera_hf
from mera_hf.data.samples import Sample
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import evaluate_ranking


FOLDER = Path(mera_hf.__file__).parent / "evaluation" / "metric" / "mera_ranking"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "metrics"))


@pytest.fixture
def metric():
    return evaluate.load(str(FOLDER), keep_in_memory=True)


def as_words(order, samples):
    """The same case in codes: rankings, true codes and histories."""
    return (
        [[f"C{code}" for code in row] for row in order.tolist()],
        [[f"C{code}" for code in sample.target] for sample in samples],
        [[f"C{code}" for visit in sample.history for code in visit] for sample in samples],
    )


@pytest.mark.parametrize("path", [FOLDER, FOLDER / "mera_ranking.py"])
@pytest.mark.parametrize("width", [30, 14])
def test_equals_evaluate_ranking(path, width):
    rng = np.random.default_rng(width)
    samples = random_samples(rng)
    order = random_orders(rng, samples)[:, :width]
    sizes = rng.integers(0, 9, size=len(samples))
    rankings, truth, histories = as_words(order, samples)
    got = evaluate.load(str(path), keep_in_memory=True).compute(
        predictions=rankings, references=truth, histories=histories, set_sizes=sizes.tolist(), ks=(3, 10)
    )
    assert got == pytest.approx(evaluate_ranking(order, sizes, samples, (3, 10)), abs=1e-12)


def test_without_histories_and_set_sizes_their_metrics_are_left_out(metric):
    rng = np.random.default_rng(0)
    samples = random_samples(rng)
    order = random_orders(rng, samples)
    rankings, truth, histories = as_words(order, samples)
    bare = metric.compute(predictions=rankings, references=truth)
    assert "recall@20" in bare and "weighted_f1" in bare
    whole = evaluate_ranking(order, None, samples, (10, 20))
    assert bare == pytest.approx({name: whole[name] for name in bare})
    with_histories = metric.compute(predictions=rankings, references=truth, histories=histories)
    assert with_histories == pytest.approx(whole)
    missing = {"repeated_recall", "new_recall", "occurred", "not_occurred"}
    assert whole.keys() - bare.keys() == {f"{name}@{k}" for name in missing for k in (10, 20)}


@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_rankings_may_come_in_parts(keep_in_memory):
    rng = np.random.default_rng(1)
    samples = random_samples(rng, patients=9)
    order = random_orders(rng, samples)
    rankings, truth, histories = as_words(order, samples)
    metric = evaluate.load(str(FOLDER), keep_in_memory=keep_in_memory)
    expected = evaluate_ranking(order, np.full(9, 2), samples, (5,))
    for _ in range(2):  # the second time from the start again
        metric.add(prediction=rankings[0], reference=truth[0])
        metric.add_batch(predictions=rankings[1:6], references=truth[1:6])
        metric.add_batch(predictions=rankings[6:], references=truth[6:])
        assert metric.compute(histories=histories, set_sizes=[2] * 9, ks=(5,)) == pytest.approx(expected)


def test_a_true_code_outside_the_ranking_is_missed_and_a_repetition_counts_once(metric):
    got = metric.compute(predictions=[["a", "b", "c"]], references=[["a", "x", "a"]], histories=[["x"]], ks=(3,))
    assert (got["recall@3"], got["repeated_recall@3"], got["new_recall@3"]) == (0.5, 0, 0.5)
    sample = Sample(0, [[3]], [0, 3], {})
    assert got == pytest.approx(evaluate_ranking(np.array([[0, 1, 2]]), None, [sample], (3,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": [["a", "b"], ["b", "b"]]}, "`predictions`, patient 1: 'b' is ranked twice"),
        ({"predictions": [["a", "b"], ["b"]]}, "`predictions`, patient 1: 1 ranked codes, but patient 0 has 2"),
        ({"references": [["a"], []]}, "`references`, patient 1: no true code"),
        ({"references": [["a"], ["a", "b", "c"]]}, "one patient has 3 true codes: rank more"),
        ({"ks": (1, 3)}, "k=3 is not between 1 and 2"),
        ({"ks": (0,)}, "k=0 is not between 1 and 2"),
        ({"set_sizes": [1]}, "`set_sizes` has 1 entries, but 2 patients are ranked"),
        ({"set_sizes": [1, 3]}, "whole numbers between 0 and 2"),
        ({"histories": [["a"]]}, "`histories` has 1 entries, but 2 patients are ranked"),
        (
            {"histories": [["a"], [["b"], ["a"]]]},
            "`histories`, patient 1: give one list of codes, .* not a list of visits",
        ),
        ({"histories": [["a"], "b"]}, "`histories`, patient 1: give one list of codes, .* not a string"),
        ({"predictions": [], "references": []}, "`predictions` is empty"),
    ],
)
def test_what_is_refused(metric, arguments, message):
    good = {"predictions": [["a", "b"], ["b", "a"]], "references": [["a"], ["a"]], "ks": (1, 2)}
    with pytest.raises(InputError, match=message):
        metric.compute(**good | arguments)
    assert metric.compute(**good)["recall@1"] == 0.5  # nothing of the refused call is left


@pytest.mark.parametrize(
    "arguments",
    [
        {"predictions": ["a", "b"]},
        {"references": ["a", "b"]},
        {"predictions": [[["a"], ["b"]], [["b"], ["a"]]]},
        {"references": [["a"], [["a"], ["b"]]]},
        {"references": [[1], [2]]},
    ],
)
def test_wrong_nesting_is_refused(metric, arguments):
    good = {"predictions": [["a", "b"], ["b", "a"]], "references": [["a"], ["a"]]}
    with pytest.raises(ValueError, match="expected"):
        metric.compute(**good | arguments, ks=(1,))


def test_the_documented_example_runs(metric, monkeypatch):
    monkeypatch.chdir(Path(mera_hf.__file__).parents[1])
    examples = doctest.DocTestParser().get_doctest(metric.inputs_description, {}, "example", None, 0)
    assert len(examples.examples) == 4
    outcome = doctest.DocTestRunner().run(examples)
    assert outcome.failed == 0


def test_the_card_names_every_argument(metric):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("predictions", "references", "histories", "set_sizes", "ks", "keep_in_memory"):
        assert f"`{name}" in card and name in metric.inputs_description


def test_evaluate_names_the_package_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "mera_hf", None)
    with pytest.raises(ImportError, match=r"install the following dependencies\['mera_hf'\]"):
        evaluate.load(str(FOLDER))
