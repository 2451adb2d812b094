"""Encoder-decoders: the encoder reads the history of one visit, the decoder writes that visit."""

import random

import pytest
import torch
from tiny import CODES, ENCODER_DECODERS, T5, batch_of, encoder_of, patients, save_base, tiny_mera
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from mera_hf.configuration_mera import MeraConfig
from mera_hf.data.timelines import TimelineDataset
from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import collate_pairs, collate_timelines
from mera_hf.training.code_tokens import add_code_tokens, load_base


@pytest.fixture
def t5():
    return tiny_mera("t5")


def forward(model, batch: dict):
    with torch.no_grad():
        return model(**{name: tensor for name, tensor in batch.items() if name in FORWARD_INPUTS})


def visit(*codes: int, text: str | None = None) -> dict:
    return {"codes": [CODES[code] for code in codes], "text": text}


def rows_of(batch: dict):
    return zip(batch["input_ids"], batch["attention_mask"], strict=True)


# -- batches ------------------------------------------------------------------------------------------------------


def test_pairs_by_hand(t5):
    model, tokenizer = t5
    config = model.config
    code, start, eov, bos = config.code_token_start, config.visit_token_id, config.eov_token_id, tokenizer.bos_token_id
    encoder = encoder_of(model, tokenizer)
    first = encoder.encode({"visits": [visit(4), visit(2, 0), visit(3)]})
    second = encoder.encode_history({"visits": [visit(5, 6)]})
    batch = collate_pairs([first, second], pad_token_id=9, decoder_start_token_id=8)
    head = [bos, config.profile_token_id]
    one = [*head, start, code + 4, eov]
    two = [*one, start, code, code + 2, eov]
    three = [*head, start, code + 5, code + 6, eov]
    assert batch["input_ids"].tolist() == [one + [9] * 4, two, three + [9] * 3]
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0] * 4, [1] * 9, [1] * 6 + [0] * 3]
    assert batch["decoder_input_ids"].tolist() == [
        [8, start, code, code + 2],
        [8, start, code + 3, 9],
        [8, start, 9, 9],
    ]
    assert batch["decision_index"].tolist() == [1, 2, 3, 5, 6, 9]
    # What is to be learned there is the same as for a decoder alone
    timelines = collate_timelines([first, second], 9)
    assert batch.keys() == timelines.keys() - {"position_ids"} | {"decoder_input_ids"}
    for name in (
        "decision_visit",
        "decision_given",
        "visit_patient",
        "visit_codes",
        "history_codes",
        "history_values",
    ):
        assert torch.equal(batch[name], timelines[name]), name
    assert batch["visit_patient"].tolist() == [0, 0, 1] and batch["decision_visit"].tolist() == [0, 0, 0, 1, 1, 2]


def test_pairs_of_thinned_decisions_and_of_the_first_visit(t5):
    model, tokenizer = t5
    encoder = encoder_of(model, tokenizer)
    timeline = encoder.encode({"visits": [visit(4), visit(0, 2, 5)]}, first_target=0)
    keep = [0, 2, 4]  # of the decisions 0, 1 | 0, 1, 2, 3
    for name in ("decisions", "decision_visits", "decision_given"):
        setattr(timeline, name, [getattr(timeline, name)[at] for at in keep])
    batch = collate_pairs([timeline], 0, 0)
    code, start = model.config.code_token_start, model.config.visit_token_id
    assert batch["input_ids"][0].tolist() == [tokenizer.bos_token_id, model.config.profile_token_id, 0, 0, 0]
    assert batch["decoder_input_ids"].tolist() == [[0, start, 0, 0], [0, start, code, code + 2]]
    assert batch["decision_index"].tolist() == [1, 5, 7]
    assert batch["decision_given"].tolist() == [0, 0, 2]


def test_nothing_of_a_visit_is_read_before_it_is_written(t5):
    """Other codes and texts in a visit and behind it change neither what its encoder reads nor its first decision."""
    model, tokenizer = tiny_mera("t5", use_visit_text=True)
    encoder = encoder_of(model, tokenizer)
    for row in patients(4, seed=6, fewest_visits=4):
        other = [*row["visits"][:2], *({"codes": CODES[::-4], "text": "transferred"} for _ in row["visits"][2:])]
        batches = [
            collate_pairs([encoder.encode({**row, "visits": visits})], 0, 0) for visits in (row["visits"], other)
        ]
        outputs = [forward(model, batch) for batch in batches]
        read = [[ids[mask == 1].tolist() for ids, mask in rows_of(batch)] for batch in batches]
        firsts = [o.code_logits[batch["decision_given"] == 0] for o, batch in zip(outputs, batches, strict=True)]
        # The first two visits are the history of the third; the fourth has another one now
        assert read[0][:2] == read[1][:2] and read[0][2] != read[1][2]
        torch.testing.assert_close(firsts[0][:2], firsts[1][:2], rtol=0, atol=1e-5)
        assert (firsts[0][2] - firsts[1][2]).abs().max() > 1e-3


def test_codes_that_are_yet_to_be_written_are_not_read(t5):
    """The decoder reads from left to right: a decision does not depend on the codes behind it."""
    model, tokenizer = t5
    batch = collate_pairs([encoder_of(model, tokenizer).encode({"visits": [visit(4), visit(0, 2, 5)]})], 0, 0)
    plain = forward(model, batch)
    batch["decoder_input_ids"][0, 4] = model.config.code_token_start + 9
    other = forward(model, batch)
    torch.testing.assert_close(plain.code_logits[:3], other.code_logits[:3], rtol=0, atol=1e-6)
    assert (plain.code_logits[3] - other.code_logits[3]).abs().max() > 1e-3


# -- one row a visit against one pass a decision -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("t5", {"use_visit_text": True}),
        ("t5", {"history_text": "code+description"}),
        ("flan_t5", {"history_text": "description"}),
        ("bart", {}),
    ],
)
def test_a_row_equals_one_pass_of_the_language_model_per_decision(family, fields, tmp_path):
    """On the logits of transformers' own model, with a head that is zero and an output matrix that may be untied."""
    _, tokenizer = save_base(tmp_path, family)
    model = load_base(str(tmp_path)).eval()
    add_code_tokens(model, tokenizer, CODES, **fields)
    encoder = encoder_of(model, tokenizer)
    timelines = [encoder.encode(row, 1, random.Random(at)) for at, row in enumerate(patients(3, seed=4))]
    together = forward(model, batch_of(model, timelines, tokenizer.pad_token_id))
    codes = slice(model.config.code_token_start, model.config.code_token_start + len(CODES))
    decision = 0
    for timeline in timelines:
        starts = [at for at, token in enumerate(timeline.input_ids) if token == model.config.visit_token_id]
        for place, number in zip(timeline.decisions, timeline.decision_visits, strict=True):
            start = starts[number]
            read = torch.tensor([timeline.input_ids[:start]])
            said = torch.tensor([[model.config.decoder_start_token_id, *timeline.input_ids[start : place + 1]]])
            with torch.no_grad():
                logits = model.language_model(input_ids=read, decoder_input_ids=said).logits[0, -1]
            torch.testing.assert_close(together.code_logits[decision], logits[codes], rtol=1e-4, atol=1e-4)
            eov = logits[model.config.eov_token_id]
            torch.testing.assert_close(together.eov_logits[decision], eov, rtol=1e-4, atol=1e-4)
            decision += 1
    assert decision == len(together.eov_logits)


def test_padding_and_the_order_of_the_batch_change_nothing(t5):
    model, tokenizer = t5
    timelines = [encoder_of(model, tokenizer).encode(row) for row in patients(5, seed=1)]
    together = forward(model, batch_of(model, timelines))
    counts = [len(timeline.decisions) for timeline in timelines]
    alone = torch.cat([forward(model, batch_of(model, [timeline])).code_logits for timeline in timelines])
    torch.testing.assert_close(together.code_logits, alone, rtol=0, atol=1e-5)
    back = forward(model, batch_of(model, timelines[::-1])).code_logits.split(counts[::-1])
    torch.testing.assert_close(together.code_logits, torch.cat(back[::-1]), rtol=0, atol=1e-5)
    other = forward(model, batch_of(model, timelines, pad_token_id=7))
    torch.testing.assert_close(together.code_logits, other.code_logits, rtol=0, atol=1e-5)


def test_forward_without_decisions_reads_the_last_token_of_the_decoder(t5):
    model, tokenizer = t5
    batch = batch_of(model, [encoder_of(model, tokenizer).encode_history(row) for row in patients(4)])
    assert (batch["attention_mask"] == 0).any()  # of the encoder, where the histories differ in length
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    output = forward(model, {name: batch[name] for name in names})
    torch.testing.assert_close(output.code_logits, forward(model, batch | {"history_codes": None}).code_logits)


def test_a_long_history_loses_its_oldest_visits(t5):
    model, tokenizer = t5
    row = {"visits": [visit(1, 2), visit(3), visit(4, 5), visit(6)]}
    whole, cut = (
        collate_pairs([encoder_of(model, tokenizer, length).encode(row)], 0, 0)["input_ids"][-1].tolist()
        for length in (None, 13)
    )
    assert len(whole) == 13 and cut == whole[:2] + whole[6:]
    dataset = TimelineDataset([row], encoder_of(model, tokenizer, 13))
    assert dataset.unread_visits == 1


# -- config and checkpoints ---------------------------------------------------------------------------------------


def test_what_the_config_says_of_an_encoder_decoder():
    text = AutoConfig.for_model(**T5, vocab_size=32, pad_token_id=3)
    config = MeraConfig(text_config=text)
    assert config.is_encoder_decoder and config.decoder_start_token_id == 3  # the padding, unless it says otherwise
    text.decoder_start_token_id = 5
    assert MeraConfig(text_config=text).decoder_start_token_id == 5
    alone = MeraConfig(text_config=AutoConfig.for_model("llama"))
    assert not alone.is_encoder_decoder and alone.decoder_start_token_id is None
    with pytest.raises(ValueError, match="`positions='visit'` needs a decoder alone: t5 counts positions by itself"):
        MeraConfig(text_config=text, positions="visit")


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_plain_checkpoint_becomes_a_ranker_and_a_checkpoint(family, tmp_path):
    """All keys match, tied stays tied, untied stays untied, words read and write as they did."""
    base, tokenizer = save_base(tmp_path / "base", family)
    model = load_base(str(tmp_path / "base")).eval()
    _, report = type(model).from_pretrained(tmp_path / "base", config=model.config, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    words = len(tokenizer)
    add_code_tokens(model, tokenizer, CODES)

    def check(model):
        language_model = model.language_model
        shared, output = language_model.get_input_embeddings().weight, language_model.get_output_embeddings().weight
        assert len(shared) == len(output) == model.config.text_config.vocab_size == words + len(CODES) + 3
        assert (shared is output) == (family != "flan_t5")
        for side in (language_model.get_encoder(), language_model.get_decoder()):
            assert side.embed_tokens.weight is shared
        ids = torch.tensor([[9, 17, 25, 8]])
        with torch.no_grad():
            logits, wanted = (m(input_ids=ids, decoder_input_ids=ids[:, :3]).logits for m in (language_model, base))
        torch.testing.assert_close(logits[..., :words], wanted)

    check(model)
    model.save_pretrained(tmp_path / "ours")
    again, report = AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    check(again.eval())
    rows = patients(3)
    torch.testing.assert_close(again.rank(rows, tokenizer).logits, model.rank(rows, tokenizer).logits)
    again.resize_token_embeddings(words + len(CODES) + 10)
    same = again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert same == (family != "flan_t5")


def test_the_language_model_alone_goes_back_into_transformers(t5, tmp_path):
    model, tokenizer = t5
    model.language_model.save_pretrained(tmp_path)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[9, model.config.code_token_start + 2]])
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, decoder_input_ids=ids).logits for m in (model.language_model, plain))
    torch.testing.assert_close(ours, theirs)
