import importlib.util

import numpy as np
import pytest
from scipy import stats

from mera_hf.data.samples import Sample
from mera_hf.evaluation import severity as module
from mera_hf.evaluation.severity import MISSING, comorbidities, severity_figures, spearman


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
