"""Models whose weights are shared out over processes, by FSDP2 or DeepSpeed ZeRO-3."""

from collections.abc import Callable

from torch import nn
from transformers import Trainer


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
    if not trainer.is_world_process_zero():
        return None
    model = load()
    model.load_state_dict(weights)
    return model.to(trainer.args.device)
