"""Models whose weights are shared out over processes, by FSDP2 or DeepSpeed ZeRO-3."""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..errors import InputError


def check_engine(trainer: Trainer) -> None:
    """Refuse what an engine that shares out the weights cannot do.

    Args:
        trainer (`Trainer`): with its accelerator and its model, before training.

    Raises:
        [`InputError`]: for a quantised base, for adapters where both embedding matrices are one, and for a moving average
            under ZeRO-3.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    zero3 = plugin is not None and plugin.zero_stage == 3
    if not trainer.is_fsdp_enabled and not zero3:
        return
    engine, model = "ZeRO-3" if zero3 else "FSDP", trainer.model
    if getattr(model, "is_quantized", False):
        raise InputError(
            f"a quantised base (`load_in_4bit`) cannot be trained under {engine}; use recipes/accelerate/ddp.yaml."
        )
    if hasattr(model, "get_base_model") and model.config.tie_word_embeddings and not zero3:
        raise InputError(
            "FSDP cannot share out an adapted model whose input and output embeddings are one matrix; use "
            "recipes/accelerate/ddp.yaml."
        )
    if zero3 and getattr(trainer.args, "ema_decay", None) is not None:
        raise InputError("`ema_decay` does not work under ZeRO-3; use recipes/accelerate/fsdp2.yaml.")


def keep_precision(trainer: Trainer) -> None:
    """Let FSDP2 use half precision for what is computed alone: accelerate has it round losses, logits and gradients, too.

    Args:
        trainer (`Trainer`): before training.
    """
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds no more than its part of the weights."""
    return hasattr(model, "unshard") or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def whole_model(trainer: Trainer, load: Callable[[], nn.Module]) -> nn.Module | None:
    """The trained model in one piece, in the main process; every process has to call this.

    Args:
        trainer (`Trainer`): that has trained it.
        load (`Callable`): loads the model as it was given to the trainer, for weights that are shared out to go into.

    Returns:
        the model on the trainer's device; `None` in the other processes, which have nothing left to do.
    """
    if not is_sharded(trainer.model):
        model = trainer.accelerator.unwrap_model(trainer.model)
        return model if trainer.is_world_process_zero() else None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    unset_hf_deepspeed_config()  # with it, what is loaded from here on would be shared out as well
    if not trainer.is_world_process_zero():
        return None
    model = load()
    model.load_state_dict(weights)
    return model.to(trainer.args.device)
