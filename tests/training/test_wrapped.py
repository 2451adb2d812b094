"""4-bit bases on a CPU, as a user may load them and hand them to a trainer."""

import pytest
import torch
from peft import get_peft_model
from tiny import CODES, FAMILIES, encoder_of, patients, randomise_head, texts
from transformers import AutoModel, BitsAndBytesConfig

from mera_hf.errors import InputError
from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import collate_timelines
from mera_hf.training.code_tokens import add_code_tokens, load_base, peft_config
from mera_hf.training.from_scratch import from_scratch
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.memorization_trainer import MemorizationTrainer
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer


bitsandbytes = pytest.importorskip("bitsandbytes")
ROWS = patients(4, seed=3)
QUIET = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "max_steps": 1}
LINEAR = r"language_model\..*\.(q_proj|down_proj)"
ALL = ("lm_head", "ranking_head")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Wide enough for bitsandbytes to pack its weights anew, as it does with every real model."""
    folder = tmp_path_factory.mktemp("wide")
    model, tokenizer = from_scratch({**FAMILIES["llama"], "hidden_size": 64, "intermediate_size": 128}, texts(), 0)
    add_code_tokens(model, tokenizer, CODES)
    randomise_head(model)
    model.save_pretrained(folder)
    return folder, tokenizer


def loaded(checkpoint, skip=ALL, load=AutoModel.from_pretrained):
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skip and list(skip)
    )
    return load(checkpoint[0], quantization_config=quantization, dtype="float32")


def wrapped(model):
    torch.manual_seed(0)
    return get_peft_model(model, peft_config(model, r=4, target_modules=LINEAR))


def mera_trainer(model, tokenizer, folder):
    return MeraTrainer(model, MeraTrainerConfig(str(folder), **QUIET), ROWS, processing_class=tokenizer)


def memorization_trainer(model, tokenizer, folder):
    return MemorizationTrainer(model, MemorizationTrainerConfig(str(folder), **QUIET), tokenizer, codes=CODES[:2])


def gradients(model, tokenizer) -> dict:
    batch = collate_timelines([encoder_of(model.get_base_model(), tokenizer).encode(row) for row in ROWS], 0)
    model.zero_grad()
    model.train()(
        **{name: batch[name] for name in FORWARD_INPUTS if name in batch}
    ).code_logits.square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("trainer_of", [mera_trainer, memorization_trainer])
def test_an_evaluation_does_not_change_the_gradients_behind_it(trainer_of, checkpoint, tmp_path):
    tokenizer = checkpoint[1]
    model = wrapped(loaded(checkpoint))
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True  # as on a CPU that has it
    trainer_of(model, tokenizer, tmp_path)
    first = gradients(model, tokenizer)
    model.get_base_model().rank([{"visits": ROWS[0]["visits"]}], tokenizer)
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
    for name, gradient in gradients(model, tokenizer).items():
        torch.testing.assert_close(gradient, first[name], rtol=1e-5, atol=1e-7)
    assert any("lora_B" in name and gradient.any() for name, gradient in first.items())


@pytest.mark.parametrize("trainer_of", [mera_trainer, memorization_trainer])
def test_weights_that_were_packed_are_refused(trainer_of, checkpoint, tmp_path):
    model = loaded(checkpoint)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = True
    if bitsandbytes.functional.has_avx512bf16():
        model.rank([{"visits": ROWS[0]["visits"]}], checkpoint[1])
    else:  # this CPU never does it: as an evaluation on another one leaves it
        model.language_model.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(
        InputError, match="4-bit weights of `model` were packed .* load the model anew and train it first"
    ):
        trainer_of(wrapped(model), checkpoint[1], tmp_path)


@pytest.mark.parametrize("trainer_of", [mera_trainer, memorization_trainer])
@pytest.mark.parametrize("skip", [None, ["ranking_head"], ["lm_head"]])
def test_what_is_trained_may_not_be_quantised(skip, trainer_of, checkpoint, tmp_path):
    model = loaded(checkpoint, skip)
    with pytest.raises(InputError, match=r"llm_int8_skip_modules=\['lm_head', 'ranking_head'\]"):
        trainer_of(model, checkpoint[1], tmp_path)
    with pytest.raises(InputError, match=r"llm_int8_skip_modules=\['lm_head', 'ranking_head'\]"):
        loaded(checkpoint, skip, load_base)


def test_without_an_adapter_nothing_can_be_trained(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="attach trainable adapters"):  # the Trainer's own
        mera_trainer(loaded(checkpoint), checkpoint[1], tmp_path)
