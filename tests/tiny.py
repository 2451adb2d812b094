"""Tiny language models, tokenizers and synthetic patients, all from a seed, for tests of the model and of training."""

import random

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, set_seed

from mera_hf.data.memorizing import memorizing_texts
from mera_hf.data.timelines import TimelineCollator
from mera_hf.icd import sort_codes
from mera_hf.timeline_mera import TimelineEncoder
from mera_hf.training.code_tokens import add_code_tokens
from mera_hf.training.from_scratch import from_scratch, word_tokenizer


# Siblings, cousins, chapters of one code, and codes that stop at the category
CODES = sort_codes(
    f"ICD9CM:{code}"
    for code in (
        *("250.00", "250.01", "250.02", "250.40", "272.4", "276.1", "276.8"),
        *("401.1", "401.9", "410.71", "427.31", "428.0", "428.1"),
        *("486", "584.9", "585.9", "V58.67", "V58.61", "E849.0"),
    )
)
TEXTS = ["discharged home in good health", "transferred to another hospital"]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LAYERS = {"layers": 2, "ffn_dim": 48, "attention_heads": 4}
FAMILIES = {
    "llama": {"model_type": "llama", **SMALL, "tie_word_embeddings": False, "max_position_embeddings": 256},
    "llama_tied": {"model_type": "llama", **SMALL, "tie_word_embeddings": True, "max_position_embeddings": 256},
    "mistral": {"model_type": "mistral", **SMALL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": None},
    "qwen2": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gemma2": {"model_type": "gemma2", **SMALL, "num_key_value_heads": 2, "head_dim": 8}
    | {"final_logit_softcapping": 3.0},
    "gpt_neox": {"model_type": "gpt_neox", **SMALL, "max_position_embeddings": 256},
    "granite": {"model_type": "granite", **SMALL, "num_key_value_heads": 2, "logits_scaling": 2.0}
    | {"embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "cohere": {"model_type": "cohere", **SMALL, "num_key_value_heads": 2, "logit_scale": 0.25},
    "phi": {"model_type": "phi", **SMALL},  # its output matrix has a bias
}
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
ENCODER_DECODERS = {
    "t5": T5,
    # As checkpoints of T5 v1.1 and Flan-T5 say it: nothing is scaled, and `save_base` gives it an output matrix of its own
    "flan_t5": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": {
        "model_type": "bart",
        "d_model": 32,
        "max_position_embeddings": 256,
        "dropout": 0.0,
        "scale_embedding": True,
        "init_std": 0.2,  # what it says would hardly depend on what it reads
    }
    | {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in LAYERS.items()},
}


def texts() -> list[str]:
    """Every text that the tiny models read or write."""
    profiles = ["female male aged 0 to 9 and over white"] + [f"aged {age} to {age + 9}" for age in range(0, 90, 10)]
    return memorizing_texts(CODES) + profiles + TEXTS


def tiny_mera(family: str = "llama", seed: int = 0, head: bool = True, **config_fields):
    """A model with tokens for `CODES` and its tokenizer; `head` gives it a ranking head that is not zero."""
    model, tokenizer = from_scratch((FAMILIES | ENCODER_DECODERS)[family], texts(), seed)
    add_code_tokens(model, tokenizer, CODES, **config_fields)
    if head:
        randomise_head(model, seed)
    return model.eval(), tokenizer


@torch.no_grad()
def randomise_head(model, seed: int = 0, scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*model.ranking_head.parameters(), model.ranking_head.log_prevalence):
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))


def save_base(folder, family: str, padding: int = 0, seed: int = 0, **fields):
    """Write a plain language model and its tokenizer, as anyone may have them on disk; returns both."""
    tokenizer = word_tokenizer(texts())
    fields = {**(FAMILIES | ENCODER_DECODERS)[family], **fields}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(**fields, vocab_size=len(tokenizer) + padding, **special)
    set_seed(seed)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config).eval()
    # Rows of a trained model are larger than those of a fresh one; logits would hardly differ otherwise
    with torch.no_grad():
        if family == "flan_t5":
            model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(model.lm_head.weight))
            model.get_input_embeddings().weight.div_(10)  # fresh rows of T5 are as large as trained ones
        model.get_input_embeddings().weight.mul_(10)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def patients(count: int, seed: int = 0, fewest_visits: int = 2, most_visits: int = 4) -> list[dict]:
    """Rows of a visits dataset; visits differ in size and order, profiles have gaps."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        visits = [
            {"codes": draw.sample(CODES, draw.randint(1, 5)), "time": None, "text": draw.choice([None, *TEXTS])}
            for _ in range(draw.randint(fewest_visits, most_visits))
        ]
        profile = {
            "sex": draw.choice(["F", "M", None]),
            "age": draw.choice([None, 4.0, 45.0, 72.5, 95.0]),
            "race": draw.choice([None, "White"]),
        }
        rows.append({"patient_id": str(number), "profile": profile, "visits": visits})
    return rows


def batch_of(model, timelines, pad_token_id: int = 0) -> dict:
    """The batch that `model` reads, whatever kind it is of."""
    return TimelineCollator(pad_token_id, decoder_start_token_id=model.config.decoder_start_token_id)(timelines)


def encoder_of(model, tokenizer, max_length: int | None = None) -> TimelineEncoder:
    return TimelineEncoder(model.config, tokenizer, max_length)
