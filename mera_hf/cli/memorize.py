"""`mera memorize`: teach a language model what the codes mean."""

import argparse

from .recipe import add_recipe_arguments, open_dataset


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
    from ..data.prepare import read_report
    from ..training.memorization_config import MemorizationTrainerConfig
    from ..training.memorize import memorize
    from ..training.output_folder import OutputFolder
    from ..training.recipe import parse_recipe

    training_args, model_args, mera_args = parse_recipe(args.config, args.overrides, MemorizationTrainerConfig)
    folder = args.dataset or mera_args.dataset
    dataset, codes = open_dataset(folder)
    inputs = (model_args.model_name_or_path, folder)
    output = OutputFolder(args.output_dir or training_args.output_dir, args.resume, args.overwrite, inputs)
    metrics = memorize(training_args, model_args, mera_args, dataset, codes, output, read_report(folder))
    if metrics is None:
        return 0
    print("\nshare of answers that are right to the last token (unseen: a wording that was not trained on):")
    for name, value in metrics.items():
        print(f"  {name.replace('_', ' '):<32}{value:6.1%}")
    print(f"\nwritten to {output.folder}")
    print(f"next: mera train --config RECIPE --dataset {folder} --model-name-or-path {output.folder} --output-dir DIR")
    return 0
