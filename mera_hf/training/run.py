"""A training from a recipe to a checkpoint: what both stages share."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mera_hf.data.prepared import Prepared
from mera_hf.errors import InputError
from mera_hf.files import write_json
from mera_hf.machine import hardware
from mera_hf.training.checkpoints import load_model, save_checkpoint, wrap_with_adapter
from mera_hf.training.distributed import whole_model
from mera_hf.training.output_folder import OutputFolder
from mera_hf.training.recipe import parse_recipe
from mera_hf.training.tracked_run import TrackedRun


if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer
    from trl import ModelConfig

    from mera_hf.training.arguments import MeraArguments


def open_recipe(
    trainer_config: type,
    recipe: str | Path,
    dataset: str | Path | None,
    output_dir: str | Path | None,
    resume: bool,
    overwrite: bool,
    overrides: Sequence[str],
    fields: dict,
) -> tuple:
    """The three arguments of [`parse_recipe`], the dataset and the output folder; where `dataset` and `output_dir` are not
    given, the recipe names them.

    Raises:
        [`InputError`]: as [`parse_recipe`], [`Prepared.open`] and [`OutputFolder`], and if no dataset is named.
    """
    training_args, model_args, mera_args = parse_recipe(recipe, overrides, trainer_config, fields)
    folder = dataset or mera_args.dataset
    if not folder:
        raise InputError("`--dataset` is missing: name a folder that `mera prepare` wrote.")
    prepared = Prepared.open(folder)
    inputs = (model_args.model_name_or_path, folder)
    output = OutputFolder(output_dir or training_args.output_dir, resume, overwrite, inputs)
    return training_args, model_args, mera_args, prepared, output


class StageRun:
    """One training of a model that a recipe describes.

    Args:
        training_args (`MeraTrainerConfig` or `MemorizationTrainerConfig`): its `output_dir` is set.
        model_args (`trl.ModelConfig`), mera_args (`MeraArguments`): the rest of the recipe, see [`parse_recipe`].
        prepared (`Prepared`): the dataset.
        output ([`OutputFolder`]): where the checkpoint goes.

    Attributes:
        model, tokenizer: what is to be trained, inside an adapter if the recipe asks for one.
    """

    def __init__(
        self,
        training_args,
        model_args: ModelConfig,
        mera_args: MeraArguments,
        prepared: Prepared,
        output: OutputFolder,
    ):
        self.started, self.args, self.output = time.perf_counter(), training_args, output
        training_args.output_dir = str(output.checkpoints)

        def load():
            model, tokenizer = load_model(
                model_args, mera_args, prepared.splits["train"], prepared.codes, training_args.seed
            )
            return wrap_with_adapter(model, model_args), tokenizer

        self.load = load
        self.model, self.tokenizer = load()

    def train(self, trainer: Trainer) -> Any | None:
        """Train, or go on from the last saved step, and give the trained model in one piece; with several processes
        only the main one gets it, the others get `None`."""
        self.trainer, self.tracked = trainer, TrackedRun()
        trainer.add_callback(self.tracked)
        self.output.open(trainer.accelerator)
        with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log to standard output
            trainer.train(resume_from_checkpoint=self.output.last)
        return whole_model(trainer, lambda: self.load()[0])

    def log(self, **figures) -> dict:
        """A log for a file beside the checkpoint: seed, seconds, hardware, the figures, and the trainer's log."""
        return {
            "seed": self.args.seed,
            "seconds": round(time.perf_counter() - self.started, 1),
            "hardware": hardware(self.args.world_size),
            **figures,
            "tracker": self.tracked.run,
            "log": self.trainer.state.log_history,
        }

    def write(self, model: nn.Module, **files: dict) -> None:
        """Write the checkpoint, and beside it one JSON file per name."""

        def write(folder: Path) -> None:
            save_checkpoint(model, self.tokenizer, folder)
            for name, content in files.items():
                write_json(content, folder / f"{name}.json")

        self.output.finish(write)
