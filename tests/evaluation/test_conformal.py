import copy

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import CODES, patients, tiny_mera

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.conformal import (
    FEWEST,
    conformal_thresholds,
    fit_conformal,
    require_coverage,
)
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.reliability import places_hit
from mera_hf.evaluation.sections.coverage import measure as conformal_coverage


def draw_patients(draw, count, codes=25):
    """Patients alike: shares of codes, and one true code or more that go by them roughly."""
    logits = draw.normal(0, 1.5, size=(count, codes)) + draw.normal(0, 1, size=(count, 1))
    truth = draw.random((count, codes)) < 0.6 / (1 + np.exp(2 - logits))
    truth[np.arange(count), draw.integers(codes, size=count)] = True
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares.astype(np.float32), truth


def losses(shares, truth, threshold):
    """Missed share of the true codes, and whether any is missed, by brute force."""
    missed = (truth & (shares < threshold)).sum(1)
    return {"codes": missed / truth.sum(1), "visits": (missed > 0).astype(float)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["codes", "visits"])
def test_the_threshold_is_the_largest_that_holds_the_risk(seed, kind):
    shares, truth = draw_patients(np.random.default_rng(seed), 60)
    fitted = conformal_thresholds(shares, truth, (0.5, 0.8, 0.9))
    assert fitted["patients"] == 60
    for level in (0.5, 0.8, 0.9):
        allowed = [t for t in np.unique(shares) if (losses(shares, truth, t)[kind].sum() + 1) / 61 <= 1 - level + 1e-9]
        assert fitted[kind][f"{level:g}"] == pytest.approx(max(allowed), rel=2e-5)
        assert fitted[kind][f"{level:g}"] < max(allowed)


def test_by_hand():
    """Four patients of one true code, of shares 0.1, 0.2, 0.3, 0.4: at 60 % one may be missed, (1 + 1) / 5 = 0.4."""
    shares = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]], dtype=np.float32)
    truth = np.array([[True, False]] * 4)
    fitted = conformal_thresholds(shares, truth, (0.6, 0.8, 0.9))
    for kind in ("codes", "visits"):
        assert fitted[kind]["0.6"] == pytest.approx(0.2, rel=1e-4)
        assert fitted[kind]["0.8"] == pytest.approx(0.1, rel=1e-4)  # none may be missed: (0 + 1) / 5
        assert fitted[kind]["0.9"] == 0.0  # four patients cannot promise it: every code is in the set
    reached = conformal_coverage(shares, truth, fitted)
    assert [reached["visits"][level]["reached"] for level in ("0.6", "0.8", "0.9")] == [0.75, 1.0, 1.0]
    assert reached["codes"]["0.9"]["mean_size"] == 2.0 and reached["codes"]["0.6"]["sizes"][1] == 2.0


def test_the_guarantee_holds_on_average_over_many_fits():
    """For any n the mean loss of new patients is at most 1 - level, and little less: the bound is off by 1 / (n + 1) twice."""
    n, repeats, levels = 30, 600, (0.8, 0.9)
    reached = {(kind, level): [] for kind in ("codes", "visits") for level in levels}
    uncorrected = []
    for seed in range(repeats):
        shares, truth = draw_patients(np.random.default_rng(seed), n + 60)
        fitted = conformal_thresholds(shares[:n], truth[:n], levels)
        for kind, level in reached:
            loss = losses(shares[n:], truth[n:], np.float32(fitted[kind][f"{level:g}"]))[kind]
            reached[kind, level].append(1 - loss.mean())
        # Without the correction: the largest threshold that misses a tenth of the patients it was fitted on
        plain = np.sort(np.where(truth[:n], shares[:n], np.inf).min(1))[n // 10]
        uncorrected.append(1 - losses(shares[n:], truth[n:], plain)["visits"].mean())
    for (_, level), values in reached.items():
        error = np.std(values) / repeats**0.5
        assert level - 3 * error <= np.mean(values) <= level + 2 / (n + 1) + 3 * error
    assert np.mean(uncorrected) < 0.9 - 3 * np.std(uncorrected) / repeats**0.5, "the correction is needed"


def test_sets_grow_with_the_level_and_visits_need_larger_ones():
    shares, truth = draw_patients(np.random.default_rng(0), 400)
    fitted = conformal_thresholds(shares, truth)
    for kind in ("codes", "visits"):
        assert sorted(fitted[kind].values(), reverse=True) == list(fitted[kind].values())
    assert all(fitted["visits"][level] <= fitted["codes"][level] for level in fitted["codes"])


def test_what_is_reported_is_what_the_sets_hold():
    shares, truth = draw_patients(np.random.default_rng(1), 900)
    fitted = conformal_thresholds(shares[:300], truth[:300])
    reached = conformal_coverage(shares[300:], truth[300:], fitted)
    assert reached["patients_fitted"] == 300
    for kind in ("codes", "visits"):
        for level, entry in reached[kind].items():
            loss = losses(shares[300:], truth[300:], np.float32(entry["threshold"]))[kind]
            assert entry["nominal"] == float(level) and entry["reached"] == pytest.approx(1 - loss.mean())
            assert entry["interval"][0] < entry["reached"] < entry["interval"][1]
            assert entry["standard_error"] == pytest.approx(loss.std() * (1 / 600 + 1 / 300) ** 0.5)
            assert abs(entry["reached"] - entry["nominal"]) < 3 * entry["standard_error"]
            sizes = (shares[300:] >= np.float32(entry["threshold"])).sum(1)
            assert entry["mean_size"] == pytest.approx(sizes.mean()) and entry["sizes"][1] == np.median(sizes)
    entry = reached["visits"]["0.9"]
    exact = stats.beta.ppf([0.025], 600 * entry["reached"], 600 * (1 - entry["reached"]) + 1)
    assert entry["interval"][0] == pytest.approx(exact[0])
    normal = reached["codes"]["0.9"]
    half = (normal["interval"][1] - normal["interval"][0]) / 2
    loss = losses(shares[300:], truth[300:], np.float32(normal["threshold"]))["codes"]
    assert half == pytest.approx(1.96 * loss.std() / 600**0.5, rel=0.15)


@pytest.fixture(scope="module")
def fitted():
    model, tokenizer = tiny_mera("llama")
    rows = patients(60, seed=3)
    assert fit_conformal(model, tokenizer, rows) is True
    return model, tokenizer, rows


def test_the_model_gives_the_sets_that_were_fitted(fitted, tmp_path):
    from transformers import AutoModel

    model, tokenizer, rows = fitted
    model = copy.deepcopy(model)
    model.config.rerank_depth = 6  # the head of the ranking stays in the order of the logits all the same
    model.save_pretrained(tmp_path)
    samples = prediction_samples(rows, CODES)
    history = [row | {"visits": row["visits"][:-1]} for row in rows]
    for ranker in (model, AutoModel.from_pretrained(tmp_path).eval()):
        for kind in ("codes", "visits"):
            for level in (0.8, 0.9, 0.95):
                ranking = ranker.rank(history, tokenizer, coverage=level, coverage_of=kind, batch_size=7)
                assert torch.equal(ranking.logits, ranking.logits.sort(descending=True).values)
                truth = places_hit(ranking.order.numpy(), samples)
                inside = np.arange(len(CODES)) < ranking.set_sizes.numpy()[:, None]
                missed = (truth & ~inside).sum(1)
                risk = (missed / truth.sum(1) if kind == "codes" else missed > 0).sum()
                assert (risk + 1) / (len(rows) + 1) <= 1 - level + 1e-9
                shares = ranking.logits.softmax(-1)
                same = (shares >= model.config.conformal_threshold(level, kind)).sum(-1)
                assert torch.equal(ranking.set_sizes, same)


def test_without_coverage_nothing_changes(fitted):
    model, tokenizer, rows = fitted
    plain = copy.deepcopy(model)
    plain.config.conformal = None
    samples = prediction_samples(rows, CODES)
    ours, theirs = rank_samples(model, tokenizer, samples), rank_samples(plain, tokenizer, samples)
    assert np.array_equal(ours.order, theirs.order) and np.array_equal(ours.set_sizes, theirs.set_sizes)


def test_sets_do_not_depend_on_what_else_was_fitted_on_validation(fitted):
    """The guarantee needs it: the share comes from training alone."""
    model, tokenizer, rows = fitted
    other = copy.deepcopy(model)
    other.config.calibration, other.config.eov_value, other.config.rerank_depth = (
        [0.3, 2.0, 1.0, -1.0, 0.5, 0.1],
        0.1,
        5,
    )
    other.ranking_head.value_weight.uniform_(0.5, 2)
    assert fit_conformal(other, tokenizer, rows)
    for kind in ("codes", "visits"):  # but for the order in which shares are summed up
        assert other.config.conformal[kind] == pytest.approx(model.config.conformal[kind], rel=1e-5)
    other.config.conformal = model.config.conformal
    samples = prediction_samples(rows, CODES)[:5]
    history = [rows[sample.patient] for sample in samples]
    a, b = (each.rank(history, tokenizer, coverage=0.8) for each in (model, other))
    assert torch.equal(a.set_sizes, b.set_sizes) and torch.equal(a.order, b.order)


def test_too_few_patients_give_no_sets(fitted):
    model, tokenizer, rows = fitted
    model = copy.deepcopy(model)
    assert fit_conformal(model, tokenizer, rows[: FEWEST - 1]) is False and model.config.conformal is None
    with pytest.raises(InputError, match="`coverage` 0.9: this checkpoint has no sets .* call `mera_hf"):
        require_coverage(model.config, 0.9, "codes")
    with pytest.raises(ValueError, match="fits on 20 validation patients"):
        model.rank(rows[:1], tokenizer, coverage=0.9)
    require_coverage(model.config, None, "codes")


def test_unknown_levels_are_refused(fitted):
    model, tokenizer, rows = fitted
    with pytest.raises(InputError, match=r"`coverage` 0.7: .* choose one of 0.8, 0.9, 0.95"):
        require_coverage(model.config, 0.7, "codes")
    with pytest.raises(ValueError, match="`coverage_of` is 'patients'; choose one of codes, visits"):
        model.rank(rows[:1], tokenizer, coverage=0.9, coverage_of="patients")
