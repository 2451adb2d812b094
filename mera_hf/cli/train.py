"""`mera train`: train a model to rank the codes of the next visit."""

import argparse

from mera_hf.cli.recipe import add_recipe_arguments, recipe_arguments


HELP = "train it to rank the codes of the next visit"
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_recipe_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures on validation; return the exit status 0."""
    from mera_hf.evaluation.figures import COLUMNS, format_figure
    from mera_hf.training.calibrate import FEWEST
    from mera_hf.training.train import train

    trained = train(**recipe_arguments(args))
    if trained is None:
        return 0
    if trained.metrics:
        print(
            f"\non {trained.patients:,} validation patients, in percent (the test patients are for `mera evaluate`):"
        )
        for name, title in COLUMNS.items():
            if name in trained.metrics:
                print(f"  {title:<14}{format_figure(name, trained.metrics[name]):>6}")
    if trained.patients < FEWEST:
        where = "fitted on the training patients instead" if trained.calibration.cut else "not fitted"
        print(
            f"note: with fewer than {FEWEST} validation patients, probabilities and the EOV cut are {where}, and there are no "
            "sets of a known coverage"
        )
    folder = trained.folder
    print(f"\nwritten to {folder}")
    print(f"next: mera evaluate {folder} --dataset {trained.dataset} --output-dir {folder / 'evaluation'}")
    return 0
