"""`mera train`: train a model to rank the codes of the next visit."""

import argparse
import contextlib
import sys

from ..errors import InputError
from .recipe import Stage, add_recipe_arguments, open_dataset, parse_recipe, recipe_name


DESCRIPTION = """\
Train a model to rank all codes for the next visit from a patient's earlier visits, and fit the cut of the ranking
into a set (EOV) on the validation patients. Start from a memorized checkpoint, from a base model, or from scratch.
"""
EPILOG = """\
Any field of the recipe can be given as an option and overrides it:
  mera train --config recipes/tiny-cpu/train.yaml --dataset data/diabetes130 --model-name-or-path runs/memorized \\
             --output-dir runs/mera
  mera train --config recipes/biomistral-7b/train-qlora.yaml --dataset data/mimic4 \\
             --model-name-or-path runs/memorized --output-dir runs/mera --per-device-train-batch-size 2
The recipes explain every key.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the verb `train` to the parser of `mera`."""
    parser = subparsers.add_parser(
        "train",
        help="train it to rank the codes of the next visit",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures on validation; return the exit status 0."""
    from ..evaluation.calibration import FEWEST
    from ..evaluation.results import COLUMNS, format_figure
    from ..training.mera_config import MeraTrainerConfig

    training_args, model_args, mera_args = parse_recipe(args.config, args.overrides, MeraTrainerConfig)
    folder = args.dataset or mera_args.dataset
    dataset, codes = open_dataset(folder)
    stage = Stage(args, training_args.output_dir, (model_args.model_name_or_path, folder))
    result = train(training_args, model_args, mera_args, dataset, codes, stage, recipe_name(args.config))
    if result is None:
        return 0
    metrics, fitted = result
    patients = len(dataset["validation"])
    if metrics:
        print(f"\non {patients:,} validation patients, in percent (the test patients are for `mera evaluate`):")
        for name, title in COLUMNS.items():
            if name in metrics:
                print(f"  {title:<14}{format_figure(name, metrics[name]):>6}")
    if patients < FEWEST:
        where = "fitted on the training patients instead" if fitted else "not fitted"
        print(
            f"note: with fewer than {FEWEST} validation patients, probabilities and the EOV cut are {where}, and there are no "
            "sets of a known coverage"
        )
    print(f"\nwritten to {stage.folder}")
    print(f"next: mera evaluate {stage.folder} --dataset {folder} --output-dir {stage.folder / 'evaluation'}")
    return 0


def train(
    training_args, model_args, mera_args, dataset, codes: list[str], stage: Stage, recipe: str
) -> tuple[dict[str, float], bool] | None:
    """Train the stage, fit the cut on validation and write the checkpoint; returns the figures on validation, and whether
    there were visits enough to fit the cut. Of several processes the main one does all but training, and the others
    return `None`."""
    import json
    import time

    from ..evaluation.calibration import calibrate, enough_to_calibrate, measure
    from ..evaluation.conformal import fit_conformal
    from ..evaluation.model_ranking import trainer_metrics
    from ..training.mera_trainer import MeraTrainer
    from ..training.sharded import whole_model
    from ..training.stages import load_model, save_checkpoint, wrap_with_adapter

    if not len(dataset["validation"]) and training_args.eval_strategy != "no":
        raise InputError("`eval_strategy` needs validation patients, and there are none; set `--eval-strategy no`.")
    started = time.perf_counter()
    training_args.output_dir = str(stage.checkpoints)

    def load():
        model, tokenizer = load_model(model_args, mera_args, dataset, codes, training_args.seed)
        return wrap_with_adapter(model, model_args), tokenizer

    model, tokenizer = load()
    trainer = MeraTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"] if len(dataset["validation"]) else None,
        processing_class=tokenizer,
        compute_metrics=trainer_metrics,
    )
    stage.open(trainer.accelerator)
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log to standard output
        trainer.train(resume_from_checkpoint=stage.last)
    model = whole_model(trainer, lambda: load()[0])
    if model is None:
        return None
    fitted = calibrate(model, tokenizer, enough_to_calibrate(dataset), mera_args.rerank_depth)
    fit_conformal(model, tokenizer, dataset["validation"])
    metrics = measure(model, tokenizer, dataset["validation"])
    log = {
        "recipe": recipe,
        "seed": training_args.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "validation": metrics,
        "log": trainer.state.log_history,
    }

    def write(folder):
        save_checkpoint(model, tokenizer, folder)
        (folder / "training.json").write_text(json.dumps(log, indent=2) + "\n")

    stage.finish(write)
    return metrics, fitted
