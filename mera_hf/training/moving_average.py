"""An exponential moving average of the weights, left behind by training (this project's choice)."""

from pathlib import Path

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback


class MovingAverage(TrainerCallback):
    """Averages the trainable weights after every step and puts the average into the model when training ends.

    The average is saved with every checkpoint, so that a resumed training ends where an uninterrupted one does, and it
    is sharded over processes if the weights are. Evaluation during training uses the current weights.

    Args:
        decay (`float`): share of the old average that a step keeps; smaller in the first steps, (1 + step) / (10 + step).
    """

    FILE = "moving_average.pt"

    def __init__(self, decay: float):
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}
        self.resumed_from: str | None = None  # a checkpoint outside the output folder

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.average = {name: weight.detach().clone() for name, weight in _trained(model)}
        if state.global_step:
            checkpoint = self.resumed_from or Path(args.output_dir) / f"checkpoint-{state.global_step}"
            saved = torch.load(Path(checkpoint) / self.FILE, map_location="cpu", weights_only=True)
            for name, average in self.average.items():
                average.copy_(_shared_out(saved[name].to(average.device), average))

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, weight in _trained(model):
            self.average[name].lerp_(weight, 1 - decay)

    def save(self, folder: str | Path, main_process: bool) -> None:
        """Write the average into the folder of a saved step; every process has to call this.

        The trainer calls it before it writes its own state, which marks the step as complete.
        """
        # One weight at a time, so that only the main process ever holds more than one whole weight
        whole = {}
        for name, average in self.average.items():
            gathered = average.full_tensor() if isinstance(average, DTensor) else average
            if main_process:
                whole[name] = gathered.cpu()
        if main_process:
            torch.save(whole, Path(folder) / self.FILE)

    @torch.no_grad()
    def on_train_end(self, args, state, control, model=None, **kwargs):
        for name, weight in _trained(model):
            weight.copy_(self.average[name])


def _shared_out(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor sharded like another, if FSDP2 has sharded that."""
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole


def _trained(model):
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
