"""`mera experiment`: what each part of the method is worth on a dataset."""

import argparse
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.experiments import NAMES


HELP = "what a part of the method is worth on a dataset"
DESCRIPTION = """\
Find out what a part of the method is worth on a data set: train the recipe with and without it, with three seeds, and compare
the trainings on the test patients, patient by patient.

  memorization  is memorizing what the codes mean worth anything, and where the codes' rows start? Exact match by question;
                and what a decoder and an encoder-decoder say of codes that were held out of the questions
  hierarchy     levels of the contrastive loss: the whole space alone, chapter alone, finest alone, the space with either, all;
                and all with the codes shuffled in the tree
  eov           what the end-of-visit token knows of sizes and severity, and what its loss brings
  ablation      without each part of the losses and of the model; full training or LoRA; naming codes one by one
  ontology      does the ICD tree match how codes occur together? Its groups, CCS or CCSR in the contrastive loss

Every training is kept in OUTPUT/runs and used by all experiments that need it; what was stopped goes on with the same command.
The figures, the tables and the plots go to OUTPUT/NAME, in place of those of an earlier call.
"""
EPILOG = """\
Any field of the recipe can be given as an option and overrides it, in all trainings:
  mera experiment hierarchy --config recipes/tiny-cpu/train.yaml --dataset data/mine --output-dir runs/experiments
  mera experiment memorization --config recipes/tiny-cpu/train.yaml --memorize-config recipes/tiny-cpu/memorize.yaml \\
                  --dataset data/mine --output-dir runs/experiments --jobs 4 --num-train-epochs 4
"""
OWN = ("--seed", "--output-dir", "--resume", "--overwrite")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.allow_abbrev = False  # `--seed` belongs to the recipe
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--config", metavar="RECIPE", required=True, help="YAML recipe of `mera train`")
    parser.add_argument(
        "--memorize-config", metavar="RECIPE", help="YAML recipe of `mera memorize`, where it is needed"
    )
    parser.add_argument("--dataset", metavar="DIR", required=True, help="folder that `mera prepare` wrote")
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="where trainings and figures go")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="training seeds (default 0 1 2)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (default 1)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of each training (default: the cores, shared among jobs)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the experiment, and print its tables; return the exit status 0."""
    for option, value in (("--jobs", args.jobs), ("--threads", args.threads)):
        if value is not None and value < 1:
            raise InputError(f"`{option}` is {value}; it must be 1 or more.")
    for option in args.overrides:
        if option.split("=")[0].replace("_", "-") in OWN:
            raise InputError(f"`{option}` is not for one training of many; seeds are named by `--seeds`.")
    folder = Path(args.output_dir)
    if folder.is_file():
        raise InputError(f"`--output-dir` {folder} is a file; choose a folder.")

    import torch

    from mera_hf.evaluation import plots
    from mera_hf.experiments.experiment import run_experiment
    from mera_hf.experiments.runs import ExperimentSetting
    from mera_hf.experiments.tables import experiment_text
    from mera_hf.experiments.writing import check_folder, write_experiment

    check_folder(folder / args.name)
    threads = args.threads or max(1, torch.get_num_threads() // args.jobs)
    setting = ExperimentSetting(
        args.config, args.memorize_config, args.dataset, folder, tuple(args.overrides), threads
    )
    result = run_experiment(args.name, setting, args.seeds, args.jobs)
    print(f"\n{experiment_text(result)}")
    written = write_experiment(result, folder / args.name)
    print(f"\nwritten to {folder / args.name}: {', '.join(written)}")
    if not plots.installed():
        print("no plots: pip install 'mera_hf[report]'")
    return 0
