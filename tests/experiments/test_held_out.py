"""What a model knows of held-out codes: measures by hand and against loops, groups that add up, words and tables."""

import json

import numpy as np
import pytest
import torch
from tiny import CODES, T5, tiny_mera

from mera_hf.data.memorizing import memorizing_pairs
from mera_hf.experiments import held_out
from mera_hf.experiments.conclusions import _of_held_out
from mera_hf.experiments.held_out import (
    DIRECTIONS,
    KINDS,
    code_scores,
    draw_codes,
    encoder_decoder_like,
    measure_knowledge,
    over_runs,
    places,
    token_f1,
)
from mera_hf.experiments.tables import held_out_by_visits_table, held_out_table
from mera_hf.training.from_scratch import from_scratch
from mera_hf.training.memorization_trainer import PairDataset, exact_match


LEFT_OUT = CODES[2:6]
VISITS = [0, 5, 6, 20, 21, 100, 101, *range(200, 200 + len(CODES) - 7)]


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([3, 1, 2], [1, 2, 3], 1.0),  # the order is not looked at
        ([1, 9], [1, 2, 3], 2 * 0.5 * (1 / 3) / (0.5 + 1 / 3)),
        ([1, 1, 1], [1, 2], 2 * (1 / 3) * 0.5 / (1 / 3 + 0.5)),  # said three times, wanted once
        ([1, 1, 2], [1, 1, 1, 2], 2 * 1 * 0.75 / 1.75),
        ([8, 9], [1], 0.0),
        ([], [1], 0.0),
    ],
)
def test_token_f1_by_hand(said, wanted, f1):
    assert token_f1(said, wanted) == pytest.approx(f1)


def test_places_with_ties_by_hand():
    scores = torch.tensor(
        [[0.5, 2.0, 1.0, 2.0], [0.5, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0], [0.0, -1.0, -2.0, -torch.inf]]
    )
    # Two share the first place, the next stands third; where all are equal, everyone is in the middle
    assert places(scores, torch.tensor([3, 2, 0, 3])).tolist() == [1.5, 3.0, 2.5, 4.0]
    every = places(scores[:1].expand(4, -1), torch.arange(4))
    assert every.sum() == 1 + 2 + 3 + 4


def test_a_fifth_of_the_codes_is_drawn_by_the_seed():
    drawn = draw_codes(CODES, 3)
    assert len(drawn) == round(len(CODES) / 5) and [code for code in CODES if code in drawn] == drawn
    assert draw_codes(CODES, 3) == drawn != draw_codes(CODES, 4)
    assert draw_codes(CODES[::-1], 3) == drawn[::-1], "whatever their order"
    assert len(draw_codes(CODES[:2], 0)) == 1


def test_an_encoder_decoder_of_the_size_of_a_decoder():
    like = encoder_decoder_like({"model_type": "gpt2", "n_embd": 24, "n_layer": 3, "n_head": 2})
    assert like == {"model_type": "t5", "d_model": 24, "d_kv": 12, "d_ff": 96, "num_layers": 3, "num_heads": 2} | {
        "dropout_rate": 0.0
    }
    granite = {"model_type": "granite", "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    like = encoder_decoder_like(granite | {"num_hidden_layers": 1, "attention_dropout": 0.1})
    assert (like["d_ff"], like["d_kv"], like["dropout_rate"]) == (48, 8, 0.0)
    model, _ = from_scratch(like, ["some words"], 0)
    text = model.config.text_config
    assert text.num_decoder_layers == text.num_layers == 1 and model.config.is_encoder_decoder
    assert encoder_decoder_like(T5) is None


def first_word(model, question):
    """Logits of the first word of the answer, from transformers' own forward pass."""
    if model.config.is_encoder_decoder:
        start = torch.tensor([[model.config.decoder_start_token_id]])
        inputs = {"input_ids": torch.tensor([question]), "decoder_input_ids": start}
    else:
        inputs = {"input_ids": torch.tensor([question])}
    with torch.no_grad():
        return model.language_model(**inputs).logits[0, -1]


def answer(model, tokenizer, question, most):
    """One token at a time, to the end of sequence, which is not given back, and whether it came."""
    said = []
    start = model.config.decoder_start_token_id
    while len(said) < most:
        if start is None:
            inputs = {"input_ids": torch.tensor([question + said])}
        else:
            inputs = {"input_ids": torch.tensor([question]), "decoder_input_ids": torch.tensor([[start, *said]])}
        with torch.no_grad():
            token = int(model.language_model(**inputs).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            return said, True
        said.append(token)
    return said, False


@pytest.mark.parametrize("family", ["llama_tied", "t5", "bart"])
def test_scores_are_those_of_the_first_token(family):
    model, tokenizer = tiny_mera(family)
    pairs = [pair for pair in memorizing_pairs(CODES, groups=False) if pair.task == "definition_to_code"]
    items = PairDataset(pairs[::5], tokenizer).items
    found = code_scores(model, tokenizer, items)
    assert found.shape == (len(items), len(CODES)) and found.dtype == torch.float32
    start = model.config.code_token_start
    for row, (question, _) in zip(found, items, strict=True):
        wanted = first_word(model, question)[start : start + len(CODES)]
        torch.testing.assert_close(row, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama_tied", "t5"])
def test_measures_are_those_of_a_loop_over_questions(family):
    model, tokenizer = tiny_mera(family)
    groups = measure_knowledge(model, tokenizer, LEFT_OUT, VISITS, batch_size=5)
    every = {(group["question"], group["codes"]): group for group in groups if group["visits"] == "all"}
    assert list(every) == [(question, kind) for question in DIRECTIONS for kind in KINDS]
    start = model.config.code_token_start
    for question, kind in every:
        if model.config.is_encoder_decoder and kind != "held_out":
            continue  # a loop over all would take long
        pairs = memorizing_pairs(CODES, held_out=kind == "unseen", groups=False)
        pairs = [p for p in pairs if p.task == question and (p.code in LEFT_OUT) == (kind == "held_out")]
        pairs = [pair for pair in pairs if kind == "unseen" or pair.wording == 0]
        items = PairDataset(pairs, tokenizer).items
        most = max(len(wanted) for _, wanted in items)
        right, f1, place = [], [], []
        for pair, (asked, wanted) in zip(pairs, items, strict=True):
            said, ends = answer(model, tokenizer, asked, most)
            right.append(ends and said == wanted[:-1])
            f1.append(token_f1(said, wanted[:-1]))
            scores = first_word(model, asked)[start : start + len(CODES)]
            place.append(1 + int((scores > scores[CODES.index(pair.code)]).sum()))
        found = every[question, kind]
        assert found["count"] == len(pairs) == (4 if kind == "held_out" else len(CODES) - 4)
        assert found["exact_match"] == pytest.approx(np.mean(right))
        assert found["token_f1"] == pytest.approx(np.mean(f1))
        assert ("place" in found) == (question == "definition_to_code")
        assert found.get("place", np.mean(place)) == pytest.approx(np.mean(place))


def knows(model, tokenizer, right):
    """In place of `answers`: the codes of `right` are known in both directions, the others answered by one wrong token."""
    asked = {}
    for held_out_wording in (False, True):
        pairs = memorizing_pairs(CODES, held_out_wording, groups=False)
        for pair, (question, wanted) in zip(pairs, PairDataset(pairs, tokenizer).items, strict=True):
            asked[tuple(question)] = [*wanted, 0] if pair.code in right else [tokenizer.unk_token_id]
    return lambda model, tokenizer, questions, most: [asked[tuple(question)] for question in questions]


def test_groups_add_up(llama, monkeypatch):
    model, tokenizer = llama
    right = [CODES[0], CODES[2], *CODES[7:]]
    monkeypatch.setattr(held_out, "answers", knows(model, tokenizer, right))
    groups = measure_knowledge(model, tokenizer, LEFT_OUT, VISITS)
    json.dumps(groups, allow_nan=False)
    for question in DIRECTIONS:
        for kind in KINDS:
            (every, *bins) = [group for group in groups if (group["question"], group["codes"]) == (question, kind)]
            assert every["visits"] == "all" and sum(group["count"] for group in bins) == every["count"]
            for measure in ("exact_match", "token_f1", "place"):
                if measure in every:
                    total = sum(group["count"] * group[measure] for group in bins)
                    assert total == pytest.approx(every["count"] * every[measure])
            if kind == "held_out":  # codes 2 to 5, with 6, 20, 21 and 100 visits; 2 alone is known
                assert [(group["visits"], group["count"], group["exact_match"]) for group in bins] == [
                    *(("6-20", 2, 0.5), ("21-100", 2, 0.0))
                ]
            else:  # 0 and 1 with 0 and 5 visits; all above 100, but for code 6
                above = len(CODES) - 6
                assert [(group["visits"], group["count"]) for group in bins] == [("<= 5", 2), ("> 100", above)]
                assert bins[0]["exact_match"] == bins[0]["token_f1"] == 0.5
                assert bins[1]["exact_match"] == pytest.approx((above - 1) / above)


def test_of_codes_that_were_asked_about_it_is_the_exact_match_of_the_trainer(llama, monkeypatch):
    model, tokenizer = llama
    monkeypatch.setattr(held_out, "answers", knows(model, tokenizer, CODES[4:]))
    monkeypatch.setattr("mera_hf.training.memorization_trainer.answers", knows(model, tokenizer, CODES[4:]))
    groups = measure_knowledge(model, tokenizer, LEFT_OUT, VISITS)
    asked = [code for code in CODES if code not in LEFT_OUT]
    shares = exact_match(model, tokenizer, asked, groups=False, among=CODES)
    assert shares == {
        f"{group['question']}_{group['codes']}": pytest.approx(group["exact_match"])
        for group in groups
        if group["visits"] == "all" and group["codes"] != "held_out"
    }


def run_of(kind, share, place, bins=("all", "<= 5")):
    groups = []
    for question in DIRECTIONS:
        for codes in KINDS:
            for visits in bins:
                figures = {"question": question, "codes": codes, "visits": visits, "count": 10}
                figures |= {"exact_match": share * (codes != "held_out"), "token_f1": share}
                groups.append(figures | ({"place": place} if question == "definition_to_code" else {}))
    model = {"model_type": kind, "is_encoder_decoder": kind == "t5", "parameters": 1234}
    return {"model": model, "codes": 99, "held_out": ["ICD9CM:428.0"], "groups": groups}


def part():
    small = run_of("granite", 0.9, 2.0), run_of("granite", 0.8, 4.0, ("all", "> 100"))
    return over_runs({"held_out": small, "held_out_t5": [run_of("t5", 0.5, 7.0)] * 2})


def test_figures_over_seeds():
    found = part()
    assert (found["share"], found["codes"]) == (0.2, 99)
    decoder, other = found["models"]
    assert (decoder["title"], other["title"]) == ("decoder (granite)", "encoder-decoder (t5)")
    assert other["parameters"] == 1234
    first = decoder["groups"][0]
    assert (first["question"], first["codes"], first["visits"]) == ("code_to_definition", "seen", "all")
    assert first["exact_match"]["values"] == [0.9, 0.8] and "place" not in first
    by_visits = [group for group in decoder["groups"] if group["visits"] != "all"]
    assert [group["visits"] for group in by_visits[:2]] == ["<= 5", "> 100"]
    assert by_visits[0]["exact_match"] == 0.9, "one seed has such codes"
    assert "428" not in json.dumps(found), "which codes were held out is in the runs"


def test_words_and_tables():
    says = _of_held_out(part())
    assert says[0] == (
        "With 20 % of the codes held out of the questions, the decoder (granite) gives the definition of the others in "
        "85.0 ± 7.1 % of cases and of these in 0.0 % (token F1 85.0 ± 7.1 and 85.0 ± 7.1), and the code of a definition in "
        "85.0 ± 7.1 % and 0.0 %; the right code stands at place 3.0 ± 1.4 and 3.0 ± 1.4 of 99 on average, by chance at 50.0."
    )
    assert says[1].startswith("With 20 % of the codes held out of the questions, the encoder-decoder (t5) gives")
    result = {"memorization": {"held_out": part()}}
    table = held_out_table(result)
    assert [len(row.texts) for row in table.rows] == [len(table.headings) - 1] * 6
    assert table.rows[5].title == "encoder-decoder (t5): held-out codes, words trained on"
    assert table.rows[5].texts == ["10", "0.0", "50.0", "0.0", "50.0", "7.0"]
    assert table.rows[4].title == "encoder-decoder (t5): seen codes, other words"
    by_visits = held_out_by_visits_table(result)
    assert [row.title.rsplit(", ", 1)[1] for row in by_visits.rows] == ["<= 5 visits", "> 100 visits"] * 3 + [
        "<= 5 visits"
    ] * 3
