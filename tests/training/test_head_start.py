import copy
import math
import random

import pytest
import torch
from tiny import CODES, encoder_of, tiny_mera

from mera_hf.data.timelines import TimelineDataset
from mera_hf.training.head_start import start_ranking_head


def cohort(repeat: float, count: int = 150, seed: int = 0) -> list[dict]:
    """Patients of three visits; a code is one of the visit before with probability `repeat`, else drawn from a skewed
    prevalence."""
    draw = random.Random(seed)
    chances = [1 / (1 + index) for index in range(len(CODES))]
    rows = []
    for _ in range(count):
        visits = []
        for _ in range(3):
            codes = set()
            while len(codes) < 3:
                old = visits and draw.random() < repeat
                codes.add(draw.choice(visits[-1]["codes"]) if old else draw.choices(CODES, chances)[0])
                if old and codes >= set(visits[-1]["codes"]):
                    break
            visits.append({"codes": sorted(codes)})
        rows.append({"profile": None, "visits": visits})
    return rows


def started(rows, **fields):
    model, tokenizer = tiny_mera("llama", head=False, **fields)
    dataset = TimelineDataset(rows, encoder_of(model, tokenizer))
    start_ranking_head(model.ranking_head, dataset, model.config)
    return model.ranking_head, dataset


def test_log_prevalence_is_exact():
    rows = [
        {"profile": None, "visits": [{"codes": [CODES[0], CODES[2]]}, {"codes": [CODES[0]]}]},
        {"profile": None, "visits": [{"codes": [CODES[0]]}, {"codes": [CODES[1], CODES[1]]}]},
        {"profile": None, "visits": [{"codes": [CODES[2]]}, {"codes": [CODES[0]]}]},
    ]
    head, _ = started(rows)
    patients = [3, 1, 2] + [0] * (len(CODES) - 3)  # a patient counts once
    expected = torch.tensor([math.log((count + 0.5) / (3 + 1)) for count in patients])
    torch.testing.assert_close(head.log_prevalence, expected)


def repetition(head, code: int) -> float:
    """What the history term adds to a code of the last visit, with no hidden state: once, and in one visit of one."""
    features = torch.tensor([1, 0, math.log(2), 1, 0, 1, 1, head.log_prevalence[code]])
    return float(head.patient_gate.bias.detach() @ features)


def test_planted_repetition_is_found():
    often, _ = started(cohort(0.9))
    seldom, _ = started(cohort(0.0))
    for code in (3, 10):
        assert repetition(often, code) > 2.0
        assert abs(repetition(seldom, code)) < 1.0
        assert repetition(often, code) > repetition(seldom, code) + 2
    for head in (often, seldom):
        assert not head.patient_gate.weight.any() and not head.code_gate.weight.any()


def test_planted_prevalence_is_found():
    head, _ = started(cohort(0.0, count=400))
    bias = head.code_bias[:-1].detach()
    slope = (bias / head.log_prevalence).unique()
    torch.testing.assert_close(slope.min(), slope.max())  # one temperature for all codes
    assert 0.5 < float(slope.mean()) < 1.8
    # In the softmax the bias gives the planted chances again, roughly
    chances = torch.tensor([1 / (1 + index) for index in range(len(CODES))])
    planted = (chances / chances.sum()).log()
    assert torch.corrcoef(torch.stack([bias.log_softmax(0), planted]))[0, 1] > 0.95


def test_the_fit_lowers_the_loss_of_the_model(tmp_path):
    from test_mera_trainer import trainer_of

    model, tokenizer = tiny_mera("llama", head=False)
    with torch.no_grad():
        model.code_rows().mul_(0.01)  # what the language model says at random is not in the fit
    rows = cohort(0.6)
    losses = {}
    for start_head in (False, True):
        trainer = trainer_of(model, tokenizer, tmp_path, rows, cohort(0.6, seed=1), start_head=start_head)
        losses[start_head] = trainer.evaluate()["eval_loss"]
    assert losses[True] < losses[False] - 0.5


def test_a_patient_is_left_out_of_the_prevalence_it_is_fitted_with():
    """Every patient repeats a code that nobody else has. With the patient's own visits in it, prevalence would explain
    that; without them every such code is equally rare, and repetition has to."""
    rows = [{"profile": None, "visits": [{"codes": [code]}, {"codes": [code]}]} for code in CODES]
    head, _ = started(rows)
    assert repetition(head, 3) > 3.0
    uniform = head.log_prevalence
    torch.testing.assert_close(uniform, torch.full_like(uniform, math.log(1.5 / (len(CODES) + 1))))


@pytest.mark.parametrize(("code_bias", "history_term"), [(True, False), (False, True), (False, False)])
def test_parts_that_a_head_does_not_have_are_left_out(code_bias, history_term):
    head, _ = started(cohort(0.5, count=20), code_bias=code_bias, history_term=history_term)
    assert head.log_prevalence.any()
    assert hasattr(head, "code_bias") == code_bias and hasattr(head, "patient_gate") == history_term


def test_the_start_is_the_same_every_time_and_leaves_the_timelines_alone():
    rows = cohort(0.5, count=40)
    head, dataset = started(rows)
    timelines = copy.deepcopy([dataset[row] for row in range(40)])
    again, _ = started(rows)
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert tensor.isfinite().all()
    assert [dataset[row] for row in range(40)] == timelines


def test_patients_with_first_visits_alone_can_start_a_head():
    model, tokenizer = tiny_mera("llama", head=False)
    rows = [{"profile": None, "visits": row["visits"][:1]} for row in cohort(0.0, count=12)]
    start_ranking_head(model.ranking_head, TimelineDataset(rows, encoder_of(model, tokenizer), 0), model.config)
    assert all(tensor.isfinite().all() for tensor in model.ranking_head.state_dict().values())
    assert not model.ranking_head.patient_gate.bias.any()  # nothing to learn repetition from
