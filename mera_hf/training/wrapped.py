"""Models as callers pass them: inside a PEFT wrapper, on a quantised base, with their tokenizer or without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mera_hf.errors import InputError
from mera_hf.timeline_mera import check_code_tokens


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.configuration_mera import MeraConfig
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


def left_out(model: Any, head: bool = True) -> list[str]:
    """What MERA has of its own and a training of this model would leave as it is, in words; empty if all of it is trained.

    Args:
        model (`nn.Module`): a [`MeraForDiagnosis`] with code tokens, wrapped by PEFT or not.
        head (`bool`, defaults to `True`): whether the ranking head is to be trained.
    """
    base = base_model(model)
    rows = {"input": base.get_input_embeddings(), "output": base.get_output_embeddings()}
    found = [
        f"the {side} rows of the codes" for side, module in rows.items() if not _trains_codes(module, base.config)
    ]
    frozen = [
        name
        for name, parameter in base.ranking_head.named_parameters()
        # PEFT keeps the original beside a copy that is trained, and a layer inside the adapter that trains it
        if not parameter.requires_grad and not {"original_module", "base_layer"} & set(name.split("."))
    ]
    if head and frozen:
        found.append(f"the ranking head ({', '.join(frozen)})")
    return found


def _trains_codes(embeddings: Any, config: MeraConfig) -> bool:
    """Whether the rows of all codes are trained: in the table itself, by an adapter on it, or as PEFT's token rows."""
    adapter = getattr(embeddings, "token_adapter", None)
    if adapter is not None and config.code_token_start is not None:
        tokens = {token for name in adapter.active_adapters for token in adapter.token_indices.get(name, [])}
        if not tokens.issuperset(range(config.code_token_start, config.code_token_start + config.num_codes + 1)):
            return False
    return any(parameter.requires_grad for parameter in embeddings.parameters())


def warn_left_out(model: Any, head: bool = True) -> None:
    """Say by name what [`left_out`] finds, with the fix."""
    from transformers.utils import logging

    if found := left_out(model, head):
        fix = "set `requires_grad` of their parameters."
        if base_model(model) is not model:
            fix = (
                "wrap the model by `get_peft_model(model, mera_hf.peft_config(model, ...))`, which trains and saves them "
                "beside the adapter; this adapter does not save them either."
            )
        logging.get_logger(__name__).warning(
            f"`model` leaves out of the training: {'; '.join(found)}. To train them, {fix}"
        )


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
