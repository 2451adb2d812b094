"""The whole training of a recipe against transformers' `Trainer` with a plain language-model loss on the same timelines."""

import copy
import tempfile
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer

from mera_hf.data.prepare import prepare
from mera_hf.data.prepared import Prepared
from mera_hf.data.timelines import LengthSampler, TimelineDataset
from mera_hf.timeline_mera import Timeline
from mera_hf.training.checkpoints import load_model
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.recipe import parse_recipe

from .timing import best_of


RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-cpu" / "train.yaml"


def trainer(dataset=None, steps=30, overrides=(), repeat=5) -> tuple[float, str]:
    """Tokens a second of [`MeraTrainer`] by those of a plain Trainer: the same weights, timelines, batches, positions,
    optimizer, schedule and logging, in blocks of `steps` steps that take turns.

    [`MeraTrainer`] writes its timelines anew in every epoch, with the codes of a visit in a fresh order, while the clock runs;
    the plain Trainer finds them written, as an ordinary corpus is, and does without the moving average of the weights and the
    dropout that MERA adds.

    Args:
        dataset: a prepared dataset; Diabetes 130-US Hospitals without it.
        steps: steps of a block.
        overrides: options that override the recipe.
        repeat: blocks that count.
    """
    with tempfile.TemporaryDirectory() as folder:
        if dataset is None:
            dataset = Path(folder) / "diabetes130"
            prepare("diabetes130", output_dir=dataset)
        mera, tokens = _mera_trainer(dataset, folder, steps, overrides)
        plain = _plain_trainer(_mera_trainer(dataset, folder, steps, overrides)[0])
        blocks = {name: _block(trainer) for name, trainer in {"mera": mera, "plain": plain}.items()}
        times = best_of(blocks, repeat)
    patients = steps * mera.args.train_batch_size
    return times["plain"] / times["mera"], (
        "tokens a second of `MeraTrainer` / of transformers' `Trainer` with next-token cross-entropy on the same timelines, "
        f"which the latter finds written already: recipe tiny-cpu/train on Diabetes 130, {steps} steps of "
        f"{mera.args.train_batch_size} patients, {tokens / patients:.1f} tokens a patient"
    )


def _mera_trainer(dataset, folder: str, steps: int, overrides) -> tuple[MeraTrainer, int]:
    """The trainer of the recipe, and the tokens of its first steps."""
    # The rows that a sentence encoder would start are random here, and as fast
    options = ["--initialise", "random", "--max-steps", str(steps), "--output-dir", folder, "--disable-tqdm", "true"]
    options += ["--dataloader-pin-memory", "false"]  # for GPUs
    config, model_args, mera_args = parse_recipe(RECIPE, [*options, *overrides], MeraTrainerConfig)
    prepared = Prepared.open(dataset)
    model, tokenizer = load_model(model_args, mera_args, prepared.splits["train"], prepared.codes, config.seed)
    trainer = MeraTrainer(model=model, args=config, train_dataset=prepared.splits["train"], processing_class=tokenizer)
    lengths = trainer.train_dataset.lengths
    rows = [row for _, row in LengthSampler(lengths, config.train_batch_size, config.seed)]
    if len(rows) < steps * config.train_batch_size:
        raise ValueError(f"{steps} steps are more than an epoch")
    return trainer, sum(lengths[row] for row in rows[: steps * config.train_batch_size])


def _plain_trainer(mera: MeraTrainer) -> Trainer:
    rows, pad = mera.train_dataset, mera.processing_class.pad_token_id

    class PlainTrainer(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return LengthSampler(rows.lengths, self._train_batch_size, self.args.seed)

    return PlainTrainer(
        model=mera.model.language_model,
        args=mera.args,
        train_dataset=_Written(rows),
        data_collator=lambda timelines: _as_text(timelines, pad),
    )


class _Written(torch.utils.data.Dataset):
    """Timelines in the orders of the first epoch, written once."""

    def __init__(self, rows: TimelineDataset):
        self.timelines = [rows[0, row] for row in range(len(rows))]

    def __len__(self) -> int:
        return len(self.timelines)

    def __getitem__(self, item: tuple[int, int]) -> Timeline:
        return self.timelines[item[1]]


def _as_text(timelines: list[Timeline], pad: int) -> dict[str, torch.Tensor]:
    """What a causal language model reads; every token is a label."""
    width = max(len(timeline.input_ids) for timeline in timelines)
    batch = {"input_ids": [], "attention_mask": [], "position_ids": [], "labels": []}
    for timeline in timelines:
        ids, rest = timeline.input_ids, width - len(timeline.input_ids)
        batch["input_ids"].append(ids + [pad] * rest)
        batch["attention_mask"].append([1] * len(ids) + [0] * rest)
        batch["position_ids"].append(timeline.positions + [0] * rest)
        batch["labels"].append(ids + [-100] * rest)
    return {name: torch.tensor(rows) for name, rows in batch.items()}


def _block(trainer: Trainer):
    """A training from the same start, each time that it is called."""
    trainer.remove_callback(PrinterCallback)  # it would print the log between the figures
    start = copy.deepcopy(trainer.model.state_dict())

    def train():
        trainer.model.load_state_dict(start)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.train()

    return train
