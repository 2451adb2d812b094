"""Adapters: the rows of the codes are used where they are trained, and that changes nothing but the cost."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.trainable_tokens import TrainableTokensLayer
from tiny import CODES, encoder_of, patients, texts, tiny_mera
from transformers.utils import logging

from mera_hf.modeling_mera import FORWARD_INPUTS, MeraForDiagnosis
from mera_hf.timeline_mera import collate_timelines
from mera_hf.training.code_tokens import add_code_tokens, peft_config
from mera_hf.training.from_scratch import from_scratch
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.memorization_trainer import MemorizationTrainer
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.wrapped import left_out


ROWS = patients(6, seed=3)
QUIET = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
LINEAR = r"language_model\..*\.(q_proj|c_attn|query_key_value|down_proj)"


@torch.no_grad()
def shake(model, seed: int = 0) -> None:
    """Move everything that is trained away from where it started."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)


def adapted(model, seed: int = 0):
    wrapped = get_peft_model(model, peft_config(model, r=4, target_modules=LINEAR))
    shake(wrapped, seed)
    return wrapped


def batch_of(model, tokenizer) -> dict:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return collate_timelines([encoder_of(base, tokenizer).encode(row) for row in ROWS], 0)


def code_logits(model, batch) -> torch.Tensor:
    output = model(**{name: batch[name] for name in FORWARD_INPUTS if name in batch})
    return torch.cat([output.code_logits, output.eov_logits[:, None]], dim=1)


def vocabulary_logits(model, batch) -> torch.Tensor:
    where = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return model(**where, vocabulary_index=torch.tensor([1, 5, 9, 30])).vocabulary_logits


def gradients(model) -> dict:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.fixture
def ordinary(monkeypatch):
    """`ordinary()`: from then on PEFT copies the rows into the whole table, as it does by itself."""
    return lambda: monkeypatch.setattr(MeraForDiagnosis, "_trained_rows", lambda self, embeddings: (embeddings, None))


@pytest.fixture
def no_copy(monkeypatch):
    def fail(*args):
        raise AssertionError("the whole table was copied")

    monkeypatch.setattr(TrainableTokensLayer, "get_merged_weights", fail)


@pytest.mark.parametrize("logits_of", [code_logits, vocabulary_logits])
@pytest.mark.parametrize("family", ["llama", "llama_tied", "qwen2", "gpt2", "gemma2", "cohere", "gpt_neox"])
def test_logits_and_gradients_are_those_of_the_ordinary_forward(family, logits_of, ordinary):
    model, tokenizer = tiny_mera(family)
    wrapped = adapted(model)
    batch = batch_of(wrapped, tokenizer)
    ours = logits_of(wrapped, batch)
    ours.square().mean().backward()
    our_gradients = gradients(wrapped)
    ordinary()
    theirs = logits_of(wrapped, batch)
    theirs.square().mean().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    their_gradients = gradients(wrapped)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-6, atol=1e-6, msg=name)
    tokens = [gradient for name, gradient in our_gradients.items() if "trainable_tokens" in name]
    assert len(tokens) == (1 if model.config.tie_word_embeddings else 2)
    assert all(gradient.abs().max() > 1e-5 for gradient in tokens)


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_the_rows_are_those_that_are_trained(family, no_copy):
    model, tokenizer = tiny_mera(family)
    wrapped = adapted(model)
    delta = model.get_output_embeddings().token_adapter.trainable_tokens_delta["default"]
    rows = model.code_rows()
    assert rows.data_ptr() == delta.data_ptr() and rows.is_contiguous()
    assert torch.equal(rows, delta[: len(CODES) + 1])
    assert len(delta) == len(CODES) + 3
    batch = batch_of(wrapped, tokenizer)
    (code_logits(wrapped, batch).mean() + vocabulary_logits(wrapped, batch).mean()).backward()
    assert delta.grad.abs().sum() > 0


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_a_step_of_training_is_the_ordinary_one(family, bf16, ordinary, tmp_path):
    """Through the fused loss and AdamW, in float32 and under autocast."""
    model, tokenizer = tiny_mera(family)
    start = adapted(model)

    def trained():
        torch.manual_seed(0)
        args = MeraTrainerConfig(str(tmp_path), **QUIET, max_steps=3, learning_rate=1e-2, bf16=bf16)
        trainer = MeraTrainer(copy.deepcopy(start), args, ROWS, processing_class=tokenizer)
        trainer.train()
        return {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}

    ours = trained()
    ordinary()
    before = dict(start.named_parameters())
    for name, weight in trained().items():
        assert not torch.equal(weight, before[name]), name
        # Sums come in another order: where a gradient is nothing but rounding, AdamW's step has either sign
        close = (ours[name] - weight).abs() < (1e-3 if bf16 else 1e-5)
        assert close.float().mean() > (0.97 if bf16 else 0.999), name


def test_disabled_adapters_give_the_base(llama):
    model, tokenizer = llama
    plain = copy.deepcopy(model)
    wrapped = adapted(model).eval()
    batch = batch_of(wrapped, tokenizer)
    moved = code_logits(wrapped, batch)
    with wrapped.disable_adapter():
        assert torch.equal(model.code_rows(), plain.code_rows())
        for logits_of in (code_logits, vocabulary_logits):
            torch.testing.assert_close(logits_of(wrapped, batch), logits_of(plain, batch))
    assert (moved - code_logits(plain, batch)).abs().max() > 0.1
    assert torch.equal(code_logits(wrapped, batch), moved)


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_several_adapters_have_rows_of_their_own(family):
    model, tokenizer = tiny_mera(family)
    one, two = (adapted(copy.deepcopy(model), seed) for seed in (1, 2))
    batch = batch_of(one, tokenizer)
    states = [
        {name: p.detach().clone() for name, p in single.named_parameters() if p.requires_grad} for single in (one, two)
    ]
    wanted = [code_logits(single, batch).detach() for single in (one, two)]
    both = get_peft_model(model, peft_config(model, r=4, target_modules=LINEAR), adapter_name="one")
    both.add_adapter("two", peft_config(model, r=4, target_modules=LINEAR))
    both.eval()
    parameters = dict(both.named_parameters())
    for adapter, state in zip(("one", "two"), states, strict=True):
        for name, weight in state.items():
            parameters[name.replace("default", adapter)].data.copy_(weight)
    for adapter, logits in (("one", wanted[0]), ("two", wanted[1]), ("one", wanted[0])):
        both.set_adapter(adapter)
        torch.testing.assert_close(code_logits(both, batch).detach(), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt2", "phi"])
def test_merged_in_place_and_back(family):
    model, tokenizer = tiny_mera(family)
    if family == "phi":  # the bias of its output matrix is not trained; PEFT itself forgets it
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    plain = copy.deepcopy(model)
    wrapped = adapted(model).eval()
    batch = batch_of(wrapped, tokenizer)
    for logits_of in (code_logits, vocabulary_logits):
        separate = logits_of(wrapped, batch)
        wrapped.merge_adapter()
        torch.testing.assert_close(logits_of(wrapped, batch), separate, rtol=0, atol=1e-5)
        with wrapped.disable_adapter():
            torch.testing.assert_close(logits_of(wrapped, batch), logits_of(plain, batch), rtol=0, atol=1e-5)
            torch.testing.assert_close(model.code_rows(), plain.code_rows())
        torch.testing.assert_close(logits_of(wrapped, batch), separate, rtol=0, atol=1e-5)
        assert not model.get_output_embeddings().token_adapter.merged  # to be disabled, they came apart
    separate = code_logits(wrapped, batch)
    torch.testing.assert_close(code_logits(wrapped.merge_and_unload(), batch), separate, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", ["one row", "every second", "backwards"])
def test_other_rows_than_ours_are_left_to_peft(which, llama):
    model, tokenizer = llama
    start, stop = model.config.code_token_start, model.config.profile_token_id + 1
    tokens = {
        "one row": [model.config.eov_token_id],
        "every second": list(range(start, stop, 2)),
        "backwards": list(range(start, stop))[::-1],
    }[which]
    names = dict.fromkeys(("language_model.model.embed_tokens", "language_model.lm_head"), tokens)
    wrapped = get_peft_model(model, LoraConfig(target_modules=LINEAR, trainable_token_indices=names))
    shake(wrapped)
    wrapped.eval()
    batch = batch_of(wrapped, tokenizer)
    separate = code_logits(wrapped, batch)
    torch.testing.assert_close(code_logits(wrapped.merge_and_unload(), batch), separate, rtol=0, atol=1e-5)


def test_float32_rows_on_a_base_in_half_precision(ordinary):
    """Trained in float32, used in the precision of the base: the adapted model ranks as it will when it is merged."""
    model, tokenizer = tiny_mera("llama")
    wrapped = adapted(model.to(torch.bfloat16)).eval()
    delta = model.get_output_embeddings().token_adapter.trainable_tokens_delta["default"]
    assert delta.dtype == torch.float32 and model.code_rows().dtype == torch.bfloat16
    batch = batch_of(wrapped, tokenizer)
    found = []
    for _ in range(2):
        logits = code_logits(wrapped, batch)
        assert logits.dtype == torch.bfloat16
        logits.float().square().mean().backward()
        assert delta.grad.dtype == torch.float32
        found.append((logits.detach(), delta.grad.clone()))
        wrapped.zero_grad()
        ordinary()
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-2, atol=1e-4)


def test_scaled_embeddings_are_scaled_once(ordinary):
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    family = {"model_type": "gemma3_text", **small, "num_key_value_heads": 2, "head_dim": 8}
    model, tokenizer = from_scratch(family, texts(), 0)
    add_code_tokens(model, tokenizer, CODES)
    assert float(model.get_input_embeddings().embed_scale) == pytest.approx(32**0.5)
    wrapped = adapted(model).eval()
    ids = batch_of(wrapped, tokenizer)["input_ids"]
    ours = model._embed(ids)
    ordinary()
    torch.testing.assert_close(ours, model._embed(ids))


INPUT, OUTPUT = "the input rows of the codes", "the output rows of the codes"
HEAD = "the ranking head (code_bias, patient_gate.weight, patient_gate.bias, code_gate.weight)"


def plain_lora(model, **fields):
    return get_peft_model(model, LoraConfig(r=4, target_modules=LINEAR, **fields))


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_what_an_adapter_leaves_out_is_named(family):
    model, _ = tiny_mera(family)
    assert left_out(model) == []
    start = model.config.code_token_start
    names = [name for name, module in model.named_modules() if module is model.get_input_embeddings()]
    found = left_out(plain_lora(copy.deepcopy(model)))
    assert found == [INPUT, OUTPUT, HEAD]
    assert left_out(plain_lora(copy.deepcopy(model)), head=False) == [INPUT, OUTPUT]
    assert left_out(plain_lora(copy.deepcopy(model), modules_to_save=["ranking_head"])) == [INPUT, OUTPUT]
    assert left_out(adapted(copy.deepcopy(model))) == []
    some = plain_lora(copy.deepcopy(model), trainable_token_indices={names[0]: [start, start + 1]})
    assert left_out(some, head=False) == [INPUT, OUTPUT]  # two codes are not all
    if family == "llama":
        tables = plain_lora(copy.deepcopy(model), modules_to_save=["embed_tokens"])
        assert left_out(tables, head=False) == [OUTPUT]
        lora_on_head = get_peft_model(
            copy.deepcopy(model), LoraConfig(r=4, target_modules=r".*\.lm_head|ranking_head\.patient_gate")
        )
        (rows, head) = left_out(lora_on_head)
        assert rows == INPUT and "patient_gate" not in head and "code_bias" in head
    model.ranking_head.code_bias.requires_grad_(False)
    assert left_out(model) == ["the ranking head (code_bias)"]


def test_the_trainers_say_what_they_leave_out(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.get_logger("mera_hf"), "propagate", True)
    model, tokenizer = tiny_mera("llama")

    def said(wrapped, trainer, config, *rows):
        caplog.clear()
        trainer(wrapped, config(str(tmp_path), **QUIET), *rows, processing_class=tokenizer)
        return [line.getMessage() for line in caplog.records if "leaves out of the training" in line.getMessage()]

    for wrap, head in ((plain_lora, True), (adapted, None)):
        for trainer, config, rows in (
            (MeraTrainer, MeraTrainerConfig, (ROWS,)),
            (MemorizationTrainer, MemorizationTrainerConfig, ()),
        ):
            lines = said(wrap(copy.deepcopy(model)), trainer, config, *rows)
            assert len(lines) == bool(head)
            if head:
                assert f"{INPUT}; {OUTPUT}" in lines[0] and "`get_peft_model(model, mera_hf.peft_config(" in lines[0]
                assert ("the ranking head" in lines[0]) == (trainer is MeraTrainer)
