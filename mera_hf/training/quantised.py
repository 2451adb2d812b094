"""What a quantised base needs so that gradients and merges are right."""

from torch import nn

from ..errors import InputError


def guard_quantised(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew, in place, and refuse what is beyond help; other models pass.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 packs 4-bit weights in the first forward pass in evaluation mode, and does
    not get them back: gradients and merges are silently wrong from then on (bitsandbytes issue 2078).

    Args:
        model (`nn.Module`): a [`MeraForDiagnosis`], wrapped by PEFT or not.

    Raises:
        [`InputError`]: where weights were packed already, or output matrix or ranking head, which are trained, are quantised.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                raise InputError(
                    "the 4-bit weights of `model` were packed for this CPU by an evaluation before, and gradients would be "
                    "wrong: load the model anew and train it first."
                )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
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
