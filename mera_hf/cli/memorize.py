"""`mera memorize`: teach a language model what the codes mean."""

import argparse
import contextlib
import sys

from .recipe import Stage, add_recipe_arguments, open_dataset, parse_recipe


DESCRIPTION = """\
Teach a language model what each ICD code means: code -> definition, definition -> code, code -> chapter, block and
category. Each code of the dataset becomes one token. No patient is read but for the list of codes, so the result is
free to share (if the base model is).
"""
EPILOG = """\
Any field of the recipe can be given as an option and overrides it:
  mera memorize --config recipes/tiny-cpu/memorize.yaml --dataset data/diabetes130 --output-dir runs/memorized
  mera memorize --config recipes/biomistral-7b/memorize-lora.yaml --dataset data/mimic4 --output-dir runs/memorized \\
                --learning-rate 1e-4 --num-train-epochs 3
The recipes explain every key.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the verb `memorize` to the parser of `mera`."""
    parser = subparsers.add_parser(
        "memorize",
        help="teach a language model what the codes mean",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Memorize, and print the exact match in both directions; return the exit status 0."""
    from ..training.memorization_config import MemorizationTrainerConfig

    training_args, model_args, mera_args = parse_recipe(args.config, args.overrides, MemorizationTrainerConfig)
    folder = args.dataset or mera_args.dataset
    dataset, codes = open_dataset(folder)
    stage = Stage(args, training_args.output_dir, (model_args.model_name_or_path, folder))
    metrics = memorize(training_args, model_args, mera_args, dataset, codes, stage)
    if metrics is None:
        return 0
    print("\nshare of answers that are right to the last token (unseen: a wording that was not trained on):")
    for name, value in metrics.items():
        print(f"  {name.replace('_', ' '):<32}{value:6.1%}")
    print(f"\nwritten to {stage.folder}")
    print(f"next: mera train --config RECIPE --dataset {folder} --model-name-or-path {stage.folder} --output-dir DIR")
    return 0


def memorize(training_args, model_args, mera_args, dataset, codes: list[str], stage: Stage) -> dict[str, float] | None:
    """Train the stage and write its checkpoint with `memorization.json`; returns the exact match. Of several processes the
    main one does all but training, and the others return `None`."""
    import json

    from tqdm import tqdm

    from ..training.memorization_trainer import MemorizationTrainer, exact_match
    from ..training.sharded import whole_model
    from ..training.stages import load_model, save_checkpoint, wrap_with_adapter

    training_args.output_dir = str(stage.checkpoints)

    def load():
        model, tokenizer = load_model(model_args, mera_args, dataset, codes, training_args.seed)
        return wrap_with_adapter(model, model_args), tokenizer

    model, tokenizer = load()
    trainer = MemorizationTrainer(model=model, args=training_args, processing_class=tokenizer)
    stage.open(trainer.accelerator)
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log to standard output
        trainer.train(resume_from_checkpoint=stage.last)
    model = whole_model(trainer, lambda: load()[0])
    if model is None:
        return None
    metrics = exact_match(
        model,
        tokenizer,
        trainer.codes,
        training_args.groups,
        training_args.per_device_eval_batch_size,
        lambda batches: tqdm(batches, desc="asking every question", unit="batch"),
    )

    def write(folder):
        save_checkpoint(model, tokenizer, folder)
        (folder / "memorization.json").write_text(json.dumps(metrics, indent=2) + "\n")

    stage.finish(write)
    return metrics
