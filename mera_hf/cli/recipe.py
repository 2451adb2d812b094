"""What the verbs that train from a recipe share."""

import argparse


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `mera memorize` and `mera train` share; anything else overrides a field of the recipe."""
    parser.add_argument("--config", metavar="RECIPE", required=True, help="YAML recipe, such as those in recipes/")
    parser.add_argument("--dataset", metavar="DIR", help="folder that `mera prepare` wrote")
    parser.add_argument("--output-dir", metavar="DIR", help="where the checkpoint goes")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved step in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")


def recipe_arguments(args: argparse.Namespace) -> dict:
    """What `mera_hf.memorize` and `mera_hf.train` take, from those options."""
    return {
        "recipe": args.config,
        "dataset": args.dataset,
        "output_dir": args.output_dir,
        "resume": args.resume,
        "overwrite": args.overwrite,
        "overrides": args.overrides,
    }
