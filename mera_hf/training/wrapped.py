"""Models as callers pass them: inside a PEFT wrapper, on a quantised base, with their tokenizer or without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mera_hf.errors import InputError
from mera_hf.timeline_mera import check_code_tokens


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis


def base_model(model: Any) -> MeraForDiagnosis:
    """The [`MeraForDiagnosis`] inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def tokenizer_of(model: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model: the given one, or the one stored where the model came from.

    Raises:
        [`InputError`]: where the model has no code tokens, or the tokenizer does not hold them.
    """
    if tokenizer is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    try:
        check_code_tokens(model.config, tokenizer)
    except ValueError as error:
        raise InputError(str(error)) from error
    return tokenizer


def guard_quantised(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place, and refuse what cannot be mended; other models pass.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 packs 4-bit weights in the first forward pass in evaluation mode, and
    cannot unpack them: gradients and merges are silently wrong from then on (bitsandbytes issue 2078).

    Args:
        model (`nn.Module`): a [`MeraForDiagnosis`], wrapped by PEFT or not.

    Raises:
        [`InputError`]: if weights were already packed, or the trained output matrix or ranking head is quantised.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                raise InputError(
                    "the 4-bit weights of `model` were packed for this CPU by an evaluation before, and gradients would be "
                    "wrong: load the model anew and train it first."
                )
    base = base_model(model)
    for part in (base.get_output_embeddings(), getattr(base, "ranking_head", None)):
        modules = [] if part is None else part.modules()
        if any(
            type(tensor).__name__ in ("Params4bit", "Int8Params") for m in modules for tensor in m._parameters.values()
        ):
            head = next(name for name, module in base.named_modules() if module is base.get_output_embeddings())
            raise InputError(
                "output matrix or ranking head of `model` are quantised, and they are trained: load it with "
                f"`BitsAndBytesConfig(..., llm_int8_skip_modules=[{head.rsplit('.', 1)[-1]!r}, 'ranking_head'])`."
            )
