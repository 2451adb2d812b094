"""`mera export`: a checkpoint as a plain language model."""

import argparse

from mera_hf.cli.checkpoint import add_checkpoint, open_checkpoint
from mera_hf.errors import InputError


HELP = "write a plain language model for serving engines"
DESCRIPTION = """\
Write a checkpoint as a plain language model that any engine for causal language models can serve (vLLM and the like), with
the code tokens in its tokenizer. Behind the prompt of a patient, the probabilities of the first token give the ranking of
`mera predict`. The README.md of the folder says how a prompt is written, and prompt.py beside it writes one, without mera.

A plain language model has no place for the history term, the code bias, and for one position for all codes of a visit. A
checkpoint that ranks with them is refused, unless --plain leaves them behind and measures what that costs on --dataset.
Train with `history_term: false`, `code_bias: false` and `positions: token` for a model to be served.
"""
EPILOG = """\
examples
  mera export runs/mera --output-dir runs/plain
  mera export runs/mera --output-dir runs/plain --plain --dataset data/mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_checkpoint(parser)
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--plain", action="store_true", help="leave behind what a plain language model has no place for"
    )
    parser.add_argument("--dataset", metavar="DIR", help="folder that `mera prepare` wrote, to measure the loss on")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="validation",
        help="patients to measure on (default validation)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote there")


def run(args: argparse.Namespace) -> int:
    """Export, and print what it costs; return the exit status 0."""
    from mera_hf.data.prepared import Prepared
    from mera_hf.evaluation.rankings.plain import measure_export
    from mera_hf.training.export import check_exportable, check_output, export_plain, lost_in_export

    check_output(args.output_dir, args.overwrite)
    model, tokenizer = open_checkpoint(args.checkpoint, args.revision)
    check_exportable(model)
    lost, measured = lost_in_export(model), None
    if lost and not args.plain:
        raise InputError(
            f"checkpoint {args.checkpoint!r} ranks with {', '.join(lost)}, which a plain language model has no place for, so "
            "that it would rank otherwise; add `--plain --dataset DIR` to leave that behind and measure what it costs."
        )
    if lost:
        if not args.dataset:
            raise InputError("`--plain` needs `--dataset`, to measure what is lost.")
        measured = measure_export(model, tokenizer, Prepared.open(args.dataset).splits[args.split], args.split)
        print(f"left behind: {', '.join(lost)}")
        print(f"\n{measured['patients']:,} {args.split} patients, percent:")
        print(f"  {'':<10}{'checkpoint':>12}{'plain':>8}{'change':>8}")
        for name, (whole, plain) in measured["recall"].items():
            print(f"  {name:<10}{100 * whole:>12.1f}{100 * plain:>8.1f}{100 * (plain - whole):>+8.1f}")
        print()
    else:
        print("nothing is left behind: the plain language model ranks as the checkpoint does")
    export_plain(model, tokenizer, args.output_dir, measured, args.overwrite)
    print(f"written to {args.output_dir} (its README.md says how a prompt is written)")
    return 0
