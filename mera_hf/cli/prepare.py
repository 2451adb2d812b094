"""`mera prepare`: raw tables to a dataset folder."""

from __future__ import annotations

import argparse
import sys

from mera_hf.data.sources import SOURCES
from mera_hf.errors import InputError


DESCRIPTION = """\
Turn the raw tables of a source into a dataset folder: patients, their visits in order of time, and the ICD codes of
each visit, split into train, validation and test by patient. Nothing leaves this machine.

sources
  diabetes130  Diabetes 130-US Hospitals; comes with the package, no --data-dir needed
  desynpuf     CMS DE-SynPUF, synthetic, a negative control; comes with the package, no --data-dir needed
  mimic3       MIMIC-III or its demo: the folder with ADMISSIONS, DIAGNOSES_ICD and PATIENTS (.csv or .csv.gz)
  mimic4       MIMIC-IV or its demo: the folder that holds hosp/, or hosp/ itself
               either: DRGCODES, if it is there, gives visits a DRG severity, which `mera evaluate` looks at
  visits_csv   your own table, one row for each code: patient, visit, time, code, version (9 or 10);
               if known also sex (F or M), age (years), race; .csv, .tsv, .csv.gz, .tsv.gz or .parquet
"""

EXAMPLES = """\
examples
  mera prepare diabetes130 --output-dir data/diabetes130
  mera prepare mimic4 --data-dir physionet/mimiciv/2.2 --output-dir data/mimic4
  mera prepare mimic3 --data-dir physionet/mimiciii/1.4 --output-dir data/mimic3 --cohort field --split field
  mera prepare visits_csv --data-dir my_visits.csv --output-dir data/mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mera prepare` but the source itself."""
    parser.add_argument("--data-dir", metavar="DIR", help="folder with the raw tables (visits_csv: the table itself)")
    parser.add_argument("--output-dir", metavar="DIR", required=True, help="folder to write")
    parser.add_argument(
        "--cohort",
        choices=("default", "field"),
        default="default",
        help="default: visits without codes are removed. field: as in CGL and Chet, a patient is dropped whole if an "
        "admission has no code; MIMIC-IV from 2013 on, in ICD-9",
    )
    parser.add_argument(
        "--split",
        choices=("random", "field"),
        default="random",
        help="random: 70/10/20 %% of the patients (default). field: as in CGL and Chet, for mimic3 and mimic4; every "
        "code is seen in train",
    )
    parser.add_argument(
        "--icd",
        choices=("9", "10", "keep"),
        help="map all codes to ICD-9 or ICD-10, or keep them as they are (default; with "
        "--cohort field the default is 9)",
    )
    parser.add_argument(
        "--min-visits", type=int, default=2, metavar="N", help="leave out patients with fewer visits (default 2)"
    )
    parser.add_argument(
        "--keep-single-visit",
        action="store_true",
        help="keep patients with fewer visits for training only: they teach which codes occur together",
    )
    parser.add_argument("--sample", type=int, metavar="N", help="use N patients of the cohort, drawn at random")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the split (default 0; with --split field 6669)")
    parser.add_argument(
        "--unknown",
        choices=("error", "drop"),
        help="a code that is in no ICD table: stop (default for visits_csv), or leave it out and report it "
        "(default else)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that an earlier `mera prepare` wrote"
    )


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the verb `prepare` to the parser of `mera`."""
    parser = subparsers.add_parser(
        "prepare",
        help="turn raw tables into a dataset folder",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", choices=SOURCES, help=", ".join(SOURCES))
    add_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prepare, and print the report; return the exit status 0.

    Raises:
        InputError: see [`mera_hf.data.prepare.prepare`].
    """
    from mera_hf.data.prepare import prepare

    report = prepare(
        args.source,
        args.data_dir,
        args.output_dir,
        cohort=args.cohort,
        split=args.split,
        icd=args.icd,
        min_visits=args.min_visits,
        keep_single_visit=args.keep_single_visit,
        sample=args.sample,
        seed=args.seed,
        unknown=args.unknown,
        overwrite=args.overwrite,
    )
    print(report.table())
    print(f"\nwritten to {args.output_dir} (its README.md says what is in it)")
    if report.credentialed:
        print(
            "note: this folder, and every model made from it, falls under the terms of the raw tables; do not share it"
        )
    print(f"next: mera memorize --config RECIPE --dataset {args.output_dir} --output-dir DIR")
    return 0


def run_script(source: str, description: str) -> int:
    """The whole of a script of `datasets_scripts/`: `mera prepare` for one source."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    args.source = source
    try:
        return run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
