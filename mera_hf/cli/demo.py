"""`mera demo`: everything on open data, in minutes, on a CPU."""

import argparse
import time
from pathlib import Path

from ..errors import InputError


DESCRIPTION = """\
Run MERA end to end on the patients of Diabetes 130-US Hospitals (bundled, CC BY 4.0): prepare the visits, memorize
what the codes mean, train a small model from scratch to rank the codes of the next visit, evaluate it on test patients
beside reference rankers, and predict for one example. Takes minutes on two cores, needs no network and no GPU.
"""
RECIPES = Path(__file__).parent / "demo_recipe"
EXAMPLE = "428 250.00; 584 428"  # heart failure with diabetes, then acute kidney failure with heart failure
REFERENCES = ("prevalence", "copy_history", "ridge")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the verb `demo` to the parser of `mera`."""
    parser = subparsers.add_parser(
        "demo",
        help="everything on open data, in minutes, on a CPU",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output-dir", metavar="DIR", default="mera-demo", help="where it goes (default mera-demo)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of weights and code orders (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo, and print what it did, where it is and what to do next; return the exit status 0."""
    from ..data.prepare import prepare, read_report
    from ..evaluation import plots
    from ..evaluation.checkpoint import evaluate_checkpoint
    from ..evaluation.results import table_text
    from ..evaluation.training_run import train
    from ..training.memorization_config import MemorizationTrainerConfig
    from ..training.memorize import memorize
    from ..training.mera_config import MeraTrainerConfig
    from ..training.output_folder import OutputFolder
    from ..training.recipe import parse_recipe
    from .checkpoint import open_checkpoint
    from .predict import as_table, predict, read_visits
    from .recipe import open_dataset

    plots.require_package("matplotlib")
    started = time.perf_counter()
    folder = Path(args.output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not args.overwrite:
            raise InputError(f"`--output-dir` {folder} is not empty; choose another folder or add `--overwrite`.")
        if not (folder / "dataset" / "prepare.json").is_file():
            raise InputError(f"`--output-dir` {folder} holds no demo; it is not overwritten.")
    dataset_dir, memorized, trained = folder / "dataset", folder / "memorized", folder / "model"

    _title("1. Prepare: real patients of 130 US hospitals, 1999-2008")
    print(prepare("diabetes130", output_dir=dataset_dir, overwrite=args.overwrite).table(), flush=True)
    dataset, codes = open_dataset(str(dataset_dir))

    seed = ["--seed", str(args.seed)]
    _title(f"2. Memorize: what {len(codes)} ICD-9 codes mean")
    arguments = parse_recipe(RECIPES / "memorize.yaml", seed, MemorizationTrainerConfig)
    output = OutputFolder(memorized, overwrite=args.overwrite)
    for name, value in memorize(*arguments, dataset, codes, output).items():
        print(f"  {name.replace('_', ' '):<32}{value:6.1%}", flush=True)

    _title("3. Train: rank all codes for the next visit")
    overrides = [*seed, "--model-name-or-path", str(memorized)]
    arguments = parse_recipe(RECIPES / "train.yaml", overrides, MeraTrainerConfig)
    output = OutputFolder(trained, overwrite=args.overwrite)
    train(*arguments, dataset, codes, output, "demo/train", read_report(dataset_dir))

    _title("4. Evaluate: test patients, beside rankers that need no language model")
    model, tokenizer = open_checkpoint(str(trained))
    evaluation = evaluate_checkpoint(
        model, tokenizer, dataset_dir, references=REFERENCES, recipe="demo/train", seed=args.seed
    )
    evaluation.write(folder)
    print(table_text(evaluation.metrics), flush=True)

    _title("5. Predict: heart failure, then kidney failure; what comes next?")
    visits = [{"codes": codes} for codes in read_visits(EXAMPLE, "ICD9CM", model.config.codes)]
    patient = {"profile": {"sex": "F", "age": 72.0, "race": None}, "visits": visits}
    print(as_table(predict(model, tokenizer, patient, 10)))

    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    print(
        f"\ndone in {minutes} min {seconds} s, everything is in {folder}\n"
        f"  {folder / 'report.html'}  the result as a page with plots: open it in a browser\n"
        f"  {folder / 'metrics.json'}  the figures\n"
        f"  {trained}  the model, for AutoModel.from_pretrained\n"
        "next:\n"
        f'  mera predict {trained} --visits "{EXAMPLE}" --sex F --age 72\n'
        "  mera prepare --help      for MIMIC-III, MIMIC-IV or a table of your own"
    )
    return 0


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)
