"""`mera card`: the model card of a checkpoint."""

import argparse
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.shipped import find_checkpoint


HELP = "the model card of a checkpoint"
DESCRIPTION = """\
Write the model card (README.md) of a checkpoint: what it is and is not for, how to load it, what it was trained on, and what
`mera evaluate` measured. Every figure of the card comes from metrics.json and from the files of the checkpoint. Without
--metrics the card says that the checkpoint was not evaluated. For a folder of recipes instead of a checkpoint, the card of a
model that users train themselves, without any result.
"""
EPILOG = """\
examples
  mera card runs/mera --metrics runs/mera/evaluation/metrics.json --output runs/mera/README.md --overwrite
  mera card runs/memorized --repo org/my-memorized-codes
  mera card recipes/biomistral-7b --repo mera-biomistral
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a checkpoint, or of recipes")
    parser.add_argument("--metrics", metavar="FILE", help="metrics.json of the checkpoint, or merged over seeds")
    parser.add_argument("--repo", metavar="REPO", help="its name on the Hub: org/name (default the folder's name)")
    parser.add_argument("--notes", metavar="FILE", help="Markdown with further sections, put before the limits")
    parser.add_argument("--output", metavar="FILE", help="write the card here instead of printing it")
    parser.add_argument("--overwrite", action="store_true", help="replace the card that is there")


def run(args: argparse.Namespace) -> int:
    """Print or write the card; return the exit status 0."""
    from mera_hf.evaluation.results import read_metrics
    from mera_hf.files import write_text
    from mera_hf.hub.model_card import model_card, recipe_card

    output = Path(args.output) if args.output else None
    if output and output.exists() and not args.overwrite:
        raise InputError(f"`--output` {output} exists; choose another file or add `--overwrite`.")
    folder = Path(find_checkpoint(args.checkpoint))
    if any(folder.glob("train-*.yaml")):
        if args.metrics or args.notes:
            raise InputError("a card of recipes has no results: leave out `--metrics` and `--notes`.")
        text = recipe_card(folder, args.repo or folder.resolve().name)
    else:
        metrics = read_metrics(args.metrics) if args.metrics else None
        text = model_card(folder, metrics, args.repo, args.notes)
    if output is None:
        print(text, end="")
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(text, output)
    print(f"written to {output}")
    return 0
