"""`mera demo`: everything on open data, in minutes, on a CPU."""

import argparse
import time
from pathlib import Path

from mera_hf.blocks import text_table
from mera_hf.cli.checkpoint import SHIPPED, open_checkpoint
from mera_hf.errors import InputError
from mera_hf.spelling_mera import ICD9CM, CodeReader, split_visits


HELP = "everything on open data, in minutes, on a CPU"
DESCRIPTION = """\
Run MERA end to end on the patients of Diabetes 130-US Hospitals (bundled, CC BY 4.0): prepare the visits, memorize
what the codes mean, train a small model from scratch to rank the codes of the next visit, evaluate it on test patients
beside reference rankers, and predict for one example. Takes minutes on two cores, needs no network and no GPU.

With --quick nothing is trained: the model that comes with mera (mera-tiny-diabetes130, trained by the recipe tiny-cpu/train on
the same data) predicts for the example, says why, and is measured on the test patients. Takes less than a minute.
"""
EPILOG = None
EXAMPLE = "428 250.00; 584 428"  # heart failure with diabetes, then acute kidney failure with heart failure
REFERENCES = ("prevalence", "copy_history", "ridge")
QUICK_REFERENCES = ("prevalence", "copy_history")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument(
        "--output-dir", metavar="DIR", help="where it goes (default mera-demo, and mera-demo-quick with --quick)"
    )
    parser.add_argument("--quick", action="store_true", help="train nothing; show the model that comes with mera")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of weights and code orders (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo")


def run(args: argparse.Namespace) -> int:
    """Run the demo, and print what it did, where it is and what to do next; return the exit status 0."""
    if args.quick and args.seed is not None:
        raise InputError("`--seed` is of a training, and `--quick` trains nothing; leave one of them out.")
    return _run_quick(args) if args.quick else _run_whole(args)


def _run_whole(args: argparse.Namespace) -> int:
    from mera_hf.cli.predict import as_table, predict
    from mera_hf.data.prepare import prepare
    from mera_hf.evaluation import plots
    from mera_hf.evaluation.evaluate import evaluate_checkpoint
    from mera_hf.evaluation.figures import ranker_table
    from mera_hf.report import write_evaluation
    from mera_hf.training.memorize import memorize
    from mera_hf.training.train import train

    plots.require_package("matplotlib")
    started = time.perf_counter()
    folder, seed = _output_folder(args), args.seed or 0
    dataset_dir, memorized, trained = folder / "dataset", folder / "memorized", folder / "model"

    _title("1. Prepare: real patients of 130 US hospitals, 1999-2008")
    prepared = prepare("diabetes130", output_dir=dataset_dir, overwrite=args.overwrite)
    print(prepared.table(), flush=True)

    _title(f"2. Memorize: what {prepared.cohort['codes']} ICD-9 codes mean")
    knows = memorize("demo/memorize", dataset_dir, memorized, overwrite=args.overwrite, seed=seed)
    for name, value in knows.exact_match.items() if knows else ():
        print(f"  {name.replace('_', ' '):<32}{value:6.1%}", flush=True)

    _title("3. Train: rank all codes for the next visit")
    train("demo/train", dataset_dir, trained, overwrite=args.overwrite, seed=seed, model_name_or_path=memorized)

    _title("4. Evaluate: test patients, beside rankers that need no language model")
    model, tokenizer = open_checkpoint(str(trained))
    evaluation = evaluate_checkpoint(
        model, tokenizer, dataset_dir, references=REFERENCES, recipe="demo/train", seed=seed
    )
    write_evaluation(evaluation, folder)
    print(text_table(ranker_table(evaluation.metrics)), flush=True)

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
    from mera_hf.cli.evaluate import NO_REPORT
    from mera_hf.cli.predict import as_table, explain, predict
    from mera_hf.data.prepare import prepare
    from mera_hf.evaluation.evaluate import evaluate_checkpoint
    from mera_hf.evaluation.figures import ranker_table
    from mera_hf.report import write_evaluation

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
    written = write_evaluation(evaluation, folder)
    print(text_table(ranker_table(evaluation.metrics)))

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
    visits = CodeReader(model.config.codes).read_visits(split_visits(EXAMPLE), ICD9CM.name)
    return {
        "profile": {"sex": "F", "age": 72.0, "race": None},
        "visits": [{"codes": codes} for codes in visits],
    }


def _since(started: float) -> str:
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    return f"{minutes} min {seconds} s"


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)
