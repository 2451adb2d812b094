import copy
import re

import numpy as np
import pytest
import torch
from cases import metrics_dict
from sklearn.metrics import brier_score_loss
from tiny import CODES, patients, tiny_mera

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.calibration import calibrate, measure
from mera_hf.evaluation.calibration_section import calibration_section
from mera_hf.evaluation.calibration_words import calibration_text, calibration_words
from mera_hf.evaluation.conformal import fit_conformal
from mera_hf.evaluation.model_ranking import rank_samples
from mera_hf.evaluation.results import build_metrics, read_metrics, validate_metrics, write_metrics


@pytest.fixture(scope="module")
def measured():
    """A model calibrated on some patients, its section on others, and what it ranked."""
    model, tokenizer = tiny_mera("llama")
    validation, test = patients(60, seed=1), patients(80, seed=2)
    calibrate(model, tokenizer, validation, rerank_depth=6)
    fit_conformal(model, tokenizer, validation)
    samples = prediction_samples(test, CODES)
    ranking = rank_samples(model, tokenizer, samples)
    section = calibration_section(model, tokenizer, ranking, samples, validation)
    return model, tokenizer, validation, test, samples, ranking, section


def table(ranking, samples, values):
    """Values in the order of the codes, and the truth, both flat."""
    dense = torch.zeros(len(samples), len(CODES)).scatter(1, ranking.order, values)
    truth = np.zeros(dense.shape, dtype=bool)
    for row, sample in enumerate(samples):
        truth[row, sample.target] = True
    return dense.numpy(), truth


def test_the_figures_are_those_of_the_probabilities(measured):
    *_, samples, ranking, section = measured
    margins = ranking.logits - ranking.eov_logits[:, None]
    temperature, offset = section["temperature"]["temperature"], section["temperature"]["offset"]
    for name, values in {
        "codes": ranking.probabilities,
        "before": margins.sigmoid(),
        "softmax": ranking.logits.softmax(-1),
        "temperature": ((margins - offset) / temperature).sigmoid(),
    }.items():
        p, y = table(ranking, samples, values)
        assert section[name]["brier"] == pytest.approx(brier_score_loss(y.ravel(), p.ravel()), rel=1e-4)
        # Fewer codes than 40: the first 40 are all
        assert section[name]["first"] == {key: section[name][key] for key in ("ece", "brier", "bins")}
    assert section["codes"]["ece"] < section["before"]["ece"] and section["improvement"]["first"]["interval"][0] > 0
    inside = np.arange(len(CODES)) < ranking.set_sizes.numpy()[:, None]
    hits = np.array(
        [[code in sample.target for code in row] for row, sample in zip(ranking.order, samples, strict=True)]
    )
    assert section["set"]["actual"] == pytest.approx((hits & inside).sum() / len(samples))
    assert section["set"]["expected"] == pytest.approx(
        ranking.probabilities.numpy()[inside].sum() / len(samples), rel=1e-5
    )
    p, y = ranking.probabilities.numpy()[inside], hits[inside]
    assert section["set"]["brier"] == pytest.approx(brier_score_loss(y, p), rel=1e-4)


def test_calibration_alone_leaves_the_ranking_and_recall(measured):
    """A temperature and an offset are the six weights (1 / T, 0, 0, 0, 0, -b / T): no order changes without `rerank_depth`."""
    model, tokenizer, _, test, samples, _, section = measured
    plain, warm = copy.deepcopy(model), copy.deepcopy(model)
    for each in (plain, warm):
        each.config.rerank_depth = 0
        each.ranking_head.value_weight.fill_(1.0)
        each.ranking_head.value_threshold.zero_()
    plain.config.calibration = None
    slope = 1 / section["temperature"]["temperature"]
    warm.config.calibration = [slope, 0.0, 0.0, 0.0, 0.0, -slope * section["temperature"]["offset"]]
    ours, theirs = rank_samples(warm, tokenizer, samples), rank_samples(plain, tokenizer, samples)
    assert torch.equal(ours.order, theirs.order) and not torch.allclose(ours.probabilities, theirs.probabilities)
    p, y = table(ours, samples, ours.probabilities)
    assert brier_score_loss(y.ravel(), p.ravel()) == pytest.approx(section["temperature"]["brier"], rel=1e-4)
    assert torch.equal(ours.probabilities, ours.probabilities.sort(descending=True).values)
    ranked = [measure(each, tokenizer, test) for each in (warm, plain)]
    assert all(ranked[0][name] == ranked[1][name] for name in ranked[0] if "eov" not in name and "set" not in name)


def test_conformal_sets_of_the_checkpoint_are_measured(measured):
    model, tokenizer, validation, _, samples, ranking, section = measured
    assert section["conformal"]["source"] == "checkpoint" and section["conformal"]["patients_fitted"] == 60
    entry = section["conformal"]["visits"]["0.8"]
    assert entry["threshold"] == model.config.conformal["visits"]["0.8"]
    shares, truth = table(ranking, samples, ranking.logits.softmax(-1))
    missed = (truth & (shares < np.float32(entry["threshold"]))).any(1)
    assert entry["reached"] == pytest.approx(1 - missed.mean())
    older = copy.deepcopy(model)
    older.config.conformal = None
    again = calibration_section(older, tokenizer, ranking, samples, validation)["conformal"]
    assert again["source"] == "evaluation" and again["visits"]["0.8"]["reached"] == entry["reached"]
    assert older.config.conformal is None


def test_eov_is_compared_with_sizes(measured):
    *_, samples, ranking, section = measured
    correlations = section["severity"]["correlations"]
    assert list(correlations) == ["eov_probability", "set_size", "expected_codes"]
    for row in correlations.values():
        assert {"true_size", "history_codes"} <= set(row)
    from scipy.stats import spearmanr

    together = torch.cat([ranking.logits, ranking.eov_logits[:, None]], -1).softmax(-1)[:, -1]
    sizes = [len(sample.target) for sample in samples]
    assert correlations["eov_probability"]["true_size"]["rho"] == pytest.approx(spearmanr(together, sizes).statistic)
    expected = ranking.probabilities.sum(-1)
    assert correlations["expected_codes"]["true_size"]["rho"] == pytest.approx(spearmanr(expected, sizes).statistic)


def test_few_patients_say_less_or_nothing(measured):
    model, tokenizer, validation, _, samples, ranking, _ = measured
    few = type(ranking)(*(getattr(ranking, name)[:19] for name in ranking.__dataclass_fields__))
    assert calibration_section(model, tokenizer, few, samples[:19], validation) is None
    older = copy.deepcopy(model)
    older.config.conformal = None
    section = calibration_section(older, tokenizer, ranking, samples, validation[:10])
    assert "temperature" not in section and "conformal" not in section and section["codes"]["ece"] > 0
    assert calibration_words(metrics_dict(calibration=section))["coverage"] == []


def test_empty_sets_have_no_figures(measured):
    model, tokenizer, validation, _, samples, ranking, _ = measured
    empty = copy.copy(ranking)
    empty.set_sizes = torch.zeros_like(ranking.set_sizes)
    section = calibration_section(model, tokenizer, empty, samples, validation)
    assert "set" not in section and "set_before" not in section
    words = calibration_words(metrics_dict(calibration=section))
    assert words["sets"] is None and "expected" not in words["alternatives"]


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
    from mera_hf.evaluation.report import render_report

    section = measured[-1]
    metrics = metrics_dict(calibration=section)
    curves = {name: np.linspace(0.1, 0.7, 40) for name in metrics["rankers"]}
    page = render_report({"metrics": metrics, "curves": curves})
    assert page.count('role="img" aria-label=') == page.count("<svg") >= 4
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and {"calibration", "coverage", "severity"} <= set(ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)
    words = calibration_words(metrics)
    assert f"differ by {100 * section['codes']['first']['ece']:.2f} percentage points" in page
    entry = section["conformal"]["codes"]["0.9"]
    assert f"{100 * entry['reached']:.1f} (" in page and words["coverage"][1][1][0] == "90"
    assert "These are the patients that it was fitted on" not in words["lead"]
    metrics["dataset"]["split"] = "validation"
    assert "These are the patients that it was fitted on" in calibration_words(metrics)["lead"]
    assert "Are the probabilities right?" not in render_report({"metrics": metrics_dict(), "curves": curves})
    first, second = calibration_text(metrics).splitlines()
    assert f"{100 * section['before']['first']['ece']:.2f} before calibration" in first
    assert second.startswith("sets made to hold 80, 90, 95 % of the true codes hold ")


def test_the_report_shows_the_drg_severity_of_the_visit(measured):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from mera_hf.evaluation.report import render_report

    model, tokenizer, validation, _, samples, ranking, plain = measured
    severity = np.tile([1, 2, 3, 4, np.nan], len(samples) // 5)
    section = calibration_section(model, tokenizer, ranking, samples, validation, drg_severity=severity)
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
        assert f"on validation: {word}" in calibration_words(metrics_dict(calibration=section))["lead"]
