"""`mera evaluate`: measure a checkpoint beside the reference rankers."""

import argparse
import json
import textwrap
from pathlib import Path

from mera_hf.blocks import text_table
from mera_hf.cli.checkpoint import add_checkpoint, open_checkpoint
from mera_hf.errors import InputError
from mera_hf.shipped import find_checkpoint


HELP = "measure a checkpoint beside the reference rankers"
DESCRIPTION = """\
Measure a checkpoint on patients that it has not seen: recall@k, weighted F1 at the true size and at the size that the
model chose (EOV), repeated and new codes; beside reference rankers fitted on the same training patients, and with the
controls: other patients' histories, and their profiles. The same by how often a code is seen in training, by chapter,
history, age, sex, race and visit size; on coarser labels; how far off wrong codes are in the tree; and heart failure at the
next visit. Also whether the probabilities are right (calibration), what sets of a known coverage hold, and whether EOV knows
how ill a patient is. Says at the end what looks wrong, and which key of the recipe to turn. Use --split validation while you
choose, and the test patients once.
"""
EPILOG = """\
example
  mera evaluate runs/mera --dataset data/diabetes130 --output-dir runs/mera/evaluation
"""
NO_REPORT = "no report.html and plots: they need 20 codes or more, and pip install 'mera_hf[report]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_checkpoint(parser)
    parser.add_argument("--dataset", metavar="DIR", required=True, help="folder that `mera prepare` wrote")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="patients to rank (default test)"
    )
    parser.add_argument("--output-dir", metavar="DIR", help="write metrics.json, table.md, report.html and plots here")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier evaluation wrote there")
    parser.add_argument(
        "--save-rankings",
        action="store_true",
        help="also write rankings.parquet, every patient's identifier and ranking, for `mera compare`; it is patient data",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="patients at a time (default 64)")


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the table; return the exit status 0."""
    from mera_hf.evaluation.evaluate import evaluate_checkpoint
    from mera_hf.evaluation.figures import ranker_table
    from mera_hf.evaluation.sections import SECTIONS, calibration
    from mera_hf.evaluation.sections.findings import findings_text
    from mera_hf.report import write_evaluation

    if args.batch_size < 1:
        raise InputError(f"`--batch-size` is {args.batch_size}; it must be 1 or more.")
    output = Path(args.output_dir) if args.output_dir else None
    if args.save_rankings and not output:
        raise InputError("`--save-rankings` needs a folder to write to; add `--output-dir DIR`.")
    if output and output.is_file():
        raise InputError(f"`--output-dir` {output} is a file; choose a folder.")
    if output and (output / "metrics.json").exists() and not args.overwrite:
        raise InputError(f"`--output-dir` {output} holds an evaluation; choose another folder or add `--overwrite`.")
    model, tokenizer = open_checkpoint(args.checkpoint, args.revision)
    logs = [Path(find_checkpoint(args.checkpoint)) / name for name in ("training.json", "memorization.json")]
    training, memorization = (json.loads(log.read_text()) if log.is_file() else {} for log in logs)
    evaluation = evaluate_checkpoint(
        model,
        tokenizer,
        args.dataset,
        args.split,
        recipe=training.get("recipe"),
        seed=training.get("seed", 0),
        batch_size=args.batch_size,
        training=training,
        memorization=memorization or training.get("memorization"),
        keep_rankings=args.save_rankings,
    )
    dataset = evaluation.metrics["dataset"]
    print(f"\n{dataset['name']}, {dataset['split']}: {dataset['patients']:,} patients, {dataset['codes']:,} codes\n")
    print(text_table(ranker_table(evaluation.metrics)))
    told = [sentence for section in SECTIONS for sentence in section.sentences(evaluation.metrics)]
    for sentence in ["", *told]:
        print(textwrap.fill(sentence, 119))
    if "calibration" in evaluation.metrics:
        print("", *calibration.sentences(evaluation.metrics), sep="\n")
    print(f"\n{findings_text(evaluation.metrics, has_log=bool(training))}")
    if output:
        written = write_evaluation(evaluation, output)
        print(f"\nwritten to {output}: {', '.join(written)}")
        if "rankings.parquet" in written:
            print("rankings.parquet holds patients' identifiers: keep it where the data may be")
        if "report.html" not in written:
            print(NO_REPORT)
    else:
        print("\nnothing written; add --output-dir DIR for metrics.json and a report with plots")
    commonest = model.ranking_head.log_prevalence.topk(min(2, len(model.config.codes))).indices.tolist()
    example = " ".join(model.config.codes[code] for code in commonest)
    revision = f" --revision {args.revision}" if args.revision else ""
    print(f'next: mera predict {args.checkpoint}{revision} --visits "{example}"')
    return 0
