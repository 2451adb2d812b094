"""`mera submit`: offer results on the benchmark to a model repository of the Hub, as a pull request."""

import argparse
from pathlib import Path

from mera_hf.errors import InputError


HELP = "offer results on the benchmark to a model on the Hub"
DESCRIPTION = """\
Offer results on the benchmark Diabetes 130 next-visit diagnosis to the leaderboard: open a pull request on the model's
repository that adds .eval_results/diabetes130-next-visit.yaml. Anybody may do so; the owner of the model merges or closes it.
The figures must be measured on the benchmark's own test patients, or they are refused. What goes to the Hub is this one file:
figures, versions and commands, and nothing of any patient.

The Hub's default leaderboard leaves out models that declare a base model. Such a model is listed all the same, once the
reader lifts that filter: keep the declaration.
"""
EPILOG = """\
examples
  mera prepare diabetes130 --output-dir data/diabetes130
  mera evaluate runs/mera --dataset data/diabetes130 --output-dir runs/mera/evaluation
  mera submit org/my-model --evaluation runs/mera/evaluation --dry-run
  mera submit org/my-model --evaluation runs/mera/evaluation
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("repo", metavar="REPO", help="the model on the Hub: org/name")
    parser.add_argument(
        "--evaluation", metavar="DIR", required=True, help="folder that `mera evaluate` or `mera compare` wrote"
    )
    parser.add_argument(
        "--ranker", metavar="NAME", help="whose figures, if several rankers were compared (default the only one)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the file; nothing leaves this machine")


def run(args: argparse.Namespace) -> int:
    """Check the figures and open the pull request, or show what it would hold; return the exit status 0."""
    from mera_hf.evaluation.results import read_metrics
    from mera_hf.hub.benchmark import NAME, check_benchmark, only_ranker
    from mera_hf.hub.connection import check_repo_id
    from mera_hf.hub.eval_results import eval_results_files, open_pull_request

    check_repo_id(args.repo)
    metrics = read_metrics(Path(args.evaluation) / "metrics.json")
    ranker = args.ranker or only_ranker(metrics)
    try:
        check_benchmark(metrics, ranker)
    except InputError as error:
        raise InputError(f"{args.evaluation}: {error}") from error
    if args.dry_run:
        for path, text in eval_results_files(metrics, args.repo, ranker=ranker).items():
            print(f"{path}, {len(text.encode()):,} bytes, for {args.repo}\n\n{text}")
        print(
            "nothing was sent; without --dry-run this opens a pull request, and adds the model's revision to the notes"
        )
        return 0
    pull_request = open_pull_request(args.repo, metrics, ranker)
    print(f"{NAME}: pull request {pull_request.url}")
    if pull_request.base_model:
        print(
            f"{args.repo} declares the base model {pull_request.base_model}: the Hub's default leaderboard leaves it out, and "
            "shows it when that filter is lifted"
        )
    return 0
