"""`mera demo`: everything on open data, in minutes, on a CPU."""

import argparse
import time
from pathlib import Path

from ..errors import InputError
from .checkpoint import SHIPPED, open_checkpoint


DESCRIPTION = """\
Run MERA end to end on the patients of Diabetes 130-US Hospitals (bundled, CC BY 4.0): prepare the visits, memorize
what the codes mean, train a small model from scratch to rank the codes of the next visit, evaluate it on test patients
beside reference rankers, and predict for one example. Takes minutes on two cores, needs no network and no GPU.

With --quick nothing is trained: the model that comes with mera (mera-tiny-diabetes130, trained by the recipe tiny-cpu/train on
the same data) predicts for the example, says why, and is measured on the test patients. Takes less than a minute.
"""
RECIPES = Path(__file__).parent / "demo_recipe"
EXAMPLE = "428 250.00; 584 428"  # heart failure with diabetes, then acute kidney failure with heart failure
REFERENCES = ("prevalence", "copy_history", "ridge")
QUICK_REFERENCES = ("prevalence", "copy_history")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the verb `demo` to the parser of `mera`."""
    parser = subparsers.add_parser(
        "demo",
        help="everything on open data, in minutes, on a CPU",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="where it goes (default mera-demo, and mera-demo-quick with --quick)"
    )
    parser.add_argument("--quick", action="store_true", help="train nothing; show the model that comes with mera")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of weights and code orders (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo, and print what it did, where it is and what to do next; return the exit status 0."""
    if args.quick and args.seed is not None:
        raise InputError("`--seed` is of a training, and `--quick` trains nothing; leave one of them out.")
    return _run_quick(args) if args.quick else _run_whole(args)


def _run_whole(args: argparse.Namespace) -> int:
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
    from .predict import as_table, predict
    from .recipe import open_dataset

    plots.require_package("matplotlib")
    started = time.perf_counter()
    folder, seed = _output_folder(args), args.seed or 0
    dataset_dir, memorized, trained = folder / "dataset", folder / "memorized", folder / "model"

    _title("1. Prepare: real patients of 130 US hospitals, 1999-2008")
    print(prepare("diabetes130", output_dir=dataset_dir, overwrite=args.overwrite).table(), flush=True)
    dataset, codes = open_dataset(str(dataset_dir))

    of_seed = ["--seed", str(seed)]
    _title(f"2. Memorize: what {len(codes)} ICD-9 codes mean")
    arguments = parse_recipe(RECIPES / "memorize.yaml", of_seed, MemorizationTrainerConfig)
    output = OutputFolder(memorized, overwrite=args.overwrite)
    for name, value in memorize(*arguments, dataset, codes, output).items():
        print(f"  {name.replace('_', ' '):<32}{value:6.1%}", flush=True)

    _title("3. Train: rank all codes for the next visit")
    overrides = [*of_seed, "--model-name-or-path", str(memorized)]
    arguments = parse_recipe(RECIPES / "train.yaml", overrides, MeraTrainerConfig)
    output = OutputFolder(trained, overwrite=args.overwrite)
    train(*arguments, dataset, codes, output, "demo/train", read_report(dataset_dir))

    _title("4. Evaluate: test patients, beside rankers that need no language model")
    model, tokenizer = open_checkpoint(str(trained))
    evaluation = evaluate_checkpoint(
        model, tokenizer, dataset_dir, references=REFERENCES, recipe="demo/train", seed=seed
    )
    evaluation.write(folder)
    print(table_text(evaluation.metrics), flush=True)

    _title("5. Predict: heart failure, then kidney failure; what comes next?")
    print(as_table(predict(model, tokenizer, _example(model), 10)))

    print(
        f"\ndone in {_since(started)}, everything is in {folder}\n"
        f"  {folder / 'report.html'}  the result as a page with plots: open it in a browser\n"
        f"  {folder / 'metrics.json'}  the figures\n"
        f"  {trained}  the model, for AutoModel.from_pretrained\n"
        "next:\n"
        f'  mera predict {trained} --visits "{EXAMPLE}" --sex F --age 72\n'
        "  mera prepare --help      for MIMIC-III, MIMIC-IV or a table of your own"
    )
    return 0


def _run_quick(args: argparse.Namespace) -> int:
    from ..data.prepare import prepare
    from ..evaluation.checkpoint import evaluate_checkpoint
    from ..evaluation.results import table_text
    from .evaluate import NO_REPORT
    from .predict import as_table, explain, predict

    started = time.perf_counter()
    folder = _output_folder(args)

    _title("1. Predict: heart failure, then kidney failure; what comes next, and why?")
    model, tokenizer = open_checkpoint(SHIPPED)
    patient = _example(model)
    print(as_table(predict(model, tokenizer, patient, 10)))
    print(f"\n{explain(model, tokenizer, patient, 1).to_text()}", flush=True)

    _title("2. Prepare: real patients of 130 US hospitals, 1999-2008")
    print(prepare("diabetes130", output_dir=folder / "dataset", overwrite=args.overwrite).table(), flush=True)

    _title("3. Evaluate: test patients, which the model has not seen")
    evaluation = evaluate_checkpoint(
        model, tokenizer, folder / "dataset", references=QUICK_REFERENCES, recipe="tiny-cpu/train"
    )
    written = evaluation.write(folder)
    print(table_text(evaluation.metrics))

    page = f"{folder / 'report.html'}  the result as a page with plots: open it in a browser"
    print(
        f"\ndone in {_since(started)}, everything is in {folder}\n"
        f"  {page if 'report.html' in written else NO_REPORT}\n"
        f"  {folder / 'metrics.json'}  the figures\n"
        "next:\n"
        f'  mera predict {SHIPPED} --visits "{EXAMPLE}" --sex F --age 72\n'
        "  mera demo                to train such a model"
    )
    return 0


def _output_folder(args: argparse.Namespace) -> Path:
    folder = Path(args.output_dir or ("mera-demo-quick" if args.quick else "mera-demo"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not args.overwrite:
            raise InputError(f"`--output-dir` {folder} is not empty; choose another folder or add `--overwrite`.")
        if not (folder / "dataset" / "prepare.json").is_file():
            raise InputError(f"`--output-dir` {folder} holds no demo; it is not overwritten.")
    return folder


def _example(model) -> dict:
    from .predict import read_visits

    visits = [{"codes": codes} for codes in read_visits(EXAMPLE, "ICD9CM", model.config.codes)]
    return {"profile": {"sex": "F", "age": 72.0, "race": None}, "visits": visits}


def _since(started: float) -> str:
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    return f"{minutes} min {seconds} s"


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)
