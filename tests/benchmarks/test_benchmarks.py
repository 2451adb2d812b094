"""Every comparison runs, at a size where its ratio means nothing, and the README says what results.json says."""

import json
import math

import pytest
import torch
from benchmarks import adapters, layouts, loss, ranking, training
from benchmarks.__main__ import main
from benchmarks.cases import icd_codes, language_model, synthetic_patients
from benchmarks.rows import ROWS
from benchmarks.table import MARKS, README, RESULTS, SETTINGS, WORDS, markdown, met, settings
from benchmarks.timing import best_of
from cohort import write_visits

from mera_hf.data.prepare import prepare
from mera_hf.timeline_mera import TimelineEncoder
from mera_hf.training.fused_loss import FusedLoss


SMALL = {"codes": 60, "width": 32, "layers": 1, "repeat": 1}
TINY = {
    "timeline": lambda: layouts.timeline(patients=3, **SMALL),
    "tree": lambda: layouts.tree(patients=2, orders=2, **SMALL),
    "loss-1024x14567": lambda: loss.against_products(8, 60, width=16, repeat=1),
    "loss-4096x4900": lambda: loss.against_products(16, 40, width=16, repeat=1),
    "loss-512x74719": lambda: loss.against_products(8, 80, "ICD10CM", width=16, repeat=1),
    "loss-bias-history": lambda: loss.against_products(8, 60, width=16, extras=True, repeat=1),
    "loss-wide": lambda: loss.against_products(8, 60, width=64, repeat=1),
    "memory-2048x14567": lambda: loss.memory(2_048, 2_000, width=16),
    "rank-generate": lambda: ranking.generate(patients=1, tokens=2, **SMALL),
    "rank-descriptions": lambda: ranking.descriptions(patients=1, scored=4, **SMALL),
    "rank-sorted": lambda: ranking.sorted_batches(patients=6, batch_size=2, **SMALL),
    "lora": lambda: adapters.lora_step(2, tokens=16, words=200, codes=60, width=32, layers=1, repeat=1),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(name: str, outcome: tuple[float, str]):
    ratio, setting = outcome
    assert math.isfinite(ratio) and ratio > 0
    assert " / " in setting and ROWS[name].better in ("higher", "lower")


@pytest.mark.parametrize("name", TINY)
def test_a_comparison_runs(name):
    check(name, TINY[name]())


def test_the_comparison_of_trainings_runs(tmp_path):
    dataset = tmp_path / "dataset"
    prepare("visits_csv", data_dir=write_visits(tmp_path / "visits.csv"), output_dir=dataset)
    options = ("--per-device-train-batch-size", "8", "--use-cpu")
    check("training", training.trainer(dataset, steps=2, overrides=options, repeat=1))
    with pytest.raises(ValueError, match="more than an epoch"):
        training.trainer(dataset, steps=100, overrides=options, repeat=1)


def test_every_comparison_is_run_here():
    same = {"memory-1024x74719"}  # starts two processes, as the other one of its kind
    assert {*TINY, *same, "training"} == set(ROWS)


def test_the_shortest_time_of_each_call_counts_and_the_first_round_does_not(monkeypatch):
    clock, order = [0.0], []
    durations = {"a": iter([0.1, 5.0, 3.0]), "b": iter([0.2, 2.0, 4.0])}

    def call(name):
        order.append(name)
        clock[0] += next(durations[name])

    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: clock[0])
    times = best_of({name: lambda name=name: call(name) for name in durations}, repeat=2)
    assert order == ["a", "b"] * 3
    assert times == pytest.approx({"a": 3.0, "b": 2.0})


def test_both_sides_of_the_memory_comparison_compute_the_same():
    case = loss.Case.make(24, 60, "ICD9CM", 16, extras=True)
    plain = case.plain_step()
    gradients = case.hidden.grad.clone(), case.rows.grad.clone()
    assert case.step(FusedLoss(case.hierarchy, case.losses, 1.0)) == pytest.approx(plain, rel=1e-5)
    for ours, theirs in zip((case.hidden.grad, case.rows.grad), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert all(len(set(visit)) == loss.VISIT and max(visit) < 60 for visit in case.targets.codes.T.tolist())


def test_prefixes_and_branches_are_what_they_are_cut_from():
    codes = icd_codes("ICD9CM", 40)
    model, tokenizer = language_model(codes, 32, 1)
    encoder = TimelineEncoder(model.config, tokenizer)
    (row,) = synthetic_patients(1, codes, visits=[3], fewest=2, most=2)
    timeline, tree = encoder.encode(row), encoder.encode_tree(row, orders=2)
    prefixes = layouts.prefixes(timeline)
    assert len(prefixes) == 6  # two visits to predict, each before, between and behind its two codes
    assert prefixes[-1].input_ids == timeline.input_ids[:-1] and prefixes[0].decisions == [timeline.decisions[0]]
    singles = layouts.branches(tree)
    assert len(singles) == 4 and all(single.decision_given == [0, 1, 2] for single in singles)
    assert singles[0].input_ids == singles[1].input_ids == timeline.input_ids[: len(singles[0].input_ids)]
    assert singles[-1].positions == timeline.positions[:-1]


def test_likelihood_behind_a_cache_is_that_of_the_whole_text():
    model, tokenizer = language_model(icd_codes("ICD9CM", 40), 32, 1)
    language_model_ = model.language_model.eval()
    prompt, texts = [5, 6, 7, 8], [[9, 10, 11], [12], [13, 14]]
    with torch.no_grad():
        history = language_model_(torch.tensor([prompt]), use_cache=True)
        found = ranking.text_likelihoods(language_model_, history, texts)
        for text, likelihood in zip(texts, found, strict=True):
            shares = language_model_(torch.tensor([prompt + text])).logits[0].log_softmax(-1)
            wanted = sum(shares[len(prompt) - 1 + at, token] for at, token in enumerate(text))
            assert float(likelihood) == pytest.approx(float(wanted), abs=1e-4)


def test_results_have_their_form():
    results = json.loads(RESULTS.read_text())
    assert list(results) == list(ROWS)
    for name, entry in results.items():
        assert set(entry) == {"ratio", "goal", "better", "setting"}
        assert isinstance(entry["ratio"], float) and entry["ratio"] > 0
        assert (entry["goal"], entry["better"]) == (ROWS[name].goal, ROWS[name].better)
        assert entry["setting"].endswith(("thread", "threads"))


def test_the_tables_are_those_of_the_results():
    results = json.loads(RESULTS.read_text())
    table = README.read_text().split(MARKS[0])[1].split(MARKS[1])[0]
    assert table.strip() == markdown(results) and list(WORDS) == list(ROWS)
    assert SETTINGS.read_text() == settings(results)


def test_goals_are_met_from_either_side():
    entry = {"ratio": 2.0, "goal": 2.0, "better": "higher", "setting": "a / b"}
    assert met(entry) and met({**entry, "better": "lower"})
    assert not met({**entry, "ratio": 1.9}) and not met({**entry, "ratio": 2.1, "better": "lower"})
    missed = {"lora": {**entry, "ratio": 1.9}}
    assert f"at least 2 (missed) | {WORDS['lora']} |" in markdown(missed) and "- `lora`: a / b" in settings(missed)


def test_an_unknown_comparison_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["nonsense"])
    assert "'nonsense' is not a comparison; they are timeline, tree" in capsys.readouterr().err
