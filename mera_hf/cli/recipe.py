"""What the verbs that train from a recipe share."""

import argparse

from ..errors import InputError


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `mera memorize` and `mera train` share; anything else overrides a field of the recipe."""
    parser.add_argument("--config", metavar="RECIPE", required=True, help="YAML recipe, such as those in recipes/")
    parser.add_argument("--dataset", metavar="DIR", help="folder that `mera prepare` wrote")
    parser.add_argument("--output-dir", metavar="DIR", help="where the checkpoint goes")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved step in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")


def open_dataset(folder: str | None):
    """The prepared dataset and its codes.

    Raises:
        [`InputError`]: where no folder is named, or it is not a prepared one.
    """
    from ..data.prepare import load_codes, load_prepared

    if not folder:
        raise InputError("`--dataset` is missing: name a folder that `mera prepare` wrote.")
    return load_prepared(folder), [row["code"] for row in load_codes(folder)]
