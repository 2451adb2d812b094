"""`mera cross-validate`: measure a recipe on a cohort too small for a test split."""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from ..errors import InputError
from .recipe import open_dataset


DESCRIPTION = """\
Measure a training recipe on few patients: train on all folds but one, rank every visit from the second on of the
patients left out, and measure all folds together, beside the reference rankers. No checkpoint is kept.
"""
EPILOG = """\
Any field of the recipe can be given as an option and overrides it:
  mera cross-validate --config recipes/tiny-cpu/train-few-patients.yaml --dataset data/mimic4_demo --seed 1 \\
                      --output metrics.json
"""


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the verb `cross-validate` to the parser of `mera`."""
    parser = subparsers.add_parser(
        "cross-validate",
        help="measure a recipe on a cohort too small for a test split",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="RECIPE", required=True, help="YAML recipe of `mera train`")
    parser.add_argument("--dataset", metavar="DIR", required=True, help="folder that `mera prepare` wrote")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="number of folds (default 5)")
    parser.add_argument("--output", metavar="FILE", help="write the figures to this JSON file")
    return parser


def run(args: argparse.Namespace) -> int:
    """Cross-validate, and print the table; return the exit status 0."""
    from ..data.prepare import read_report
    from ..evaluation.cross_validation import cross_validate
    from ..evaluation.results import table_text, write_metrics
    from ..training.mera_config import MeraTrainerConfig
    from ..training.recipe import parse_recipe, recipe_name

    if args.output and Path(args.output).exists():
        raise InputError(f"`--output` {args.output} exists; choose another file.")
    with tempfile.TemporaryDirectory() as scratch:
        recipe = parse_recipe(args.config, [*args.overrides, "--output-dir", scratch], MeraTrainerConfig)
        dataset, codes = open_dataset(args.dataset)
        with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log to standard output
            metrics = cross_validate(
                *recipe, dataset, codes, read_report(args.dataset), recipe_name(args.config), args.folds
            )
    print(f"\n{metrics['dataset']['name']}: {metrics['dataset']['split']}, {len(codes):,} codes\n")
    print(table_text(metrics))
    if args.output:
        write_metrics(metrics, args.output)
        print(f"\nwritten to {args.output}")
    return 0
