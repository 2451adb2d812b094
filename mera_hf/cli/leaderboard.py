"""`mera leaderboard`: all results in some folders, side by side."""

import argparse
import sys
from pathlib import Path

from mera_hf.errors import InputError


HELP = "a table of all results in some folders"
DESCRIPTION = """\
Put all results in some folders into tables: every metrics.json that `mera evaluate` or `mera compare` wrote, and every
.eval_results/*.yaml of models fetched from the Hub, with everything below the folders. One table for each set of patients and
way of measuring, sorted by recall@20, with the reference rankers at their places. Nothing is fetched and nothing is sent.
"""
EPILOG = """\
examples
  mera leaderboard runs
  mera leaderboard runs other-models --output leaderboard.md
  mera leaderboard runs --output leaderboard.html --overwrite
"""
FORMATS = (".md", ".html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("folders", metavar="DIR", nargs="+", help="folder with results, in it or below it")
    parser.add_argument("--output", metavar="FILE", help="write the tables here: FILE.md or FILE.html")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that is there")


def run(args: argparse.Namespace) -> int:
    """Print or write the tables; return the exit status 0."""
    from mera_hf.files import write_text
    from mera_hf.hub.leaderboard import boards_html, boards_markdown, read_boards

    output = Path(args.output) if args.output else None
    if output and output.suffix not in FORMATS:
        raise InputError(f"`--output` {output} is neither Markdown nor HTML; name it FILE.md or FILE.html.")
    if output and output.exists() and not args.overwrite:
        raise InputError(f"`--output` {output} exists; choose another file or add `--overwrite`.")
    boards, left_out = read_boards(args.folders)
    for path, reason in left_out.items():
        print(f"left out: {path} ({reason})", file=sys.stderr)
    if output is None:
        print(boards_markdown(boards), end="")
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(boards_html(boards) if output.suffix == ".html" else boards_markdown(boards), output)
    print(f"written to {output}")
    return 0
