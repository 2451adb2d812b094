"""`mera prepare`: raw tables to a dataset folder."""

from __future__ import annotations

import argparse
import sys

from mera_hf.data.sources import BUNDLED, SOURCES
from mera_hf.errors import InputError
from mera_hf.icd import NUMBERS


def _sources() -> str:
    """What each source is, those that come with the package first."""
    lines = []
    for name in (*BUNDLED, *(name for name in SOURCES if name not in BUNDLED)):
        summary = SOURCES[name].summary + "; comes with the package, no --data-dir needed" * (name in BUNDLED)
        lines.append(f"  {name:<13}" + summary.replace("\n", "\n" + 15 * " ") + "\n")
    return "".join(lines)


HELP = "turn raw tables into a dataset folder"
DESCRIPTION = f"""\
Turn the raw tables of a source into a dataset folder: patients, their visits in order of time, and the ICD codes of
each visit, split into train, validation and test by patient. Nothing leaves this machine.

sources
{_sources()}"""

EPILOG = """\
examples
  mera prepare diabetes130 --output-dir data/diabetes130
  mera prepare mimic4 --data-dir physionet/mimiciv/2.2 --output-dir data/mimic4
  mera prepare mimic3 --data-dir physionet/mimiciii/1.4 --output-dir data/mimic3 --cohort field --split field
  mera prepare visits_csv --data-dir my_visits.csv --output-dir data/mine
  mera prepare worlds --world sizes --patients 2000 --output-dir data/sizes
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mera prepare` except the source itself."""
    strict = [name for name, source in SOURCES.items() if source.unknown == "error"]
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
        choices=(*NUMBERS, "keep"),
        help=f"map all codes to {' or '.join(f'ICD-{number}' for number in NUMBERS)}, or keep them as they are (default; with "
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
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of the split, and of worlds (default 0; with --split field 6669)"
    )
    parser.add_argument(
        "--unknown",
        choices=("error", "drop"),
        help=f"a code that is in no ICD table: stop (default for {', '.join(strict)}), or leave it out and report it "
        "(default else)",
    )
    parser.add_argument("--world", metavar="NAME", help="worlds: what is planted, see above")
    drawn = SOURCES["worlds"].drawn
    parser.add_argument(
        "--patients", type=int, metavar="N", help=f"worlds: how many patients to draw (default {drawn})"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder that an earlier `mera prepare` wrote"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("source", metavar="SOURCE", choices=SOURCES, help=", ".join(SOURCES))
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare, and print the report; return the exit status 0.

    Raises:
        InputError: see [`mera_hf.data.prepare.prepare`].
    """
    from mera_hf.data.prepare import prepare

    chosen = ("cohort", "split", "icd", "min_visits", "keep_single_visit", "sample", "seed", "unknown")
    options = {name: getattr(args, name) for name in (*chosen, "world", "patients", "overwrite")}
    report = prepare(args.source, args.data_dir, args.output_dir, **options)
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
    add_options(parser)
    args = parser.parse_args()
    args.source = source
    try:
        return run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
