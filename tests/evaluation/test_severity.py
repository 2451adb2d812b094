import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logsumexp
from tiny import FAMILIES, randomise_head, texts

from mera_hf.data.prepare import prepare
from mera_hf.data.prepared import Prepared, load_prepared
from mera_hf.data.samples import Sample, prediction_samples
from mera_hf.evaluation.evaluate import evaluate_checkpoint
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.sections import severity as module
from mera_hf.evaluation.sections.severity import (
    MISSING,
    comorbidities,
    drg_groups,
    measure_title,
    severity_figures,
    spearman,
    table,
    target_severity,
)
from mera_hf.training.code_tokens import add_code_tokens
from mera_hf.training.from_scratch import from_scratch


CODES = [
    "ICD9CM:250.00",  # diabetes without complications
    "ICD9CM:250.40",  # with
    "ICD9CM:428.0",  # heart failure
    "ICD9CM:428",
    "ICD9CM:486",  # pneumonia, no comorbidity
    "ICD9CM:585.9",  # renal failure
    "ICD10CM:I50.9",  # heart failure
    "ICD10CM:C78.00",  # metastatic cancer
]


def sample(*history, target=(4,)):
    return Sample(0, [list(visit) for visit in history], list(target), {})


def test_comorbidities_are_those_of_the_code_lists_whatever_the_version():
    pytest.importorskip("pycomorb")
    found = comorbidities(
        [
            sample([4]),
            sample([0], [2, 4]),
            sample([0, 1]),  # the complicated form counts in place of the other
            sample([2], [6]),  # heart failure in both versions is one comorbidity
            sample([3], [6, 7]),
            sample([], []),
            sample([5], target=[2]),  # the visit that is predicted is not in the history
        ],
        CODES,
    )
    assert found["comorbidities"].tolist() == [0, 2, 1, 1, 2, 0, 1]
    # Charlson 1987: heart failure 1, diabetes 1, with complications 2, renal 2, metastases 6; no points for age
    assert found["charlson"].tolist() == [0, 2, 2, 1, 7, 0, 2]
    # van Walraven 2009: heart failure 7, metastases 12, renal failure 5, diabetes 0
    assert found["van_walraven"].tolist() == [0, 7, 0, 7, 19, 0, 5]


def test_without_pycomorb_the_report_says_how_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "pycomorb" else find(name))
    assert comorbidities([sample([0])], CODES) is None
    draw = np.random.default_rng(0)
    measures = {name: draw.random(30) for name in (*module.OF_MODEL, "true_size", "history_codes")}
    figures = severity_figures(measures)
    assert figures["missing"] == MISSING and "pip install 'mera_hf[report]'" in MISSING and "groups" not in figures
    assert set(figures["correlations"]["set_size"]) == {"true_size", "history_codes"}


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.8])
def test_spearman_covers_as_it_says(rho):
    """The true rank correlation of a bivariate normal is 6 / pi asin(rho / 2)."""
    truth, inside = 6 / np.pi * np.arcsin(rho / 2), []
    for seed in range(300):
        a, noise = np.random.default_rng(seed).normal(size=(2, 120))
        b = rho * a + (1 - rho**2) ** 0.5 * noise
        value = spearman(a, b)
        assert value["rho"] == pytest.approx(stats.spearmanr(a, b).statistic)
        inside.append(value["interval"][0] <= truth <= value["interval"][1])
    assert 0.91 <= np.mean(inside) <= 0.985


def test_correlations_without_a_meaning_are_none():
    assert spearman(np.ones(50), np.arange(50)) is None
    assert spearman(np.arange(9), np.arange(9)) is None
    assert spearman(np.arange(20), -np.arange(20)) == {"rho": -1, "interval": [-1, -1]}


def test_groups_by_comorbidities():
    number = np.repeat([0, 1, 2, 3, 4, 9], [30, 5, 20, 8, 1, 3])
    measures = {name: np.arange(len(number), dtype=float) for name in module.SAYS}
    groups = severity_figures(measures | {"comorbidities": number})["groups"]
    assert [(group["comorbidities"], group["patients"]) for group in groups] == [
        ("0", 30),
        ("1", 5),
        ("2", 20),
        ("3+", 12),
    ]
    assert "set_size" not in groups[1], "too small to be measured"
    assert groups[0]["set_size"] == 14.5 and groups[3]["true_size"] == pytest.approx(np.arange(55, 67).mean())


def graded_row(*severities):
    return {"visits": [{"codes": ["ICD9CM:486"], "text": None, "drg_severity": value} for value in severities]}


def test_the_severity_is_that_of_the_visit_to_be_predicted():
    rows = [graded_row(4, 3), graded_row(2), graded_row(1, 2, None), graded_row(None, None, None, 1)]
    samples = prediction_samples(rows, ["ICD9CM:486"])
    np.testing.assert_array_equal(target_severity(rows, samples), [3, np.nan, 1])
    every = prediction_samples(rows, ["ICD9CM:486"], "every")
    np.testing.assert_array_equal(target_severity(rows, every), [3, 2, np.nan, np.nan, np.nan, 1])
    assert target_severity(rows, every[1:1] + every[2:3]) is None, "known of no visit to be predicted"
    plain = [{"visits": [{"codes": ["ICD9CM:486"], "text": None}] * 2}]
    assert target_severity(plain, prediction_samples(plain, ["ICD9CM:486"])) is None


def test_correlations_are_over_the_patients_that_have_a_severity():
    draw = np.random.default_rng(0)
    severity = draw.integers(1, 5, 80).astype(float)
    measures = {name: draw.random(80) + 0.2 * severity for name in (*module.OF_MODEL, "true_size", "history_codes")}
    unknown = draw.random(80) < 0.3
    severity[unknown] = np.nan
    figures = severity_figures(measures | {"drg_severity": severity})
    assert figures["known"] == {"drg_severity": (~unknown).sum()} and 0 < unknown.sum() < 80
    for name in module.OF_MODEL:
        rho = figures["correlations"][name]["drg_severity"]["rho"]
        assert rho == pytest.approx(stats.spearmanr(measures[name][~unknown], severity[~unknown]).statistic)
        rho = figures["correlations"][name]["history_codes"]["rho"]
        assert rho == pytest.approx(stats.spearmanr(measures[name], measures["history_codes"]).statistic)
    without = severity_figures(measures)
    assert "known" not in without and "drg_groups" not in without
    for name, row in without["correlations"].items():
        assert row == {other: of for other, of in figures["correlations"][name].items() if other != "drg_severity"}
    assert measure_title("drg_severity", figures["known"]) == f"DRG severity of the visit (n {(~unknown).sum()})"
    assert measure_title("drg_severity", {"drg_severity": 9}) == "DRG severity of the visit (n < 10)"
    assert measure_title("charlson", figures["known"]) == "Charlson score"


@pytest.mark.parametrize(
    ("patients", "expected"),
    [
        ((12, 3, 20, 15), [("1", 12), ("2", 3), ("3", 20), ("4", 15)]),
        ((12, 13, 20, 3), [("1", 12), ("2", 13), ("3+", 23)]),
        ((2, 2, 2, 2), []),
    ],
)
def test_groups_by_drg_severity(patients, expected):
    severity = np.append(np.repeat([1.0, 2, 3, 4], patients), [np.nan] * 5)
    measures = {name: np.arange(len(severity), dtype=float) for name in module.SAYS}
    groups = drg_groups(severity, measures)
    assert [(group["drg_severity"], group["patients"]) for group in groups] == expected
    if groups:
        assert groups[0]["set_size"] == 5.5 and ("set_size" in groups[1]) == (groups[1]["patients"] >= 10)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A tiny model measured on the MIMIC-IV demo as it is, and without its table of DRGs."""
    root = tmp_path_factory.mktemp("drg")
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "mimic4_demo", root / "raw")
    prepare("mimic4", root / "raw", root / "graded")
    (root / "raw" / "hosp" / "drgcodes.csv").unlink()
    prepare("mimic4", root / "raw", root / "plain")
    model, tokenizer = from_scratch(FAMILIES["llama"] | {"max_position_embeddings": 4096}, texts(), 0)
    add_code_tokens(model, tokenizer, Prepared.open(root / "graded").codes)
    randomise_head(model)
    model.eval()
    options = {"split": "train", "references": ("prevalence",)}  # 31 patients; validation and test are too few
    return (
        model,
        tokenizer,
        root,
        [evaluate_checkpoint(model, tokenizer, root / name, **options) for name in ("graded", "plain")],
    )


def test_the_demo_is_measured_against_its_drg_severities(evaluated):
    model, tokenizer, root, (graded, plain) = evaluated
    rows = load_prepared(root / "graded")["train"]
    samples = prediction_samples(rows, model.config.codes)
    severity = np.array([row["visits"][-1]["drg_severity"] for row in rows], dtype=float)
    known = ~np.isnan(severity)
    assert len(samples) == len(rows) > known.sum() > 10
    figures = graded.metrics["calibration"]["severity"]
    assert figures["known"] == {"drg_severity": known.sum()}
    ranking = rank_samples(model, tokenizer, samples)
    said = expit(ranking.eov_logits - logsumexp(ranking.logits, axis=-1))
    expected = stats.spearmanr(said[known], severity[known]).statistic
    assert figures["correlations"]["eov_probability"]["drg_severity"]["rho"] == pytest.approx(expected)

    other = plain.metrics["calibration"]["severity"]
    assert not {"known", "drg_groups"} & set(other) and "drg_severity" not in other["correlations"]["set_size"]
    for part in ("rankers", "controls", "strata", "findings"):
        assert graded.metrics[part] == plain.metrics[part], "nothing but the analysis reads it"


def test_the_report_shows_the_row_where_there_is_one(evaluated):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from mera_hf.report import render_report

    graded, plain = (evaluation.report for evaluation in evaluated[-1])
    n = graded["metrics"]["calibration"]["severity"]["known"]["drg_severity"]
    title = f"DRG severity of the visit (n {n})"
    assert table(graded["metrics"]).rows[-1].title == title
    page, other = render_report(graded), render_report(plain)
    assert title in page and "coded after discharge" in page
    assert "DRG" not in other
