import numpy as np
import pytest
from ranking_cases import random_orders, random_samples
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from mera_hf.data.samples import Sample
from mera_hf.evaluation import reliability as module
from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores
from mera_hf.evaluation.reliability import fit_temperature, improvement, places_hit, reliability, set_figures


def random_case(seed, patients=50, codes=70, sharpness=1.0):
    """Probabilities in the order of a ranking, and outcomes drawn from them after they were sharpened."""
    draw = np.random.default_rng(seed)
    margins = -np.sort(-draw.normal(-2, 1.5, size=(patients, codes)), axis=1)
    truth = draw.random((patients, codes)) < 1 / (1 + np.exp(-sharpness * margins))
    return (1 / (1 + np.exp(-margins))).astype(np.float32), truth


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [None, 40, "sets"])
@pytest.mark.parametrize("chunk", [2**22, 1000])
def test_bins_and_brier_are_those_of_scikit_learn(seed, width, chunk, monkeypatch):
    probabilities, truth = random_case(seed, patients=300)
    monkeypatch.setattr(module, "CHUNK", chunk)
    widths = np.random.default_rng(seed).integers(0, 9, size=300) if width == "sets" else width
    inside = np.arange(70) < np.broadcast_to(70 if widths is None else widths, 300)[:, None]
    p, y = probabilities[inside], truth[inside]
    figures = reliability(probabilities, truth, widths).figures()
    assert figures["brier"] == pytest.approx(brier_score_loss(y, p), rel=1e-5)
    assert sum(entry["count"] for entry in figures["bins"]) == len(p)
    weighed = sum(abs(e["predicted"] - e["observed"]) * e["count"] for e in figures["bins"]) / len(p)
    assert figures["ece"] == pytest.approx(weighed)
    if inside.sum() <= chunk:  # else the edges come from a part of the patients
        observed, predicted = calibration_curve(y, p, n_bins=15, strategy="quantile")
        assert [entry["observed"] for entry in figures["bins"]] == pytest.approx(observed)
        assert [entry["predicted"] for entry in figures["bins"]] == pytest.approx(predicted, rel=1e-5)
    else:
        counts = [entry["count"] for entry in figures["bins"]]
        assert len(counts) == 15 and max(counts) < 2.5 * min(counts)


def test_by_hand():
    """Two bins: of 0.1, 0.1 none is true, of 0.4, 0.8 one."""
    probabilities = np.array([[0.8, 0.1], [0.4, 0.1]], dtype=np.float32)
    truth = np.array([[True, False], [False, False]])
    table = reliability(probabilities, truth, bins=2)
    assert table.count.tolist() == [[1, 1], [1, 1]]
    assert table.ece()[0] == pytest.approx(0.2 / 4 + 0.2 / 4)  # |0.2 - 0| / 4 + |1.2 - 1| / 4
    assert table.squares.sum() == pytest.approx(0.04 + 0.01 + 0.16 + 0.01)
    # The second patient twice and the first not at all: |0.2 - 0| / 4 + |0.8 - 0| / 4
    assert table.ece(np.array([[0.0, 2.0]]))[0] == pytest.approx(0.25)
    assert table.figures()["bins"] == []  # no bin of fewer than 10
    sets = set_figures(reliability(probabilities, truth, np.array([2, 1])))
    assert (sets["expected"], sets["actual"]) == (pytest.approx(0.65), 0.5) and sets["groups"] == []


def test_places_hit():
    order = np.array([[2, 0, 1], [1, 2, 0]])
    samples = [Sample(0, [[0]], [0, 1], {}), Sample(1, [[0]], [1], {})]
    assert places_hit(order, samples).tolist() == [[False, True, True], [True, False, False]]
    draw = np.random.default_rng(0)
    samples = random_samples(draw)
    order = random_orders(draw, samples)
    expected = [np.isin(row, sample.target).tolist() for row, sample in zip(order, samples, strict=True)]
    assert places_hit(order, samples).tolist() == expected


def test_groups_of_patients_by_the_probability_of_their_set():
    probabilities, truth = random_case(1, patients=205)
    sizes = np.random.default_rng(0).integers(0, 6, size=205)
    groups = set_figures(reliability(probabilities, truth, sizes))["groups"]
    filled = sizes.nonzero()[0]
    means = np.array([probabilities[row, : sizes[row]].mean() for row in filled])
    assert [group["patients"] for group in groups] == [len(part) for part in np.array_split(filled, len(groups))]
    assert len(groups) == 10 and min(group["patients"] for group in groups) >= 10
    first = filled[np.argsort(means, kind="stable")][: groups[0]["patients"]]
    assert groups[0]["actual"] == pytest.approx(np.mean([truth[row, : sizes[row]].sum() for row in first]))
    assert groups[0]["expected"] == pytest.approx(np.mean([probabilities[row, : sizes[row]].sum() for row in first]))
    assert groups[0]["probability"] == pytest.approx(np.sort(means)[: len(first)].mean())


def test_nobody_has_a_set():
    probabilities, truth = random_case(0)
    table = reliability(probabilities, truth, np.zeros(50, dtype=int))
    assert table.ece()[0] == 0 and set_figures(table) == {"expected": 0.0, "actual": 0.0, "groups": []}


def test_equal_probabilities_share_a_bin():
    truth = np.arange(40).reshape(4, 10) % 4 == 0
    figures = reliability(np.full((4, 10), 0.5, dtype=np.float32), truth).figures()
    assert figures["bins"] == [{"predicted": 0.5, "observed": 0.25, "count": 40}] and figures["ece"] == 0.25


@pytest.mark.parametrize(("sharpness", "shift"), [(0.5, 0.0), (1.0, 1.0), (2.0, -0.5)])
def test_temperature_finds_what_was_done_to_the_margins_and_leaves_the_order(sharpness, shift):
    probabilities, truth = random_case(2, patients=2000, codes=50, sharpness=sharpness)
    margins = np.log(probabilities / (1 - probabilities)) + shift
    temperature, offset = fit_temperature(margins, truth)
    assert temperature == pytest.approx(1 / sharpness, rel=0.05) and offset == pytest.approx(shift, abs=0.1)
    after = (1 / (1 + np.exp(-(margins - offset) / temperature))).astype(np.float32)
    shifted = (1 / (1 + np.exp(-margins))).astype(np.float32)
    old, new = reliability(shifted, truth), reliability(after, truth)
    gain = improvement(old, new)
    assert gain["ece"] == pytest.approx(old.ece()[0] - new.ece()[0]) and gain["interval"][0] > 0.005
    assert gain["interval"][0] < gain["ece"] < gain["interval"][1]
    # The ranking, and so recall, stays to the last code
    assert (order_from_scores(after) == order_from_scores(shifted)).all()
    samples = [Sample(row, [[0]], row_truth.nonzero()[0].tolist() or [0], {}) for row, row_truth in enumerate(truth)]
    figures = [evaluate_ranking(order_from_scores(scores), None, samples, (10, 20)) for scores in (after, shifted)]
    assert figures[0] == figures[1]


def test_temperature_is_a_logistic_regression_and_never_turns_the_order_round():
    probabilities, truth = random_case(3, patients=300, codes=20)
    margins = np.log(probabilities / (1 - probabilities))
    temperature, offset = fit_temperature(margins, truth)
    fit = LogisticRegression(C=1e6).fit(margins.reshape(-1, 1), truth.ravel())
    assert (1 / temperature, -offset / temperature) == pytest.approx((fit.coef_[0, 0], fit.intercept_[0]), rel=1e-3)
    backwards, offset = fit_temperature(-margins, truth)
    assert backwards > 1000 and 1 / (1 + np.exp(offset / backwards)) == pytest.approx(truth.mean(), abs=0.1)


def test_a_large_table_takes_little_memory(monkeypatch):
    """In chunks: what is made on the way is a small part of a float64 table."""
    import tracemalloc

    monkeypatch.setattr(module, "CHUNK", 2**16)
    probabilities = np.random.default_rng(0).random((1000, 2000), dtype=np.float32)
    truth = probabilities > 0.9
    tracemalloc.start()
    reliability(probabilities, truth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * 8 * probabilities.size
