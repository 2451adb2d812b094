"""`mera app`: a page to enter a patient and look at the ranking."""

import argparse
from pathlib import Path

from mera_hf.cli.checkpoint import CHECKPOINT_HELP, SHIPPED, open_checkpoint
from mera_hf.errors import InputError


HELP = "a page to enter a patient and look at the ranking"
DESCRIPTION = """\
Open a page in the browser: enter a patient's visits by searching codes or words, see the ranking of the next visit with
the line where the predicted set ends, move that line, and look at one code: what moved it and where it stands in the tree.
For research; not for clinical decisions.

The page is served on this computer alone. Nothing that is entered is logged or stored, and the page loads nothing from
elsewhere. It needs Gradio: pip install 'mera_hf[app]'. With --dataset the test patients of a prepared folder can be loaded.
"""
EPILOG = """\
examples
  mera app
  mera app runs/mera --dataset data/diabetes130
  mera app runs/mera --port 7861 --no-browser
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=SHIPPED,
        metavar="CHECKPOINT",
        help=f"{CHECKPOINT_HELP} (default {SHIPPED})",
    )
    parser.add_argument("--dataset", metavar="DIR", help="prepared folder whose test patients can be loaded")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on (default 127.0.0.1); 0.0.0.0 lets others in"
    )
    parser.add_argument("--port", type=int, metavar="N", help="port (default: the first free one from 7860 on)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is stopped; return the exit status 0."""
    from mera_hf.app.launching import launch, require_gradio

    require_gradio()
    if args.port is not None and not 1 <= args.port <= 65535:
        raise InputError(f"`--port` is {args.port}; choose one between 1 and 65535.")
    model, tokenizer = open_checkpoint(args.checkpoint)
    name = Path(args.checkpoint).resolve().name if Path(args.checkpoint).exists() else args.checkpoint
    page = launch(name, model, tokenizer, args.dataset, args.host, args.port, browser=not args.no_browser)
    print(f"{name} is at {page.local_url}   (Ctrl+C stops it)", flush=True)
    page.block_thread()
    return 0
