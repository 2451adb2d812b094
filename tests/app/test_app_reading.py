"""From a patient to the ranking under any cut, without running the model again."""

import pytest
import torch
from tiny import CODES

from mera_hf.app.reading import ChosenCut, ranked, read, scale


KINDS = {"plain": "probability", "weighed": "worth", "by_logit": "logit"}


@pytest.fixture(params=KINDS)
def opened(request, rows):
    model, tokenizer = request.getfixturevalue(request.param)
    return model, [read(model, tokenizer, row) for row in rows], rows, tokenizer


def test_without_a_cut_it_is_the_ranking_of_the_model(opened):
    model, readings, rows, tokenizer = opened
    ranking = model.rank(rows, tokenizer)
    assert len(set(ranking.set_sizes.tolist())) > 2
    for place, reading in enumerate(readings):
        shown = ranked(model, reading, ChosenCut(), len(CODES))
        assert [row.code for row in shown.rows] == [CODES[code] for code in ranking.order[place]]
        assert [row.rank for row in shown.rows] == list(range(1, len(CODES) + 1))
        assert [row.probability for row in shown.rows] == pytest.approx(
            ranking.probabilities[place].tolist(), abs=1e-6
        )
        assert shown.size == shown.eov_size == ranking.set_sizes[place]
        assert shown.value == model.eov_cut
        assert ranked(model, reading, ChosenCut(), 3).rows == shown.rows[:3]


@pytest.mark.parametrize("value", [-1.0, -0.05, 0.0, 0.02, 0.1, 0.3, 2.0])
def test_the_set_is_the_head_of_the_ranking_above_the_cut(opened, value):
    model, readings, _, _ = opened
    depth = model.config.rerank_depth or len(CODES)
    for reading in readings:
        shown = ranked(model, reading, ChosenCut(value), len(CODES))
        probabilities = model.log_odds(reading.output, *reading.history).sigmoid()[0].tolist()
        head = model.ranking_head
        for row in shown.rows:
            index = CODES.index(row.code)
            worth = float(head.value_weight[index]) * (probabilities[index] - float(head.value_threshold[index]))
            if model.config.eov_offset is not None:
                worth = float(reading.output.code_logits[0, index] - reading.output.eov_logits[0])
            assert row.value == pytest.approx(worth, abs=1e-6)
        above = [row.rank for row in shown.rows[:depth] if row.value > value]
        assert len(above) == shown.size
        if (
            model.config.rerank_depth
        ):  # the head is in the order of its values, so that the line stands between the two
            assert above == list(range(1, shown.size + 1))
        assert shown.eov_size == ranked(model, reading, ChosenCut(), 1).size and shown.value == value


def test_moving_the_cut_is_what_another_config_would_say(opened):
    model, readings, rows, tokenizer = opened
    name = "eov_value" if model.config.eov_offset is None else "eov_offset"
    fitted = getattr(model.config, name)
    for value in (0.03, 0.2):
        shown = [ranked(model, reading, ChosenCut(value), 5).size for reading in readings]
        try:
            setattr(model.config, name, value)
            assert shown == model.rank(rows, tokenizer).set_sizes.tolist()
        finally:
            setattr(model.config, name, fitted)


def test_sets_only_shrink_as_the_cut_rises_and_the_order_stays(opened):
    model, readings, _, _ = opened
    for reading in readings:
        steps = [ranked(model, reading, ChosenCut(value / 50), len(CODES)) for value in range(-20, 50)]
        sizes = [step.size for step in steps]
        assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 3
        assert all(step.rows == steps[0].rows for step in steps)


def test_a_known_coverage_takes_the_codes_by_their_share(plain, rows):
    model, tokenizer = plain
    for row in rows:
        reading = read(model, tokenizer, row)
        shares = reading.output.code_logits.softmax(-1)[0]
        for of in ("codes", "visits"):
            for level, threshold in model.config.conformal[of].items():
                shown = ranked(model, reading, ChosenCut(coverage=float(level), coverage_of=of), 5)
                assert shown.size == int((shares >= threshold).sum())


def test_the_scale_holds_what_the_cut_can_move_eov_and_the_cut(opened):
    model, readings, _, _ = opened
    for reading in readings:
        for cut in (ChosenCut(), ChosenCut(0.9), ChosenCut(-0.4)):
            found = scale(model, reading, cut)
            assert found.low <= found.eov <= found.high
            # The scale of probabilities begins at 0, below which this cut lies
            assert (found.low <= found.value) is not (found.unit == "probability" and cut.value == -0.4)
            values = [row.value for row in found.rows]
            assert max(values) < found.high and found.eov == model.eov_cut
            assert found.value == (found.eov if cut.value is None else cut.value)
            assert found.step == pytest.approx((found.high - found.low) / 200)
            # Its ends take every code in and leave every one out
            assert ranked(model, reading, ChosenCut(found.high), 1).size == 0
            assert ranked(model, reading, ChosenCut(found.low), 1).size == len(found.rows)
        wanted = (
            "worth" if model.config.rerank_depth else "probability" if model.config.eov_offset is None else "logit"
        )
        assert scale(model, reading, ChosenCut()).unit == wanted
        assert len(found.rows) == (model.config.rerank_depth or len(CODES))


def test_nothing_of_the_model_is_changed_by_looking(plain, rows):
    model, tokenizer = plain
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reading = read(model, tokenizer, rows[0])
    ranked(model, reading, ChosenCut(0.3), 5)
    scale(model, reading, ChosenCut())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.eov_value == 0.15 and not reading.output.code_logits.requires_grad
