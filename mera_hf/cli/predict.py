"""`mera predict`: rank the diagnoses of the next visit, of one patient or of a data set."""

import argparse
import json

from mera_hf.cli.checkpoint import add_checkpoint, open_checkpoint
from mera_hf.errors import InputError
from mera_hf.icd import NUMBERS, IcdTree, code_tree
from mera_hf.spelling_mera import CodeReader, split_visits


HELP = "rank the diagnoses of one patient or of a data set"
DESCRIPTION = """\
Rank the diagnoses of a patient's next visit. Give the codes of the earlier visits, oldest first: codes of a visit
separated by blanks, visits by semicolons, in any spelling (25000, 250.00). For research; not for clinical decisions.
With --explain also what moved the first codes: each visit, each code and the profile is left out in turn, and the
patient ranked again. That says what the model used, not what causes a disease.

Or rank those of every patient of a data set, millions if need be: a Parquet file with a row for each patient as
`mera prepare` writes it, a folder of such files, or a prepared folder. All visits of a row are history; a patient
without visits is ranked from the profile alone. The rankings go to DIR/part-*.parquet (patient_id, codes,
probabilities, set_size, unread_visits), and DIR/predict.json says what was done. A run that was stopped goes on with
--resume, and several processes share the work under `torchrun` (or on GPUs `accelerate launch`).

Of a history that is longer than those the model was trained on, the oldest visits are not read; the result says how many.

The predicted set is what stands above EOV. With --coverage 0.9 it is made large enough to hold, on average over patients,
at least 90 % of the codes that the visit will have; with --coverage-of visits, all of them for at least 90 % of the patients.
That holds for patients like those of the validation split, not for each kind of patient nor for another hospital.
"""
EPILOG = """\
examples
  mera predict mera-tiny-diabetes130 --visits "428.0 250.00; 584.9"
  mera predict runs/mera --visits "250.00 401.9; 428.0 584.9" --sex F --age 70
  mera predict runs/mera --visits "E11.65 I10; I50.9" --icd 10 --top-k 10 --json
  mera predict runs/mera --visits "250.00 401.9; 428.0 584.9" --explain
  mera predict runs/mera --visits "250.00 401.9; 428.0" --coverage 0.8 --top-k 60
  mera predict runs/mera --dataset patients.parquet --output-dir rankings
  torchrun --nproc-per-node 2 -m mera_hf.cli predict runs/mera --dataset data/mine --split test --output-dir rankings
"""
# The options that only one of the two forms takes
ONE = ("sex", "age", "race", "icd", "json", "explain")
MANY = ("output_dir", "split", "batch_tokens", "max_length", "resume", "overwrite")
SAYS_COVERAGE = {
    "codes": "On average over patients like those of the validation split, {:.0%} or more of a visit's codes are in the set.",
    "visits": "Of patients like those of the validation split, {:.0%} or more have all codes of the visit in their set.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_checkpoint(parser)
    patients = parser.add_mutually_exclusive_group(required=True)
    patients.add_argument("--visits", metavar="CODES", help='earlier visits of one patient: "250.00 401.9; 428.0"')
    patients.add_argument("--dataset", metavar="PATH", help="Parquet file, folder of Parquet files or prepared folder")
    parser.add_argument("--top-k", type=int, default=20, metavar="N", help="codes to show or write (default 20)")
    parser.add_argument(
        "--coverage", type=float, metavar="SHARE", help="sets of a known coverage instead of EOV's: 0.8, 0.9 or 0.95"
    )
    parser.add_argument(
        "--coverage-of",
        choices=tuple(SAYS_COVERAGE),
        help="share of a visit's codes, or of whole visits (default codes)",
    )
    one = parser.add_argument_group("with --visits")
    one.add_argument("--sex", choices=("F", "M"), help="sex of the patient, if known")
    one.add_argument("--age", type=float, metavar="YEARS", help="age at the first visit in years, if known")
    one.add_argument("--race", metavar="WORD", help="race as the training data writes it, if known")
    one.add_argument(
        "--icd", choices=tuple(NUMBERS), help="ICD version of the codes; default: the one that the model knows"
    )
    one.add_argument("--json", action="store_true", help="print JSON instead of a table")
    one.add_argument(
        "--explain",
        type=int,
        nargs="?",
        const=3,
        metavar="N",
        help="say which visits and codes moved the first N codes (default 3), by leaving each out in turn",
    )
    many = parser.add_argument_group("with --dataset")
    many.add_argument("--output-dir", metavar="DIR", help="where the rankings go")
    many.add_argument(
        "--split", choices=("train", "validation", "test"), help="patients of a prepared folder (default test)"
    )
    many.add_argument(
        "--batch-tokens",
        type=int,
        metavar="N",
        help="tokens at a time (default 4096); on a GPU more is faster, until its memory is full",
    )
    many.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="longest history in tokens (default: as in training); the oldest visits of longer ones are not read",
    )
    many.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    many.add_argument("--overwrite", action="store_true", help="replace the rankings in the output folder")


def run(args: argparse.Namespace) -> int:
    """Predict, and print the ranking or where the rankings are; return the exit status 0."""
    if args.top_k < 1:
        raise InputError(f"`--top-k` is {args.top_k}; it must be 1 or more.")
    if args.coverage_of and args.coverage is None:
        raise InputError("`--coverage-of` says of what; add `--coverage 0.9`, or leave it out.")
    _check_form(args)
    return _run_one(args) if args.dataset is None else _run_dataset(args)


def _check_form(args: argparse.Namespace) -> None:
    """Refuse an option of the other form; it would have no effect."""
    forms = {"--visits": ONE, "--dataset": MANY}
    form = "--visits" if args.dataset is None else "--dataset"
    for other, options in forms.items():
        for name in options if other != form else ():
            if getattr(args, name) not in (None, False):
                raise InputError(f"`--{name.replace('_', '-')}` belongs to `{other}`, not to `{form}`; leave it out.")
    if form == "--dataset" and not args.output_dir:
        raise InputError("`--output-dir` is missing: say where the rankings go.")


def _run_dataset(args: argparse.Namespace) -> int:
    from mera_hf.evaluation.rankings.predict import predict_dataset, processes

    state = processes()
    model, tokenizer = open_checkpoint(args.checkpoint, args.revision)
    options = {name: getattr(args, name) for name in MANY if getattr(args, name) is not None}
    name = args.checkpoint if args.revision is None else f"{args.checkpoint}@{args.revision}"
    options |= {"coverage": args.coverage, "coverage_of": args.coverage_of or "codes", "checkpoint": name}
    summary = predict_dataset(model, tokenizer, args.dataset, top_k=args.top_k, **options)
    if state.is_main_process:
        without = f", {summary['without_visits']:,} of them without visits" if summary["without_visits"] else ""
        print(f"{summary['patients']:,} patients ranked{without}, in {summary['seconds']:,} seconds")
        if summary["unread_visits"]:
            patients, visits = summary["patients_with_unread_visits"], summary["unread_visits"]
            print(
                f"longer histories than are read: {patients:,} patients, whose {visits:,} oldest visits were not read"
            )
        print(f"written to {args.output_dir}: predict.json and {summary['parts']:,} files part-*.parquet")
    return 0


def _run_one(args: argparse.Namespace) -> int:
    if args.age is not None and not 0 <= args.age <= 130:
        raise InputError(f"`--age` is {args.age:g}; give the age in years, between 0 and 130.")
    if args.explain is not None and args.explain < 1:
        raise InputError(f"`--explain` is {args.explain}; it must be 1 or more.")
    model, tokenizer = open_checkpoint(args.checkpoint, args.revision)
    from mera_hf.evaluation.conformal import require_coverage  # imports torch, which opening does faster

    visits = [{"codes": codes} for codes in read_visits(args.visits, args.icd, model.config.codes)]
    patient = {"profile": {"sex": args.sex, "age": args.age, "race": args.race}, "visits": visits}
    coverage = (args.coverage, args.coverage_of or "codes")
    require_coverage(model.config, *coverage)
    result = predict(model, tokenizer, patient, args.top_k, *coverage)
    explanation = None if args.explain is None else explain(model, tokenizer, patient, args.explain)
    if args.json:
        print(
            json.dumps(result if explanation is None else {**result, "explanation": explanation.to_dict()}, indent=2)
        )
    else:
        print(as_table(result) if explanation is None else f"{as_table(result)}\n\n{explanation.to_text()}")
    return 0


def explain(model, tokenizer, patient: dict, top_k: int):
    """The [`Explanation`] of the first codes; shows a progress bar if it takes longer than two seconds."""
    from tqdm import tqdm

    def bar(batches):
        return tqdm(batches, desc="explaining", unit="batch", delay=2, leave=False)

    return model.explain(patient, tokenizer, top_k=top_k, progress=bar)


class TypedCodes(CodeReader):
    """Reads what is typed on the command line: as [`CodeReader`], but only codes in the ICD tables."""

    which = "add `--icd 9` or `--icd 10`"

    def read(self, raw: str, version: str | None) -> str:
        if ":" in raw:
            tree = code_tree(raw)
        elif version is None:
            return super().read(raw, version)  # raises the error
        else:
            tree = IcdTree.load(version)
        code = tree.normalize(raw)
        try:
            return super().read(code, version)
        except ValueError as error:
            raise ValueError(f"{tree.description(code)}: {error}") from error


def read_visits(text: str, icd: str | None, candidates: list[str]) -> list[list[str]]:
    """Codes of each visit from `"250.00 401.9; 428.0"`, in any spelling; a visit may hold `ICD10CM:I50.9` as well.

    Args:
        text (`str`): the visits, oldest first.
        icd (`str`, *optional*): version of codes that do not name theirs; defaults to the one that the model knows.
        candidates (`list[str]`): codes of the model.

    Raises:
        [`InputError`]: for a version that the model does not know, an empty visit, an unknown code, or one that the model
            has no code for.
    """
    reader = TypedCodes(candidates)
    try:
        version = reader.version(icd)
    except ValueError as error:
        raise InputError(f"`--icd {icd}`: this model knows {reader.versions[0]} codes only.") from error
    try:
        return reader.read_visits(split_visits(text), version)
    except ValueError as error:
        if type(error.__cause__) is InputError:  # an unknown version: the cause says it in full
            raise error.__cause__ from None
        raise InputError(f"`--visits`, {error}") from error


def predict(
    model, tokenizer, patient: dict, top_k: int, coverage: float | None = None, coverage_of: str = "codes"
) -> dict:
    """The ranking of one patient, see [`~mera_hf.DiagnosisPredictionPipeline`]; probabilities have four digits."""
    from mera_hf.pipeline_mera import DiagnosisPredictionPipeline

    pipeline = DiagnosisPredictionPipeline(model=model, tokenizer=tokenizer, device=model.device)
    result = pipeline(patient, top_k=top_k, coverage=coverage, coverage_of=coverage_of)
    for row in result["ranking"]:
        row["probability"] = round(row["probability"], 4)
    return result


def as_table(result: dict) -> str:
    """The ranking for the terminal, with a line where EOV stands."""
    from mera_hf.timeline_mera import unread_text  # imports torch

    width = max(len(row["code"]) for row in result["ranking"])
    lines = ["history: " + "; ".join(" ".join(visit) for visit in result["visits"])]
    if result["unread_visits"]:
        lines.append(unread_text(result["unread_visits"]))
    lines.append("")
    lines.append(f"{'rank':>4}  {'code':<{width}}  {'P(next visit)':>13}  description")
    above = "code above is" if result["set_size"] == 1 else f"{result['set_size']} codes above are"
    known = f"coverage {result['coverage']:.0%} of {result['coverage_of']}" if "coverage" in result else None
    cut = f"  --  {known or 'EOV'}: the {above} the predicted set"
    if result["set_size"] == 0:
        lines.append(f"  --  {known or 'EOV'}: no code is likely enough to be in the predicted set")
    for row in result["ranking"]:
        again = "  (in the history)" if row["in_history"] else ""
        lines.append(
            f"{row['rank']:>4}  {row['code']:<{width}}  {row['probability']:>12.1%}   {row['description']}{again}"
        )
        if row["rank"] == result["set_size"]:
            lines.append(cut)
    if result["set_size"] > len(result["ranking"]):
        lines.append(f"  ... {known or 'EOV'} stands behind {result['set_size']} codes; raise --top-k to see them")
    lines += ["", "P: the probability that the code is recorded at the next visit."]
    if known:
        lines.append(SAYS_COVERAGE[result["coverage_of"]].format(result["coverage"]))
    if result["ordered_for_weighted_f1"]:
        lines.append(
            f"The first {result['ordered_for_weighted_f1']} stand in the order of their worth for weighted F1: of two codes "
            "as probable, the rarer comes first."
        )
    lines.append("For research, not clinical decisions.")
    return "\n".join(lines)
