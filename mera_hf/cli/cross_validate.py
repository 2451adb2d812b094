"""`mera cross-validate`: measure a recipe on a cohort too small for a test split."""

import argparse
from pathlib import Path

from mera_hf.blocks import text_table
from mera_hf.errors import InputError


HELP = "measure a recipe on a cohort too small for a test split"
DESCRIPTION = """\
Measure a training recipe on few patients: train on all folds but one, rank every visit from the second on of the
patients left out, and measure all folds together, beside the reference rankers. No checkpoint is kept.
"""
EPILOG = """\
Any field of the recipe can be given as an option and overrides it:
  mera cross-validate --config recipes/tiny-cpu/train-few-patients.yaml --dataset data/mimic4_demo --seed 1 \\
                      --output metrics.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("--config", metavar="RECIPE", required=True, help="YAML recipe of `mera train`")
    parser.add_argument("--dataset", metavar="DIR", required=True, help="folder that `mera prepare` wrote")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="number of folds (default 5)")
    parser.add_argument("--output", metavar="FILE", help="write the figures to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Cross-validate, and print the table; return the exit status 0."""
    from mera_hf.evaluation.figures import ranker_table
    from mera_hf.evaluation.results import write_metrics
    from mera_hf.training.cross_validate import cross_validate

    if args.output and Path(args.output).exists():
        raise InputError(f"`--output` {args.output} exists; choose another file.")
    metrics = cross_validate(args.config, args.dataset, folds=args.folds, overrides=args.overrides)
    dataset = metrics["dataset"]
    print(f"\n{dataset['name']}: {dataset['split']}, {dataset['codes']:,} codes\n")
    print(text_table(ranker_table(metrics)))
    if args.output:
        write_metrics(metrics, args.output)
        print(f"\nwritten to {args.output}")
    return 0
