import copy
import dataclasses
import re

import numpy as np
import pytest
from ranking_cases import metrics_dict
from scipy.special import expit, softmax
from sklearn.metrics import brier_score_loss
from tiny import CODES, patients, tiny_mera

from mera_hf.blocks import plots_of
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.conformal import fit_conformal
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.rankings.ranked import Cut
from mera_hf.evaluation.results import build_metrics, read_metrics, validate_metrics, write_metrics
from mera_hf.evaluation.sections import calibration, coverage
from mera_hf.training.calibrate import calibrate, measure


def measured_of(model, tokenizer, ranking, samples, validation, **options):
    other = rank_samples(model, tokenizer, validation)
    return calibration.measure(model.config, ranking, samples, other, validation, **options)


@pytest.fixture(scope="module")
def measured():
    """A model calibrated on some patients, its section on others, and what it ranked."""
    model, tokenizer = tiny_mera("llama")
    rows = patients(60, seed=1)
    calibrate(model, tokenizer, rows, rerank_depth=6)
    fit_conformal(model, tokenizer, rows)
    validation, samples = (prediction_samples(chosen, CODES) for chosen in (rows, patients(80, seed=2)))
    ranking = rank_samples(model, tokenizer, samples)
    section = measured_of(model, tokenizer, ranking, samples, validation)
    return model, tokenizer, validation, samples, ranking, section


def table(ranking, samples, values):
    """Values in the order of the codes, and the truth, both flat."""
    dense = np.zeros((len(samples), len(CODES)), dtype=np.float32)
    np.put_along_axis(dense, ranking.order, values, axis=1)
    truth = np.zeros(dense.shape, dtype=bool)
    for row, sample in enumerate(samples):
        truth[row, sample.target] = True
    return dense, truth


def test_the_figures_are_those_of_the_probabilities(measured):
    *_, samples, ranking, section = measured
    margins = ranking.logits - ranking.eov_logits[:, None]
    temperature, offset = section["temperature"]["temperature"], section["temperature"]["offset"]
    for name, values in {
        "codes": ranking.probabilities,
        "before": expit(margins),
        "softmax": softmax(ranking.logits, axis=-1),
        "temperature": expit((margins - offset) / temperature),
    }.items():
        p, y = table(ranking, samples, values)
        assert section[name]["brier"] == pytest.approx(brier_score_loss(y.ravel(), p.ravel()), rel=1e-4)
        # Fewer codes than 40: the first 40 are all
        assert section[name]["first"] == {key: section[name][key] for key in ("ece", "brier", "bins")}
    assert section["codes"]["ece"] < section["before"]["ece"] and section["improvement"]["first"]["interval"][0] > 0
    inside = np.arange(len(CODES)) < ranking.set_sizes[:, None]
    hits = np.array(
        [[code in sample.target for code in row] for row, sample in zip(ranking.order, samples, strict=True)]
    )
    assert section["set"]["actual"] == pytest.approx((hits & inside).sum() / len(samples))
    assert section["set"]["expected"] == pytest.approx(ranking.probabilities[inside].sum() / len(samples), rel=1e-5)
    p, y = ranking.probabilities[inside], hits[inside]
    assert section["set"]["brier"] == pytest.approx(brier_score_loss(y, p), rel=1e-4)


def test_calibration_alone_leaves_the_ranking_and_recall(measured):
    """A temperature and an offset are the six weights (1 / T, 0, 0, 0, 0, -b / T): no order changes without `rerank_depth`."""
    model, tokenizer, _, samples, _, section = measured
    plain, warm = copy.deepcopy(model), copy.deepcopy(model)
    for each in (plain, warm):
        each.config.rerank_depth = 0
        each.ranking_head.value_weight.fill_(1.0)
        each.ranking_head.value_threshold.zero_()
    plain.config.calibration = None
    slope = 1 / section["temperature"]["temperature"]
    warm.config.calibration = [slope, 0.0, 0.0, 0.0, 0.0, -slope * section["temperature"]["offset"]]
    ours, theirs = rank_samples(warm, tokenizer, samples), rank_samples(plain, tokenizer, samples)
    assert np.array_equal(ours.order, theirs.order) and not np.allclose(ours.probabilities, theirs.probabilities)
    p, y = table(ours, samples, ours.probabilities)
    assert brier_score_loss(y.ravel(), p.ravel()) == pytest.approx(section["temperature"]["brier"], rel=1e-4)
    assert np.array_equal(ours.probabilities, -np.sort(-ours.probabilities, axis=1))
    ranked = [measure(ranking, samples) for ranking in (ours, theirs)]
    assert all(ranked[0][name] == ranked[1][name] for name in ranked[0] if "eov" not in name and "set" not in name)


def test_conformal_sets_of_the_checkpoint_are_measured(measured):
    model, tokenizer, validation, samples, ranking, section = measured
    assert section["conformal"]["source"] == "checkpoint" and section["conformal"]["patients_fitted"] == 60
    entry = section["conformal"]["visits"]["0.8"]
    assert entry["threshold"] == model.config.conformal["visits"]["0.8"]
    shares, truth = table(ranking, samples, softmax(ranking.logits, axis=-1))
    missed = (truth & (shares < np.float32(entry["threshold"]))).any(1)
    assert entry["reached"] == pytest.approx(1 - missed.mean())
    older = copy.deepcopy(model)
    older.config.conformal = None
    again = measured_of(older, tokenizer, ranking, samples, validation)["conformal"]
    assert again["source"] == "evaluation" and again["visits"]["0.8"]["reached"] == entry["reached"]
    assert older.config.conformal is None


def test_eov_is_compared_with_sizes(measured):
    *_, samples, ranking, section = measured
    correlations = section["severity"]["correlations"]
    assert list(correlations) == ["eov_probability", "set_size", "expected_codes"]
    for row in correlations.values():
        assert {"true_size", "history_codes"} <= set(row)
    from scipy.stats import spearmanr

    together = softmax(np.hstack([ranking.logits, ranking.eov_logits[:, None]]), axis=-1)[:, -1]
    sizes = [len(sample.target) for sample in samples]
    assert correlations["eov_probability"]["true_size"]["rho"] == pytest.approx(spearmanr(together, sizes).statistic)
    expected = ranking.probabilities.sum(-1)
    assert correlations["expected_codes"]["true_size"]["rho"] == pytest.approx(spearmanr(expected, sizes).statistic)


def test_few_patients_say_less_or_nothing(measured):
    model, tokenizer, validation, samples, ranking, _ = measured
    arrays = (ranking.probabilities, ranking.logits, ranking.eov_logits, ranking.unread_visits)
    few = type(ranking)(ranking.order[:19], Cut(ranking.set_sizes[:19], "EOV"), *(array[:19] for array in arrays))
    assert measured_of(model, tokenizer, few, samples[:19], validation) is None
    older = copy.deepcopy(model)
    older.config.conformal = None
    section = measured_of(older, tokenizer, ranking, samples, validation[:10])
    assert "temperature" not in section and "conformal" not in section and section["codes"]["ece"] > 0
    report = {"metrics": metrics_dict(calibration=section)}
    assert coverage.table(report["metrics"]) is None and coverage.blocks(report) == []


def test_empty_sets_have_no_figures(measured):
    model, tokenizer, validation, samples, ranking, _ = measured
    empty = dataclasses.replace(ranking, cut=Cut(np.zeros_like(ranking.set_sizes), "EOV"))
    section = measured_of(model, tokenizer, empty, samples, validation)
    assert "set" not in section and "set_before" not in section
    metrics = metrics_dict(calibration=section)
    assert calibration.of_sets(metrics) is None
    pytest.importorskip("matplotlib")
    assert [plot.name for plot in plots_of(calibration.blocks({"metrics": metrics}))] == ["reliability"]


def test_the_section_is_written_and_read(measured, tmp_path):
    section = measured[-1]
    parts = metrics_dict()
    metrics = build_metrics(**{name: parts[name] for name in ("dataset", "protocol", "rankers", "controls", "run")})
    metrics["calibration"] = section
    write_metrics(metrics, tmp_path / "metrics.json")
    assert read_metrics(tmp_path / "metrics.json")["calibration"] == section
    assert not re.search(r"patient_id|ICD9CM", str(section))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("codes", "ece"), 4.6, "`calibration.codes.ece` must be a fraction, not 4.6"),
        (("before", "first", "brier"), None, "`calibration.before.first.brier` must be a fraction"),
        (("softmax", "first"), None, "`calibration.softmax.first` must be an object"),
        (("set", "brier"), -0.1, "`calibration.set.brier` must be a fraction"),
        (("codes", "bins", 0, "observed"), 20, "`calibration.codes.bins.observed` must be a fraction"),
        (("conformal", "codes", "0.9", "reached"), 90, "`calibration.conformal.codes.0.9.reached` must be a fraction"),
    ],
)
def test_a_section_that_says_nonsense_is_refused(measured, path, value, says):
    section = copy.deepcopy(measured[-1])
    *way, last = path
    part = section
    for key in way:
        part = part[key]
    part[last] = value
    with pytest.raises(InputError, match=re.escape(says)):
        validate_metrics(metrics_dict(calibration=section))


def test_the_report_says_it_in_words(measured):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from mera_hf.report import render_report

    section = measured[-1]
    metrics = metrics_dict(calibration=section)
    curves = {name: np.linspace(0.1, 0.7, 40) for name in metrics["rankers"]}
    page = render_report({"metrics": metrics, "curves": curves})
    assert page.count('role="img" aria-label=') == page.count("<svg") >= 4
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and {"calibration", "coverage", "severity"} <= set(ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)
    assert f"differ by {100 * section['codes']['first']['ece']:.2f} percentage points" in page
    entry = section["conformal"]["codes"]["0.9"]
    assert f"{100 * entry['reached']:.1f} (" in page and coverage.table(metrics).rows[1].texts[0] == "90"
    assert "These are the patients that it was fitted on" not in calibration.of_codes(metrics)
    metrics["dataset"]["split"] = "validation"
    assert "These are the patients that it was fitted on" in calibration.of_codes(metrics)
    assert "Are the probabilities right?" not in render_report({"metrics": metrics_dict(), "curves": curves})
    first, second = calibration.sentences(metrics)
    assert f"{100 * section['before']['first']['ece']:.2f} before calibration" in first
    assert second.startswith("sets made to hold 80, 90, 95 % of the true codes hold ")


def test_the_report_shows_the_drg_severity_of_the_visit(measured):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from mera_hf.report import render_report

    model, tokenizer, validation, samples, ranking, plain = measured
    severity = np.tile([1, 2, 3, 4, np.nan], len(samples) // 5)
    section = measured_of(model, tokenizer, ranking, samples, validation, drg_severity=severity)
    assert section["severity"]["known"] == {"drg_severity": 64}
    assert [(group["drg_severity"], group["patients"]) for group in section["severity"]["drg_groups"]] == [
        *(("1", 16), ("2", 16), ("3", 16), ("4", 16))
    ]
    pages = []
    for each in (plain, section):
        metrics = metrics_dict(calibration=each)
        curves = {name: np.linspace(0.1, 0.7, 40) for name in metrics["rankers"]}
        pages.append(render_report({"metrics": metrics, "curves": curves}))
    before, page = pages
    assert page.count("<svg") == before.count("<svg") + 1 and "DRG" not in before
    first, last = (section["severity"]["drg_groups"][i] for i in (0, -1))
    said = [f"{group['set_size']:.1f} codes above EOV, {group['true_size']:.1f} true" for group in (first, last)]
    assert f"by DRG severity of the visit. Severity 1: {said[0]}; severity 4: {said[1]}." in page
    assert "DRG severity of the visit (n 64)" in page


def test_better_and_worse_are_told_apart(measured):
    section = copy.deepcopy(measured[-1])
    for interval, word in (([0.1, 0.2], "better"), ([-0.2, -0.1], "worse"), ([-0.1, 0.1], "neither better nor worse")):
        section["improvement"]["first"]["interval"] = interval
        assert f"on validation: {word}" in calibration.of_codes(metrics_dict(calibration=section))
