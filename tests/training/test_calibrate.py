import copy

import numpy as np
import pytest
import torch
from tiny import CODES, patients, tiny_mera
from trl import ModelConfig

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.conformal import fit_conformal
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.rankings.model import model_patients, rank_samples
from mera_hf.evaluation.rankings.reference import fit_threshold
from mera_hf.modeling_mera import MeraForDiagnosis
from mera_hf.training.calibrate import (
    FEWEST,
    Calibration,
    calibrate,
    calibrate_and_measure,
    fit_cut,
    measure,
)
from mera_hf.training.checkpoints import wrap_with_adapter
from mera_hf.training.from_scratch import word_tokenizer


@pytest.fixture(scope="module")
def calibrated():
    """A model before and after its calibration on 40 patients, the tokenizer and those patients."""
    model, tokenizer = tiny_mera("llama")
    rows = patients(40, seed=13)
    before = copy.deepcopy(model)
    calibrate(model, tokenizer, rows, rerank_depth=6)
    return before, model, tokenizer, rows


def log_odds(model, tokenizer, samples) -> torch.Tensor:
    result = torch.zeros(len(samples), len(CODES))
    for rows, output, batch in model.decisions(model_patients(samples, model.config.codes), tokenizer):
        result[rows] = model.log_odds(output, batch["history_codes"], batch["history_values"])
    return result


def test_calibration_is_the_logistic_regression_of_the_features(calibrated):
    """At the optimum of the penalised likelihood the gradient is zero."""
    before, model, tokenizer, rows = calibrated
    samples = prediction_samples(rows, CODES)
    assert len(model.config.calibration) == 6 and model.config.rerank_depth == 6
    weights = torch.tensor(model.config.calibration, dtype=torch.float64)
    gradient = torch.zeros(6, dtype=torch.float64)
    for which, output, batch in before.decisions(model_patients(samples, CODES), tokenizer):
        features = torch.stack(before.log_odds_features(output, batch["history_codes"], batch["history_values"]), -1)
        truth = torch.zeros(features.shape[:2], dtype=torch.float64)
        for place, row in enumerate(which):
            truth[place, samples[row].target] = 1
        error = (features.double() @ weights).sigmoid() - truth  # fewer codes than candidates: all take part
        gradient += torch.einsum("nc,ncf->f", error, features.double())
    gradient[:-1] += weights[:-1]  # the penalty at C = 1, not on the constant
    assert gradient.abs().max() < 0.2  # of sums over 760 codes
    assert error.abs().mean() < 0.3


def test_calibrated_probabilities_are_right_on_average(calibrated):
    _, model, tokenizer, rows = calibrated
    samples = prediction_samples(rows, CODES)
    expected = log_odds(model, tokenizer, samples).sigmoid().sum().item()
    assert expected == pytest.approx(sum(len(sample.target) for sample in samples), rel=0.01)


def test_the_cut_is_exactly_that_of_the_fitted_threshold(calibrated):
    """What `rank` puts into the sets is what the threshold was chosen for, to the last code."""
    _, model, tokenizer, rows = calibrated
    for chosen in (rows, *(patients(30, seed=seed) for seed in range(5))):
        for depth in (0, 6):
            calibrate(model, tokenizer, chosen, depth)
            samples = prediction_samples(chosen, CODES)
            head = model.ranking_head
            chances = log_odds(model, tokenizer, samples).sigmoid()
            values = head.value_weight * (chances - head.value_threshold)
            ranking = rank_samples(model, tokenizer, samples)
            cut = model.config.eov_value
            if depth:
                assert model.config.eov_offset is None
                first = torch.from_numpy(ranking.order[:, :depth]).long()
                head = torch.zeros_like(values, dtype=torch.bool).scatter(1, first, True)
                values = values.masked_fill(~head, -torch.inf)
            else:
                values, cut = torch.empty(ranking.order.shape), model.config.eov_offset
                values.scatter_(1, torch.from_numpy(ranking.order).long(), torch.from_numpy(ranking.margins()))
            threshold = fit_threshold(values.numpy(), samples)
            assert np.isfinite(cut)  # JSON knows no infinity
            assert np.array_equal(ranking.set_sizes, (values >= threshold).sum(1))


def test_ranking_stays_but_for_its_head(calibrated):
    before, model, tokenizer, rows = calibrated
    calibrate(model, tokenizer, rows, rerank_depth=6)
    samples = prediction_samples(rows, CODES)
    plain, after = rank_samples(before, tokenizer, samples), rank_samples(model, tokenizer, samples)
    assert np.array_equal(plain.order[:, 6:], after.order[:, 6:])
    assert np.array_equal(np.sort(plain.order[:, :6]), np.sort(after.order[:, :6]))
    calibrate(model, tokenizer, rows)
    assert np.array_equal(rank_samples(model, tokenizer, samples).order, plain.order)


def test_calibration_forgets_the_one_before(calibrated):
    _, model, tokenizer, rows = calibrated
    calibrate(model, tokenizer, rows, rerank_depth=6)
    head = model.ranking_head
    first = (model.config.calibration, model.config.eov_value, head.value_weight.clone(), head.value_threshold.clone())
    model.config.calibration, model.config.eov_value = [1.0] * 6, 3.0
    head.value_weight.fill_(3.0)
    calibrate(model, tokenizer, rows, rerank_depth=6)
    assert (model.config.calibration, model.config.eov_value) == first[:2]
    assert torch.equal(head.value_weight, first[2]) and torch.equal(head.value_threshold, first[3])


def test_too_few_patients_leave_the_cut_at_eov(calibrated):
    before, _, tokenizer, rows = calibrated
    model = copy.deepcopy(before)
    config, head = model.config, model.ranking_head
    config.calibration, config.eov_value, config.rerank_depth = [1.0] * 6, 3.0, 4
    head.value_weight.fill_(3.0)
    few = [row for row in rows if len(row["visits"]) == 2][: FEWEST - 1]
    assert 0 < len(few) < FEWEST
    assert calibrate(model, tokenizer, few, rerank_depth=6) == Calibration(len(few), cut=False, conformal=False)
    assert (config.calibration, config.eov_value, config.rerank_depth) == (None, 0.5, 0)
    assert (head.value_weight == 1).all() and not head.value_threshold.any()


def test_few_patients_give_every_visit(calibrated):
    before, _, tokenizer, rows = calibrated
    model = copy.deepcopy(before)
    few = [row for row in rows if len(row["visits"]) > 2][: FEWEST - 1]
    visits = sum(len(row["visits"]) - 1 for row in few)
    assert visits >= FEWEST and calibrate(model, tokenizer, few) == Calibration(visits, cut=True, conformal=False)
    assert model.config.calibration is not None and model.config.conformal is None
    # So few say little of weighted F1: the sets are cut where they are as large as the true ones altogether
    samples = prediction_samples(few, model.config.codes, "every")
    sizes = rank_samples(model, tokenizer, samples).set_sizes
    assert int(sizes.sum()) == sum(len(sample.target) for sample in samples)


def test_saved_with_the_checkpoint(calibrated, tmp_path):
    from transformers import AutoModel

    _, model, tokenizer, rows = calibrated
    calibrate(model, tokenizer, rows, rerank_depth=6)
    model.save_pretrained(tmp_path)
    samples = prediction_samples(rows, CODES)
    ours = rank_samples(model, tokenizer, samples)
    theirs = rank_samples(AutoModel.from_pretrained(tmp_path), tokenizer, samples)
    assert np.array_equal(ours.order, theirs.order) and np.array_equal(ours.set_sizes, theirs.set_sizes)
    assert measure(ours, samples) == evaluate_ranking(theirs.order, theirs.set_sizes, samples, [10])


def test_sets_of_a_known_coverage_are_fitted_to_the_calibrated_ranking(calibrated):
    before, _, tokenizer, rows = calibrated
    once, apart = copy.deepcopy(before), copy.deepcopy(before)
    assert calibrate(once, tokenizer, rows, rerank_depth=6) == Calibration(40, cut=True, conformal=True)
    fit_cut(apart, tokenizer, rows, rerank_depth=6)
    assert apart.config.conformal is None and fit_conformal(apart, tokenizer, rows)
    assert once.config.to_dict() == apart.config.to_dict() and once.config.conformal["patients"] == 40


def test_inside_an_adapter(calibrated):
    before, _, tokenizer, rows = calibrated
    base, model = copy.deepcopy(before), copy.deepcopy(before)
    wrapped = wrap_with_adapter(base, ModelConfig(use_peft=True, lora_r=2))
    found = calibrate(wrapped, tokenizer, rows, rerank_depth=6)
    assert found.cut and found.conformal
    calibrate(model, tokenizer, rows, rerank_depth=6)
    assert base.config.to_dict() == model.config.to_dict()
    assert torch.equal(wrapped.get_base_model().ranking_head.value_weight, model.ranking_head.value_weight)


@pytest.mark.parametrize("enough", [True, False])
def test_a_prepared_dataset_is_ranked_once_with_the_fitted_model(calibrated, enough, monkeypatch):
    """Two passes fit, over the training patients where those of validation are too few, and one is for sets and figures."""
    before, _, tokenizer, rows = calibrated
    validation = patients(40 if enough else 10, seed=14)
    passes, decisions = [], MeraForDiagnosis.decisions

    def counted(self, patients, *arguments, **keywords):
        passes.append(len(patients))
        return decisions(self, patients, *arguments, **keywords)

    monkeypatch.setattr(MeraForDiagnosis, "decisions", counted)
    once, apart = copy.deepcopy(before), copy.deepcopy(before)
    dataset = {"train": rows, "validation": validation}
    calibration, metrics = calibrate_and_measure(once, tokenizer, dataset, rerank_depth=6)
    assert passes == [40, 40, len(validation)]
    assert calibration == Calibration(40, cut=True, conformal=enough)
    fit_cut(apart, tokenizer, validation if enough else rows, rerank_depth=6)
    assert fit_conformal(apart, tokenizer, validation) is enough
    assert once.config.to_dict() == apart.config.to_dict()
    samples = prediction_samples(validation, CODES)
    ranking = rank_samples(apart, tokenizer, samples)
    assert metrics == evaluate_ranking(ranking.order, ranking.set_sizes, samples, [10])


def test_without_validation_patients_there_are_no_figures(calibrated):
    before, _, tokenizer, rows = calibrated
    calibration, metrics = calibrate_and_measure(
        copy.deepcopy(before), tokenizer, {"train": rows, "validation": []}, 6
    )
    assert metrics == {} and calibration == Calibration(40, cut=True, conformal=False)


def test_errors_name_the_argument(calibrated):
    before, _, tokenizer, rows = calibrated
    model = copy.deepcopy(before)
    unknown = [{**rows[0], "visits": [{"codes": ["ICD9CM:999.9"], "text": None}] * 2}]
    for arguments, says in (
        ((model, word_tokenizer(["other"]), rows), "`tokenizer` does not belong to this model"),
        ((model, tokenizer, []), "`patients` has nobody with two visits"),
        ((model, tokenizer, patients(3, fewest_visits=1, most_visits=1)), "`patients` has nobody with two visits"),
        ((model, tokenizer, unknown), "not among the 19 codes"),
        ((model, tokenizer, rows, -1), "`rerank_depth` is -1"),
    ):
        with pytest.raises(InputError, match=says):
            calibrate(*arguments)
    assert model.config.to_dict() == before.config.to_dict(), "nothing was changed"
