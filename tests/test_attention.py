"""No attention across patients, nor across the orders of a visit, whatever implements the attention."""

import contextlib
import copy
import dataclasses

import pytest
import torch
from tiny import encoder_of, patients, tiny_mera
from transformers import AttentionInterface, AutoConfig, AutoModel

from mera_hf.attention_mera import attention_arguments, check_attention
from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import Timeline, collate_timelines


def flash_stand_in(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """What flash attention does with `cu_seq_lens`, by plain attention: all rows in one line, cut there. (B, H, S, d)"""
    assert attention_mask is None and torch.equal(kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"])
    cuts = kwargs["cu_seq_lens_q"].tolist()
    assert kwargs["max_length_q"] == max(end - begin for begin, end in zip(cuts, cuts[1:], strict=False))
    query, key, value = (
        part.transpose(1, 2).flatten(0, 1).transpose(0, 1) for part in (query, key, value)
    )  # (H, B S, d)
    key, value = (part.repeat_interleave(len(query) // len(part), 0) for part in (key, value))
    pieces = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, begin:end], key[:, begin:end], value[:, begin:end], is_causal=True, scale=scaling
        )
        for begin, end in zip(cuts, cuts[1:], strict=False)
    ]
    rows, length = kwargs["position_ids"].shape if "position_ids" in kwargs else (1, cuts[-1])
    assert cuts[-1] == rows * length
    return torch.cat(pieces, 1).transpose(0, 1).unflatten(0, (rows, length)), None


AttentionInterface.register("flash_stand_in", flash_stand_in)

IMPLEMENTATIONS = [
    "eager",
    "sdpa",
    "flex_attention",
    "flash_stand_in",
    pytest.param("flash_attention_2", marks=pytest.mark.gpu),
]


@contextlib.contextmanager
def attention(model, name: str):
    """The model with that implementation; flex attention runs without its compiler, which takes half a minute."""
    if name == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="flash_attn is not installed")
        if not torch.cuda.is_available():
            pytest.skip("flash attention needs a GPU")
        model = copy.deepcopy(model).to("cuda", torch.bfloat16)
    if name == "flash_stand_in":
        model.language_model.config._attn_implementation = name
    else:
        model.language_model.set_attn_implementation(name)
    with torch.compiler.set_stance("force_eager" if name == "flex_attention" else "default"):
        yield model


def decisions(model, batch: dict) -> torch.Tensor:
    """Logits of codes and EOV, shape `(P, C + 1)`."""
    with torch.no_grad():
        output = model(**{name: batch[name].to(model.device) for name in FORWARD_INPUTS if name in batch})
    return torch.cat([output.code_logits, output.eov_logits[:, None]], 1).float().cpu()


def tolerance(name: str) -> float:
    return 0.05 if name == "flash_attention_2" else 1e-5  # bfloat16, logits of about 1


def changed(timeline: Timeline, model) -> Timeline:
    """The same timeline with other codes and words, of the same form."""
    vocabulary = model.config.text_config.vocab_size
    return dataclasses.replace(timeline, input_ids=[(token * 7 + 3) % vocabulary for token in timeline.input_ids])


# -- what each token sees -------------------------------------------------------------------------------------------


def seen_by_definition(batch: dict, row: int, timelines: list[Timeline], lefts: list[int]) -> torch.Tensor:
    """Patient, branch and end of the trunk of each token, and the rule over all pairs, in loops."""
    width = batch["input_ids"].shape[1]
    patient, branch, limit = [-1] * width, [-1] * width, [0] * width
    for number, (timeline, left) in enumerate(zip(timelines, lefts, strict=True)):
        for at in range(len(timeline.input_ids)):
            patient[left + at], limit[left + at] = number, left + at + 1
            for index, (start, end_of_trunk) in enumerate(timeline.branches):
                if at >= start:
                    branch[left + at], limit[left + at] = index, left + end_of_trunk
    table = torch.zeros(width, width, dtype=torch.bool)
    for q in range(width):
        for k in range(width):
            if patient[q] < 0:
                table[q, k] = q == k
            elif patient[q] == patient[k]:
                table[q, k] = (branch[k] == -1 and k < limit[q]) or (branch[k] == branch[q] and k <= q)
    return table


@pytest.mark.parametrize("side", ["right", "left"])
def test_masks_are_the_rule_over_all_pairs(side, llama):
    model, tokenizer = llama
    encoder, rows = encoder_of(model, tokenizer), patients(2, seed=3)
    tree, plain = encoder.encode_tree(rows[0], orders=2), encoder.encode(rows[1])
    lengths = [len(tree.input_ids), len(plain.input_ids)]
    embeddings = torch.zeros(1, dtype=torch.float64)
    for packed in (False, True):
        batch = collate_timelines([tree, plain], 0, side, packed)
        if packed:
            wanted = [seen_by_definition(batch, 0, [tree, plain], [0, lengths[0]])]
        else:
            lefts = [max(lengths) - length if side == "left" else 0 for length in lengths]
            wanted = [
                seen_by_definition(batch, row, [timeline], [lefts[row]]) for row, timeline in enumerate((tree, plain))
            ]
        wanted = torch.stack(wanted)[:, None]
        decoder = model.language_model.base_model
        for name in ("sdpa", "eager", "flex_attention"):
            decoder.config._attn_implementation = name
            mask = attention_arguments(decoder, batch["attention_mask"], embeddings)["attention_mask"]
            if name == "sdpa":
                assert torch.equal(mask, wanted)
            elif name == "eager":
                assert mask.dtype == torch.float64
                assert torch.equal(mask == 0, wanted) and (mask[~wanted] < -1e300).all()
            else:
                grid = [torch.arange(size) for size in wanted.shape]
                dense = mask.mask_mod(grid[0][:, None, None], 0, grid[2][:, None], grid[3])
                assert torch.equal(dense[:, None], wanted)


def test_a_row_by_hand():
    """The example at the head of `attention_mera.py`."""
    first = Timeline([0] * 10, [0] * 10, [], [], [], [], {}, branches=[(4, 4), (7, 4)])
    second = Timeline([0] * 4, [0] * 4, [], [], [], [], {})
    spans = collate_timelines([first, second], 0, packed=True)["attention_mask"]
    expected = [[0, 0, 0]] * 4 + [[0, 4, 4]] * 3 + [[0, 4, 7]] * 3 + [[10, 10, 10]] * 4
    assert spans.tolist() == [expected]
    assert (first.reach, second.reach) == (7, 4)
    # Without branches and padding there is nothing to say
    assert collate_timelines([second, second], 0)["attention_mask"].tolist() == [[1] * 4] * 2


def test_flash_attention_is_told_where_sequences_begin(llama):
    decoder = llama[0].language_model.base_model
    decoder.config._attn_implementation = "flash_stand_in"
    timelines = [Timeline([0] * count, [0] * count, [], [], [], [], {}) for count in (5, 2, 3)]

    def told(batch):
        told = attention_arguments(decoder, batch["attention_mask"], torch.zeros(1))
        return (
            told["attention_mask"],
            told["cu_seq_lens_q"].tolist(),
            told["max_length_q"],
            told["cu_seq_lens_k"].dtype,
        )

    packed = collate_timelines(timelines, 0, packed=True)
    assert told(packed) == (None, [0, 5, 7, 10], 5, torch.int32)
    # One row is one sequence, whatever its positions; of several rows the mask tells
    assert told(collate_timelines(timelines[:1], 0)) == (None, [0, 5], 5, torch.int32)
    mask = collate_timelines(timelines, 0)["attention_mask"]
    assert attention_arguments(decoder, mask, torch.zeros(1)) == {"attention_mask": mask}


# -- what the model makes of it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("positions", ["token", "visit"])
def test_packed_decisions_are_those_of_each_patient_alone(positions, name):
    model, tokenizer = tiny_mera("llama", positions=positions)
    timelines = [encoder_of(model, tokenizer).encode(row) for row in patients(4, seed=1)]
    alone = torch.cat([decisions(model, collate_timelines([timeline], 0)) for timeline in timelines])
    with attention(model, name) as model:
        packed = decisions(model, collate_timelines(timelines, 0, packed=True))
    torch.testing.assert_close(packed, alone, rtol=0, atol=tolerance(name))


@pytest.mark.parametrize("family", ["gpt2", "mistral", "qwen2", "gemma2", "gpt_neox", "cohere", "phi"])
def test_families_keep_the_sequences_of_a_row_apart(family):
    model, tokenizer = tiny_mera(family)
    encoder, rows = encoder_of(model, tokenizer), patients(3, seed=1)
    timelines = [encoder.encode_tree(row, orders=2) for row in rows] + [encoder.encode(rows[0])]
    for name in ("sdpa", "eager") if family != "gemma2" else ("eager",):  # the other would leave out the cap of scores
        with attention(model, name):
            alone = torch.cat([decisions(model, collate_timelines([timeline], 0)) for timeline in timelines])
            packed = decisions(model, collate_timelines(timelines, 0, packed=True))
        torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("side", ["right", "left", "packed"])
def test_a_patient_changes_no_other(side, name, llama):
    if name == "flash_stand_in" and side != "packed":
        pytest.skip("flash attention is told of padding by transformers, which the stand-in does without")
    model, tokenizer = llama
    encoder, rows = encoder_of(model, tokenizer), patients(4, seed=2)
    for tree in (False, True):
        if tree and name.startswith("flash"):
            continue  # refused, see below
        timelines = [encoder.encode_tree(row, orders=2) if tree else encoder.encode(row) for row in rows]
        counts = [len(timeline.decisions) for timeline in timelines]
        how = {"packed": True} if side == "packed" else {"padding_side": side}
        with attention(model, name) as run:
            before = decisions(run, collate_timelines(timelines, 0, **how)).split(counts)
            for victim in range(4):
                others = [changed(t, model) if row == victim else t for row, t in enumerate(timelines)]
                after = decisions(run, collate_timelines(others, 0, **how)).split(counts)
                for row in range(4):
                    if row == victim:
                        assert (after[row] - before[row]).abs().amax(1).min() > 1e-2
                    else:
                        torch.testing.assert_close(after[row], before[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", IMPLEMENTATIONS[:3])
def test_a_branch_changes_no_other_and_no_later_visit_an_earlier(name, llama):
    model, tokenizer = llama
    row = patients(1, seed=5, fewest_visits=4)[0]
    tree = encoder_of(model, tokenizer).encode_tree(row, orders=2)
    assert len(tree.branches) == 6
    branch_of = torch.tensor(tree.decision_visits)
    limits = torch.tensor([limit for _, limit in tree.branches])
    with attention(model, name) as model:
        before = decisions(model, collate_timelines([tree], 0))
        for begin, end, is_changed in [
            *((begin, end, branch_of == at) for at, (begin, _, end) in enumerate(tree.pieces[1:])),
            # The trunk between the second and the third visit to predict
            (int(limits[2]), int(limits[4]), limits[branch_of] > limits[2]),
        ]:
            ids = list(tree.input_ids)
            ids[begin:end] = [(token * 7 + 3) % model.config.text_config.vocab_size for token in ids[begin:end]]
            after = decisions(model, collate_timelines([dataclasses.replace(tree, input_ids=ids)], 0))
            torch.testing.assert_close(after[~is_changed], before[~is_changed], rtol=0, atol=1e-6)
            assert (after[is_changed] - before[is_changed]).abs().amax(1).min() > 1e-3


@pytest.mark.slow
def test_compiled_flex_attention_keeps_orders_and_patients_apart(llama, monkeypatch):
    """As it runs outside of tests. With changing lengths torch's compiler for CPUs writes C++ that has errors."""
    monkeypatch.setattr(torch._dynamo.config, "automatic_dynamic_shapes", False)
    torch._dynamo.reset()
    model, tokenizer = llama
    encoder, rows = encoder_of(model, tokenizer), patients(3, seed=1)
    timelines = [encoder.encode_tree(row, orders=2) for row in rows] + [encoder.encode(rows[0])]
    alone = torch.cat([decisions(model, collate_timelines([timeline], 0)) for timeline in timelines])
    model.language_model.set_attn_implementation("flex_attention")
    packed = decisions(model, collate_timelines(timelines, 0, packed=True))
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_window_is_never_lost(family):
    model, tokenizer = tiny_mera(family)
    timelines = [encoder_of(model, tokenizer).encode(row) for row in patients(3, seed=1)]
    packed = collate_timelines(timelines, 0, packed=True)
    longest = max(timeline.reach for timeline in timelines)
    model.config.text_config.sliding_window = longest
    alone = torch.cat([decisions(model, collate_timelines([timeline], 0)) for timeline in timelines])
    torch.testing.assert_close(decisions(model, packed), alone, rtol=0, atol=1e-5)
    model.config.text_config.sliding_window = longest - 1
    with pytest.raises(
        ValueError, match=rf"looks {longest - 1} tokens back, and a sequence has {longest}; set `max_length`"
    ):
        decisions(model, packed)
    # What would have been lost, and is there where nothing is packed
    model.config.text_config.sliding_window = 3
    windowed = torch.cat([decisions(model, collate_timelines([timeline], 0)) for timeline in timelines])
    assert (windowed - alone).abs().max() > 1e-3
    tree = collate_timelines([encoder_of(model, tokenizer).encode_tree(patients(1)[0])], 0)
    with pytest.raises(ValueError, match="looks 3 tokens back"):
        decisions(model, tree)


def test_implementations_that_cannot_branch_are_refused(llama):
    model, tokenizer = llama
    tree = collate_timelines([encoder_of(model, tokenizer).encode_tree(patients(1)[0])], 0)
    for name, message in (
        (
            "flash_attention_2",
            "flash_attention_2 has no way to let several orders .* set `attn_implementation` to sdpa",
        ),
        ("paged|sdpa", r"implementation 'paged\|sdpa' is not known to keep the sequences of a row apart"),
    ):
        model.language_model.config._attn_implementation = name
        with pytest.raises(ValueError, match=message):
            decisions(model, tree)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 8},
        {"model_type": "bloom", "n_layer": 1, "hidden_size": 8, "n_head": 2},
        {"model_type": "gpt_neo", "num_layers": 2, "hidden_size": 8, "num_heads": 2}
        | {"attention_types": [[["global", "local"], 1]]},
        {"model_type": "falcon", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "alibi": True},
        {"model_type": "jamba", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
        | {"num_key_value_heads": 2, "intermediate_size": 8, "num_experts": 1, "use_mamba_kernels": False},
        {"model_type": "lfm2", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}
        | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
    ],
    ids=lambda fields: fields["model_type"],
)
def test_layers_that_look_past_a_mask_are_refused(fields):
    with torch.device("meta"):
        decoder = AutoModel.from_config(AutoConfig.for_model(**fields, vocab_size=16))
    decoder.config._attn_implementation = "sdpa"
    with pytest.raises(
        ValueError, match=f"a model of type {fields['model_type']} has no mask and positions of its own"
    ):
        check_attention(decoder, 4, branches=False)
