import copy

import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny import CODES, batch_of, encoder_of, patients, tiny_mera
from transformers import AutoModel, AutoTokenizer
from trl import ModelConfig

from mera_hf.errors import InputError
from mera_hf.modeling_mera import FORWARD_INPUTS, MeraForDiagnosis
from mera_hf.training.arguments import MeraArguments
from mera_hf.training.checkpoints import candidate_codes, load_model, save_checkpoint, wrap_with_adapter
from mera_hf.training.code_tokens import peft_config
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer


LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
ROWS = patients(6, seed=3)


def dataset() -> DatasetDict:
    return DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(patients(2, seed=9))})


def loaded(folder=None, scratch=None, **arguments):
    """Model and tokenizer of a recipe, and its model arguments."""
    model_args = ModelConfig(model_name_or_path=folder and str(folder), dtype="float32", **arguments)
    mera_args = MeraArguments(from_scratch=scratch)
    model, tokenizer = load_model(model_args, mera_args, dataset()["train"], CODES, 0)
    return model, tokenizer, model_args


def train(model, tokenizer, folder, steps: int = 6, **arguments):
    args = MeraTrainerConfig(
        str(folder),
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        per_device_train_batch_size=3,
        max_steps=steps,
        learning_rate=2e-2,
        logging_steps=1,
        **arguments,
    )
    trainer = MeraTrainer(model, args, ROWS, ROWS, processing_class=tokenizer)
    trainer.train()
    return trainer


def logits(model, tokenizer, rows=ROWS) -> torch.Tensor:
    """Code logits at every decision; through the wrapper, if there is one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    batch = batch_of(base, [encoder_of(base, tokenizer).encode(row) for row in rows], tokenizer.pad_token_id)
    model.eval()
    with torch.no_grad():
        output = model(**{name: tensor for name, tensor in batch.items() if name in FORWARD_INPUTS})
    return torch.cat([output.code_logits, output.eov_logits[:, None]], dim=1)


def spoken(model) -> torch.Tensor:
    """What the language model says of code tokens by itself, as `generate` sees it."""
    ids = torch.tensor([[5, model.config.code_token_start + 3, model.config.visit_token_id]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    with torch.no_grad():
        return model.eval().language_model(**inputs).logits


# -- LoRA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "t5", "flan_t5", "bart"])
def test_adapters_train_save_and_merge(family, base_folder, tmp_path):
    model, tokenizer, model_args = loaded(base_folder(family), **LORA)
    start = copy.deepcopy(model.state_dict())
    model = wrap_with_adapter(model, model_args)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {"lora_": 0, "trainable_tokens_delta": 0, "modules_to_save": 0}
    for name in trainable:
        (part,) = (part for part in parts if part in name)
        parts[part] += 1
        assert part != "lora_" or ".ranking_head." not in name and "lm_head" not in name, name
        assert part != "modules_to_save" or ".ranking_head." in name, name
    tied = family in ("qwen2", "gpt2", "t5", "bart")
    assert parts["trainable_tokens_delta"] == (1 if tied else 2)
    assert parts["modules_to_save"] == 4  # code bias, patient gate and its bias, code gate
    plain = MeraForDiagnosis(model.get_base_model().config)
    assert parts["lora_"] == 2 * sum(
        type(module).__name__ in ("Linear", "Conv1D") and module is not plain.get_output_embeddings()
        for module in plain.language_model.modules()
    )

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, tokenizer, tmp_path / "run")
    for name, parameter in model.named_parameters():
        changed = not torch.equal(parameter, before[name])
        assert changed == (name in trainable), f"{name} {'moved' if changed else 'did not move'}"
    adapted, adapted_words = logits(model, tokenizer), spoken(model.get_base_model())

    save_checkpoint(model, tokenizer, tmp_path / "done")
    merged, report = AutoModel.from_pretrained(tmp_path / "done", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "done")
    torch.testing.assert_close(logits(merged, reloaded), adapted, rtol=0, atol=1e-5)
    torch.testing.assert_close(spoken(merged), adapted_words, rtol=0, atol=1e-4)
    assert merged.ranking_head.log_prevalence.any()
    words = merged.config.code_token_start
    assert torch.equal(
        merged.get_input_embeddings().weight[:words], start["language_model." + _embedding_name(merged)][:words]
    )

    # The adapter that is kept loads onto the base, prepared the same way, and gives the same
    from peft import PeftModel

    fresh, tokenizer, _ = loaded(base_folder(family), **LORA)
    fresh = PeftModel.from_pretrained(fresh, tmp_path / "done" / "adapter")
    torch.testing.assert_close(logits(fresh, tokenizer), adapted, rtol=0, atol=1e-5)
    assert torch.equal(fresh.get_base_model().ranking_head.log_prevalence, merged.ranking_head.log_prevalence)


def _embedding_name(model) -> str:
    target = model.get_input_embeddings()
    return next(name for name, module in model.language_model.named_modules() if module is target) + ".weight"


@pytest.mark.parametrize("family", ["llama", "llama_tied", "t5"])
def test_peft_config_alone_is_enough(family):
    """Someone else's script: `get_peft_model(model, mera_hf.peft_config(model, r=4))`."""
    from peft import get_peft_model

    model, tokenizer = tiny_mera(family)
    plain = logits(model, tokenizer)
    wrapped = get_peft_model(model, peft_config(model, r=4))
    torch.testing.assert_close(logits(wrapped, tokenizer), plain)
    names = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert not [name for name in names if "ranking_head" in name and "lora_" in name]
    assert not [name for name in names if "lm_head" in name and "lora_" in name]
    first, last = ("q", "wo") if family == "t5" else ("q_proj", "down_proj")
    assert any(f".{first}.lora_A" in name for name in names) and any(f".{last}.lora_B" in name for name in names)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_gradient_checkpointing_changes_nothing(family, tmp_path):
    results = []
    for checkpointing in (False, True):
        model, tokenizer = tiny_mera(family)
        model_args = ModelConfig(**LORA)
        torch.manual_seed(0)
        wrapped = wrap_with_adapter(model, model_args)
        train(wrapped, tokenizer, tmp_path, 2, activation_checkpointing=checkpointing)
        results.append(logits(wrapped, tokenizer))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_a_resumed_training_of_adapters_equals_an_unbroken_one(family, tmp_path):
    start, tokenizer = tiny_mera(family)
    torch.manual_seed(0)
    start = wrap_with_adapter(start, ModelConfig(**LORA))
    found = []
    for resumed_from in (None, str(tmp_path / "checkpoint-2")):
        args = MeraTrainerConfig(
            str(tmp_path),
            **{"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_steps": 2, "max_steps": 5},
            **{"per_device_train_batch_size": 3, "learning_rate": 1e-2, "ema_decay": 0.9},
        )
        trainer = MeraTrainer(copy.deepcopy(start), args, ROWS, processing_class=tokenizer)
        trainer.train(resume_from_checkpoint=resumed_from)
        found.append({name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad})
    before = dict(start.named_parameters())
    for name, weight in found[0].items():
        assert not torch.equal(weight, before[name]), name
        assert torch.equal(weight, found[1][name]), name


def test_a_moving_average_of_adapters(tmp_path):
    model, tokenizer = tiny_mera("llama")
    wrapped = wrap_with_adapter(model, ModelConfig(**LORA))
    trainer = train(wrapped, tokenizer, tmp_path, 3, ema_decay=0.9)
    assert trainer.moving_average.average.keys() == {n for n, p in wrapped.named_parameters() if p.requires_grad}


# -- QLoRA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "layers"), [("llama", 14), ("qwen2", 14), ("t5", 28)])
def test_quantised_bases_train_and_merge_into_the_unquantised_one(family, layers, base_folder, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": False}
    model, tokenizer, model_args = loaded(base_folder(family), **LORA, **four_bit)
    quantised = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(quantised) == layers  # neither output matrix nor ranking head, nor what T5 keeps in float32
    assert not any(module.support_avx512bf16_for_cpu for module in quantised)
    wrapped = wrap_with_adapter(model, model_args)

    # An evaluation must not change the gradients behind it
    def gradients():
        batch = batch_of(model, [encoder_of(model, tokenizer).encode(row) for row in ROWS])
        wrapped.zero_grad()
        wrapped.train()(
            **{name: tensor for name, tensor in batch.items() if name in FORWARD_INPUTS}
        ).code_logits.square().mean().backward()
        return {name: p.grad.clone() for name, p in wrapped.named_parameters() if p.grad is not None}

    first = gradients()
    logits(wrapped, tokenizer)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, first[name], rtol=1e-4, atol=1e-6)

    trainer = train(wrapped, tokenizer, tmp_path / "run", 12)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < sum(losses[:3])
    adapted = logits(wrapped, tokenizer)

    save_checkpoint(wrapped, tokenizer, tmp_path / "done")
    merged = AutoModel.from_pretrained(tmp_path / "done")
    assert not getattr(merged, "is_quantized", False)
    assert getattr(merged.config, "quantization_config", None) is None
    assert merged.config.codes == CODES

    # But for the quantisation error of the base, the merged model is the adapted one: the adapter on the plain base
    from peft import PeftModel

    fresh, tokenizer, _ = loaded(base_folder(family))
    fresh = PeftModel.from_pretrained(fresh, tmp_path / "done" / "adapter")
    torch.testing.assert_close(logits(merged, tokenizer), logits(fresh, tokenizer), rtol=0, atol=1e-5)
    for tensor in ("code_bias", "log_prevalence"):
        ours, theirs = (getattr(m.ranking_head, tensor) for m in (merged, wrapped.get_base_model()))
        torch.testing.assert_close(ours, theirs)
    cosine = torch.nn.functional.cosine_similarity(logits(merged, tokenizer), adapted)
    assert cosine.min() > 0.95


def test_a_quantised_model_needs_an_adapter(llama):
    with pytest.raises(InputError, match="a quantised model trains by an adapter only: set `use_peft: true`"):
        wrap_with_adapter(llama[0], ModelConfig(load_in_4bit=True))


# -- what a recipe loads ------------------------------------------------------------------------------------------


SCRATCH = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def test_models_from_scratch_know_the_words_that_they_read():
    model, tokenizer, _ = loaded(scratch=SCRATCH)
    again, _, _ = loaded(scratch=SCRATCH)
    assert torch.equal(model.code_rows(), again.code_rows())
    encoder = encoder_of(model, tokenizer)
    for row in ROWS:
        assert tokenizer.unk_token_id not in encoder.encode(row).input_ids
    words = {word for row in ROWS for visit in row["visits"] for word in (visit["text"] or "").split()}
    assert "hospital" in words and "hospital" not in tokenizer.get_vocab()  # not read, so not in the checkpoint

    mera_args = MeraArguments(from_scratch=SCRATCH, use_visit_text=True)
    model, tokenizer = load_model(ModelConfig(), mera_args, dataset()["train"], CODES, 0)
    encoder = encoder_of(model, tokenizer)
    for row in dataset()["train"]:
        assert tokenizer.unk_token_id not in encoder.encode(row).input_ids


def test_a_checkpoint_goes_into_the_next_stage(tmp_path):
    model, tokenizer, _ = loaded(scratch=SCRATCH)
    save_checkpoint(model, tokenizer, tmp_path)
    again, tokenizer, _ = loaded(tmp_path)
    torch.testing.assert_close(logits(again, tokenizer), logits(model, tokenizer))
    mera_args = MeraArguments(history_term=False)
    bare, _ = load_model(ModelConfig(model_name_or_path=str(tmp_path)), mera_args, dataset()["train"], CODES, 0)
    assert not hasattr(bare.ranking_head, "patient_gate")
    model_args, codes = ModelConfig(model_name_or_path=str(tmp_path)), [*CODES, "ICD9CM:001.0"]
    with pytest.raises(InputError, match="lacks 1 of the 20 codes of `dataset`, such as ICD9CM:001.0"):
        load_model(model_args, MeraArguments(), dataset()["train"], codes, 0)


def test_one_source_of_the_model_is_needed():
    with pytest.raises(InputError, match="give `model_name_or_path` .*, or `from_scratch`"):
        loaded()


def test_candidates():
    codes = ["ICD9CM:401.9", "ICD9CM:250.00", "ICD9CM:401.9"]
    assert candidate_codes(codes, "cohort") == ["ICD9CM:250.00", "ICD9CM:401.9"]
    tree = candidate_codes([*codes, "ICD9CM:250"], "tree")
    assert len(tree) > 10_000 and {"ICD9CM:250", "ICD9CM:V58.67"} <= set(tree)
    assert not any(code.startswith("ICD10CM") for code in tree)
    with pytest.raises(InputError, match="`candidates` is 'all'; choose one of cohort, tree"):
        candidate_codes(codes, "all")
