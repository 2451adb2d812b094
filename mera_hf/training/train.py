"""The second stage from a recipe to a checkpoint: train to rank, then fit probabilities and the EOV cut on validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.prepared import Prepared
from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.model import trainer_metrics
from mera_hf.training.calibrate import Calibration, calibrate_and_measure
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.output_folder import OutputFolder
from mera_hf.training.provenance import trained_on
from mera_hf.training.recipe import recipe_name
from mera_hf.training.run import StageRun, open_recipe
from mera_hf.training.wrapped import base_model


if TYPE_CHECKING:
    from trl import ModelConfig

    from mera_hf.training.arguments import MeraArguments


@dataclass(frozen=True)
class Trained:
    """What [`train`] has made.

    Attributes:
        folder (`Path`): the checkpoint, for `AutoModel.from_pretrained`.
        dataset (`Path`): the prepared dataset that it was trained on.
        patients (`int`): validation patients.
        metrics (`dict[str, float]`): as fractions, on their last visits; empty without validation patients.
        calibration ([`Calibration`]): what was fitted; uses training patients if fewer than 20 validation patients.
    """

    folder: Path
    dataset: Path
    patients: int
    metrics: dict[str, float]
    calibration: Calibration


def train(
    recipe: str | Path,
    dataset: str | Path | None = None,
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **fields,
) -> Trained | None:
    """
    Train a model to rank the codes of the next visit, fit its probabilities, its EOV cut and its sets of known
    coverage on the validation patients, and write the checkpoint: `mera train`.

    Args:
        recipe (`str` or `Path`): a YAML file such as those in `recipes/`, or `"demo/train"`, which comes with this package.
        dataset (`str` or `Path`, *optional*): folder that [`~mera_hf.prepare`] wrote; defaults to the recipe's.
        output_dir (`str` or `Path`, *optional*): where the checkpoint goes; defaults to the recipe's.
        resume (`bool`, *optional*, defaults to `False`): go on from the last saved step in the output folder.
        overwrite (`bool`, *optional*, defaults to `False`): replace what is in the output folder.
        overrides (`Sequence[str]`, *optional*): fields of the recipe as options of the command line.
        fields: fields of the recipe, in place of what it says: those of [`MeraTrainerConfig`], of TRL's `ModelConfig` and of
            [`MeraArguments`], such as `seed=1`, `learning_rate=1e-4` or `model_name_or_path="runs/memorized"`.

    Returns:
        [`Trained`]; with several processes only in the main one, `None` in the others.

    Raises:
        [`InputError`]: for a recipe that cannot be read, an unknown field or a bad value, a folder that was not prepared, an
            output folder that holds something, or a model that does not fit the dataset or the recipe.

    ```python
    >>> import mera_hf
    >>> from transformers import AutoModel

    >>> trained = mera_hf.train("recipes/tiny-cpu/train.yaml", "data/mine", "runs/mera", seed=1)
    >>> trained.metrics["recall@20"]
    0.65
    >>> model = AutoModel.from_pretrained(trained.folder)
    ```
    """
    training_args, model_args, mera_args, prepared, output = open_recipe(
        MeraTrainerConfig, recipe, dataset, output_dir, resume, overwrite, overrides, fields
    )
    result = train_parsed(training_args, model_args, mera_args, prepared, output, recipe_name(recipe))
    patients = len(prepared.splits["validation"])
    return None if result is None else Trained(output.folder, prepared.folder, patients, *result)


def train_parsed(
    training_args: MeraTrainerConfig,
    model_args: ModelConfig,
    mera_args: MeraArguments,
    prepared: Prepared,
    output: OutputFolder,
    recipe: str,
) -> tuple[dict[str, float], Calibration] | None:
    """The same from the parsed arguments of the recipe named `recipe`."""
    dataset = prepared.splits
    if not len(dataset["validation"]) and training_args.eval_strategy != "no":
        raise InputError("`eval_strategy` needs validation patients, and there are none; set `--eval-strategy no`.")
    run = StageRun(training_args, model_args, mera_args, prepared, output)
    provenance = trained_on(base_model(run.model).config.provenance, prepared.report)
    trainer = MeraTrainer(
        model=run.model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"] if len(dataset["validation"]) else None,
        processing_class=run.tokenizer,
        compute_metrics=trainer_metrics,
    )
    model = run.train(trainer)
    if model is None:
        return None
    config = base_model(model).config  # of a model that was loaded anew where its weights were shared out
    config.provenance, config.max_length = provenance, trainer.encoder.max_length
    calibration, metrics = calibrate_and_measure(model, run.tokenizer, dataset, mera_args.rerank_depth)
    start = model_args.model_name_or_path
    memorized = Path(start, "memorization.json") if start else None
    memorization = json.loads(memorized.read_text()) if memorized and memorized.is_file() else None
    log = {
        "recipe": recipe,
        "settings": training_args.settings(),
        **run.log(validation=metrics, memorization=memorization),
    }
    run.write(model, training=log)
    return metrics, calibration
