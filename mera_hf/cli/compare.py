"""`mera compare`: checkpoints and rankings of other models side by side."""

import argparse
from functools import partial
from pathlib import Path

from mera_hf.cli.checkpoint import open_checkpoint
from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.reference import REFERENCES


HELP = "checkpoints and rankings of other models side by side"
DESCRIPTION = """\
Measure several rankers on the same patients, by the same functions, with the reference rankers always beside them. A ranker
is a checkpoint (a folder that `mera train` wrote, mera-tiny-diabetes130, or a name on the Hub) or a Parquet file of rankings:
a row for each patient of the split, with patient_id, codes (best first, spelled as in the data set, such as ICD9CM:250.00) and
set_size (a number of codes, or empty). `mera evaluate --save-rankings` writes such a file, and any other program may. (Those
of `mera predict` are about the visit after the last one, and so cannot be compared with it.)

Every ranker is measured on the codes of the data set; codes that a ranking does not list come after its last. The first ranker
is compared with each other one patient by patient: the difference, the interval in which it lies when the patients are drawn
anew (95 % bootstrap), and the chance of a difference this large if the two were exchangeable (permutation; Holm: corrected
for the number of measures). Several runs of one ranker, separated by commas, count as their mean.
"""
EPILOG = """\
examples
  mera compare runs/mera --dataset data/mine
  mera compare runs/mera retain.parquet --dataset data/mine --output-dir runs/comparison
  mera compare full=runs/s0,runs/s1,runs/s2 no-tree=runs/n0,runs/n1,runs/n2 --dataset data/mine
"""
NO_PAGE = "no compare.html: pip install 'mera_hf[report]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "rankers",
        metavar="RANKER",
        nargs="+",
        help="checkpoint or Parquet file of rankings; NAME=RANKER gives it a name, NAME=RUN,RUN,RUN several seeds",
    )
    parser.add_argument("--dataset", metavar="DIR", required=True, help="folder that `mera prepare` wrote")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="patients to rank (default test)"
    )
    parser.add_argument(
        "--references",
        metavar="NAME",
        nargs="+",
        choices=REFERENCES,
        default=REFERENCES,
        help=f"reference rankers beside them: {', '.join(REFERENCES)} (default all)",
    )
    parser.add_argument("--output-dir", metavar="DIR", help="write metrics.json, table.md and compare.html here")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier comparison wrote there")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="patients at a time (default 64)")


def run(args: argparse.Namespace) -> int:
    """Compare, and print the tables; return the exit status 0."""
    from mera_hf.evaluation.compare import checkpoint_run, compare_rankers, file_run
    from mera_hf.report import write_comparison
    from mera_hf.report.comparisons import comparison_text

    if args.batch_size < 1:
        raise InputError(f"`--batch-size` is {args.batch_size}; it must be 1 or more.")
    output = Path(args.output_dir) if args.output_dir else None
    if output and output.is_file():
        raise InputError(f"`--output-dir` {output} is a file; choose a folder.")
    if output and (output / "metrics.json").exists() and not args.overwrite:
        raise InputError(f"`--output-dir` {output} holds measurements; choose another folder or add `--overwrite`.")
    rankers = {
        name: [
            file_run(path) if is_file(path) else checkpoint_run(partial(open_checkpoint, path), args.batch_size)
            for path in paths
        ]
        for name, paths in named(args.rankers).items()
    }
    comparison = compare_rankers(rankers, args.dataset, args.split, args.references)
    dataset = comparison.metrics["dataset"]
    print(f"\n{dataset['name']}, {dataset['split']}: {dataset['patients']:,} patients, {dataset['codes']:,} codes\n")
    print(comparison_text(comparison.metrics))
    if output:
        written = write_comparison(comparison, output)
        print(f"\nwritten to {output}: {', '.join(written)}")
        if "compare.html" not in written:
            print(NO_PAGE)
    else:
        print("\nnothing written; add --output-dir DIR for metrics.json and a page with plots")
    return 0


def named(arguments: list[str]) -> dict[str, list[str]]:
    """The arguments as names and their runs: `NAME=RUN,RUN`, or one run alone, whose name is the last part of its path.

    Raises:
        [`InputError`]: for an empty name or run, several runs without a name, a name or a run given twice.
    """
    rankers = {}
    for argument in arguments:
        name, equals, rest = argument.rpartition("=")
        paths = rest.split(",")
        if not all(paths) or (equals and not name):
            raise InputError(f"`{argument}` is not NAME=RANKER or NAME=RUN,RUN: a part is empty.")
        if len(paths) > 1 and not name:
            raise InputError(f"`{argument}` has several runs; put a name in front: `NAME={argument}`.")
        if len(set(paths)) < len(paths):
            raise InputError(f"`{argument}` gives a run twice; give each seed once.")
        # A name on the Hub is kept; for a path the last part is enough
        if not name and Path(rest).exists():
            name = Path(rest).resolve().name.removesuffix(".parquet")
        name = name or rest
        if name in rankers:
            raise InputError(f"two rankers are called {name!r}; put a name in front of each: `NAME={argument}`.")
        rankers[name] = paths
    return rankers


def is_file(path: str) -> bool:
    """Whether this is a file of rankings and not a checkpoint.

    Raises:
        [`InputError`]: if it should be a file but is missing, is a file of another kind, or is what `mera predict` wrote.
    """
    from mera_hf.evaluation.rankings.files import NOT_MEASURED
    from mera_hf.evaluation.rankings.predict import RUN_FILE

    file = Path(path)
    if path.endswith(".parquet") and not file.is_dir():
        if not file.exists():
            raise InputError(f"the file of rankings {path!r} does not exist.")
        return True
    if file.is_file():
        raise InputError(f"{path!r} is no folder of a checkpoint and no Parquet file of rankings (NAME.parquet).")
    if (file / RUN_FILE).is_file() and not (file / "config.json").is_file():
        raise InputError(f"{path!r} {NOT_MEASURED}")
    return False
