"""`mera memorize`: teach a language model what the codes mean."""

import argparse

from mera_hf.cli.recipe import add_recipe_arguments, recipe_arguments


HELP = "teach a language model what the codes mean"
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_recipe_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Memorize, and print the exact match in both directions; return the exit status 0."""
    from mera_hf.training.memorize import memorize

    memorized = memorize(**recipe_arguments(args))
    if memorized is None:
        return 0
    print("\nshare of answers that are right to the last token (unseen: a wording that was not trained on):")
    for name, value in memorized.exact_match.items():
        print(f"  {name.replace('_', ' '):<32}{value:6.1%}")
    folder = memorized.folder
    print(f"\nwritten to {folder}")
    print(
        f"next: mera train --config RECIPE --dataset {memorized.dataset} --model-name-or-path {folder} --output-dir DIR"
    )
    return 0
