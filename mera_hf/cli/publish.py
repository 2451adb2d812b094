"""`mera publish`: a checkpoint or a prepared dataset as a repository on the Hub."""

import argparse
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.shipped import find_checkpoint


HELP = "share a checkpoint or a data set on the Hugging Face Hub"
DESCRIPTION = """\
Put a checkpoint on the Hugging Face Hub: weights, tokenizer, the code that loads them without this package, card, metrics and
evaluation results. Or a folder that `mera prepare` wrote, if everyone may have its rows. The repository is private unless you
say otherwise. Start with --dry-run, which needs no network: it lists every file with its size, and what stays here and why.

A checkpoint says whose patients are in its weights. If they are credentialed (MIMIC) or not known, it is published only where
you name the agreement that lets you share it, and never for everyone. Credentialed rows are not published at all. A checkpoint
that only memorized what codes mean holds no patient data.
"""
EPILOG = """\
examples
  mera publish runs/mera --repo org/mera-tiny --dry-run
  mera publish runs/mera --repo org/mera-tiny --evaluation runs/mera/evaluation --public
  mera publish runs/mimic --repo org/mera-mimic --gated --agreement "PhysioNet Credentialed Health Data License 1.5.0"
  mera publish runs/mera --repo org/mera-tiny --space
  mera publish runs/mera --repo org/mera-adapter --adapter --base org/base
  mera publish data/diabetes130 --repo org/diabetes130-visits --public
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("folder", metavar="FOLDER", help="checkpoint, adapter, or folder that `mera prepare` wrote")
    parser.add_argument(
        "--repo", metavar="ORG/NAME", required=True, help="repository to write to, made if it is not there"
    )
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--public", action="store_true", help="everyone may have the files (default: private)")
    visibility.add_argument(
        "--gated",
        action="store_true",
        help="everyone sees the page, and you let in, one by one, who may have the files",
    )
    parser.add_argument(
        "--agreement", metavar="TEXT", help="the agreement on credentialed data that lets you share the weights"
    )
    parser.add_argument(
        "--adapter", action="store_true", help="publish the adapter of a training, not the merged model"
    )
    parser.add_argument("--base", metavar="ORG/NAME", help="where the base of the adapter is on the Hub")
    parser.add_argument(
        "--evaluation", metavar="DIR", help="what `mera evaluate` wrote (default: FOLDER/evaluation, if it is there)"
    )
    parser.add_argument(
        "--space", action="store_true", help="also publish a Space of the same name, to try the model in"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch to write to (default main)")
    parser.add_argument("--message", metavar="TEXT", default="Published by mera", help="message of the commit")
    parser.add_argument("--dry-run", action="store_true", help="list what would be published, without any network")


def run(args: argparse.Namespace) -> int:
    """Plan, print the plan, and publish it unless it is a dry run; return the exit status 0."""
    from mera_hf.data.prepared import REPORT_FILE
    from mera_hf.hub.publishing import plan_dataset, plan_model, plan_space, upload

    folder = Path(find_checkpoint(args.folder))
    visibility = "gated" if args.gated else "public" if args.public else "private"
    if not folder.is_dir():
        raise InputError(f"`FOLDER` {str(folder)!r} is not a folder.")
    if (folder / REPORT_FILE).is_file():
        for name in ("agreement", "adapter", "base", "evaluation", "space"):
            if getattr(args, name):
                raise InputError(f"`--{name}` is for checkpoints, and {str(folder)!r} is a prepared dataset.")
        plans = [plan_dataset(folder, args.repo, visibility)]
    else:
        plans = [plan_model(folder, args.repo, visibility, args.agreement, args.adapter, args.base, args.evaluation)]
    if args.space:
        from mera_hf.app.space import space_files

        _check_space(args, plans[0])
        plans.append(plan_space(space_files(args.repo), args.repo, visibility))
    for plan in plans:
        print(_table(plan))
    if args.dry_run:
        print("nothing was published: --dry-run")
        return 0
    for plan in plans:
        url, visible = upload(plan, args.message, args.revision)
        print(f"published ({visible}): {url}")
    return 0


def _check_space(args: argparse.Namespace, model) -> None:
    """Refuse a Space that could not show the model."""
    if args.revision is not None:
        raise InputError("`--space` shows the model of the branch main; leave out `--revision`.")
    if model.base is not None:
        raise InputError(
            "`--space` needs a whole model, and this is an adapter; publish the merged model, without `--adapter`."
        )
    if "memorization.json" in model.files and "training.json" not in model.files:
        raise InputError(
            f"`--space`: {args.folder!r} was memorized but not trained to rank, so there is no ranking to show; run "
            "`mera train` on it first."
        )


def _table(plan) -> str:
    sizes = plan.sizes()
    lines = [f"{plan.kind} {plan.repo_id}, {plan.visibility}: {len(sizes)} files, {sum(sizes.values()):,} bytes"]
    lines += [f"  {size:>14,}  {name}" for name, size in sizes.items()]
    if plan.left_out:
        width = max(map(len, plan.left_out))
        lines += ["stays here", *(f"  {name:<{width}}  {reason}" for name, reason in sorted(plan.left_out.items()))]
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes), ""])
