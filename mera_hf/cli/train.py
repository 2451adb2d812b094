"""`mera train`: train a model to rank the codes of the next visit."""

import argparse

from .recipe import add_recipe_arguments, open_dataset


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
    from ..data.prepare import read_report
    from ..evaluation.calibration import FEWEST
    from ..evaluation.results import COLUMNS, format_figure
    from ..evaluation.training_run import train
    from ..training.mera_config import MeraTrainerConfig
    from ..training.output_folder import OutputFolder
    from ..training.recipe import parse_recipe, recipe_name

    training_args, model_args, mera_args = parse_recipe(args.config, args.overrides, MeraTrainerConfig)
    folder = args.dataset or mera_args.dataset
    dataset, codes = open_dataset(folder)
    inputs = (model_args.model_name_or_path, folder)
    output = OutputFolder(args.output_dir or training_args.output_dir, args.resume, args.overwrite, inputs)
    recipe, report = recipe_name(args.config), read_report(folder)
    result = train(training_args, model_args, mera_args, dataset, codes, output, recipe, report)
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
    print(f"\nwritten to {output.folder}")
    print(f"next: mera evaluate {output.folder} --dataset {folder} --output-dir {output.folder / 'evaluation'}")
    return 0
