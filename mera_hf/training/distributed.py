"""Training on several processes: what each engine can do, models whose weights FSDP2 or DeepSpeed ZeRO-3 shards,
and rows and epochs that match training on one process (this project's choice)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from mera_hf.errors import InputError
from mera_hf.training.wrapped import base_model


def check_engine(trainer: Trainer) -> None:
    """Refuse what an engine that shards the weights cannot do.

    Args:
        trainer (`Trainer`): with its accelerator and its model, before training.

    Raises:
        [`InputError`]: for a quantised base, for adapters on tied embedding matrices, and for a moving average
            under ZeRO-3.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    zero3 = plugin is not None and plugin.zero_stage == 3
    if not trainer.is_fsdp_enabled and not zero3:
        return
    engine = "ZeRO-3" if zero3 else "FSDP"
    model: Any = trainer.model
    if getattr(model, "is_quantized", False):
        raise InputError(
            f"a quantised base (`load_in_4bit`) cannot be trained under {engine}; use recipes/accelerate/ddp.yaml."
        )
    if base_model(model) is not model and model.config.tie_word_embeddings and not zero3:
        raise InputError(
            "FSDP cannot share out an adapted model whose input and output embeddings are one matrix; use "
            "recipes/accelerate/ddp.yaml."
        )
    if zero3 and getattr(trainer.args, "ema_decay", None) is not None:
        raise InputError("`ema_decay` does not work under ZeRO-3; use recipes/accelerate/fsdp2.yaml.")


def keep_precision(trainer: Trainer) -> None:
    """Let FSDP2 use half precision for computation only: accelerate would also round losses, logits and gradients.

    Args:
        trainer (`Trainer`): before training.
    """
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only its shard of the weights."""
    return hasattr(model, "unshard") or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def whole_model(trainer: Trainer, load: Callable[[], nn.Module]) -> Any | None:
    """The trained model in one piece, in the main process; every process has to call this.

    Args:
        trainer (`Trainer`): the one that trained it.
        load (`Callable`): loads the model as it was before training; sharded weights are gathered into it.

    Returns:
        the model on the trainer's device; `None` in the other processes, which have nothing left to do.
    """
    assert trainer.model is not None
    if not is_sharded(trainer.model):
        model = trainer.accelerator.unwrap_model(trainer.model)
        return model if trainer.is_world_process_zero() else None
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    unset_hf_deepspeed_config()  # otherwise a model loaded from here on would be sharded as well
    if not trainer.is_world_process_zero():
        return None
    model = load()
    model.load_state_dict(weights)
    return model.to(trainer.args.device)


def own_rows(accelerator: Accelerator, rows: int, length: int) -> int:
    """How many rows count in the batch that this process drew last; they are its first ones.

    To give all processes batches of one size, accelerate fills the last batches of a dataset with rows from its
    start. These enter no loss and no metric, so training on several processes equals training on one.

    Args:
        accelerator (`Accelerator`): the one that prepared the data loader.
        rows (`int`): rows of the batch; the same for all batches of the data loader.
        length (`int`): rows of the dataset.
    """
    if accelerator.num_processes == 1 or not accelerator.gradient_state.end_of_dataloader:
        return rows
    # The number of new rows in the last batch over all processes; processes take them in order. Accelerate knows
    # the number too, but not in a resumed epoch
    new = length % (rows * accelerator.num_processes) or rows * accelerator.num_processes
    return min(max(new - accelerator.process_index * rows, 0), rows)


class SamplerEpoch(TrainerCallback):
    """Tells the sampler which epoch begins, however many batch samplers are around it.

    Accelerate does so too, but does not reach the sampler in the epoch in which several processes resume.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        sampler = train_dataloader.batch_sampler
        while sampler is not None and not hasattr(sampler, "set_epoch"):
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        if sampler is not None:
            sampler.set_epoch(int(state.epoch))
