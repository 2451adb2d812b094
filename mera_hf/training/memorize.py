"""The first stage from a recipe to a checkpoint: memorize what the codes mean (paper, stage 'memorize')."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mera_hf.data.prepared import Prepared
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.memorization_trainer import MemorizationTrainer, exact_match
from mera_hf.training.output_folder import OutputFolder
from mera_hf.training.provenance import trained_on
from mera_hf.training.run import StageRun, open_recipe
from mera_hf.training.wrapped import base_model


if TYPE_CHECKING:
    from trl import ModelConfig

    from mera_hf.training.arguments import MeraArguments


@dataclass(frozen=True)
class Memorized:
    """What [`memorize`] has made.

    Attributes:
        folder (`Path`): the checkpoint, for `model_name_or_path` of [`~mera_hf.train`].
        dataset (`Path`): the prepared dataset whose codes it knows.
        exact_match (`dict[str, float]`): share of questions whose answer is right to the last token.
    """

    folder: Path
    dataset: Path
    exact_match: dict[str, float]


def memorize(
    recipe: str | Path,
    dataset: str | Path | None = None,
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **fields,
) -> Memorized | None:
    """
    Teach a language model what the codes of a prepared dataset mean, and write the checkpoint: `mera memorize`.

    Args:
        recipe (`str` or `Path`): a YAML file such as those in `recipes/`, or `"demo/memorize"`, which comes with this package.
        dataset, output_dir, resume, overwrite, overrides, fields: as in [`~mera_hf.train`]; the fields are those of
            [`MemorizationTrainerConfig`], of TRL's `ModelConfig` and of [`MeraArguments`].

    Returns:
        [`Memorized`]; with several processes only in the main one, `None` in the others.

    Raises:
        [`InputError`]: as [`~mera_hf.train`].

    ```python
    >>> import mera_hf

    >>> mera_hf.memorize("recipes/tiny-cpu/memorize.yaml", "data/mine", "runs/memorized", num_train_epochs=3).exact_match
    {'code_to_definition_seen': 0.99, ...}
    ```
    """
    training_args, model_args, mera_args, prepared, output = open_recipe(
        MemorizationTrainerConfig, recipe, dataset, output_dir, resume, overwrite, overrides, fields
    )
    shares = memorize_parsed(training_args, model_args, mera_args, prepared, output)
    return None if shares is None else Memorized(output.folder, prepared.folder, shares)


def memorize_parsed(
    training_args: MemorizationTrainerConfig,
    model_args: ModelConfig,
    mera_args: MeraArguments,
    prepared: Prepared,
    output: OutputFolder,
    held_out: Sequence[str] = (),
) -> dict[str, float] | None:
    """The same from the parsed arguments of a recipe; `held_out` as in [`MemorizationTrainer`]. Writes `memorization.json`,
    the exact match, which it returns, and `memorize_run.json`, the log."""
    run = StageRun(training_args, model_args, mera_args, prepared, output)
    trainer = MemorizationTrainer(
        model=run.model, args=training_args, processing_class=run.tokenizer, held_out=held_out
    )
    model = run.train(trainer)
    if model is None:
        return None
    if model_args.model_name_or_path is None and mera_args.use_visit_text:
        # The model's vocabulary was made with the words of the patients' texts
        config = base_model(model).config
        config.provenance = trained_on(config.provenance, prepared.report)
    metrics = exact_match(
        model,
        run.tokenizer,
        trainer.codes,
        training_args.groups,
        training_args.per_device_eval_batch_size,
        lambda batches: tqdm(batches, desc="asking every question", unit="batch"),
        among=trainer.among,
    )
    run.write(model, memorize_run=run.log(), memorization=metrics)
    return metrics
