"""The dataset card of a prepared folder: YAML that `load_dataset` reads, and the report in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import markdown_table, plain_table
from mera_hf.data.prepared import PrepareReport
from mera_hf.icd import NUMBERS, VERSIONS


if TYPE_CHECKING:
    from mera_hf.data.sources.records import Origin

# `VISITS_FEATURES` as the Hub writes them, and the field that `DRG_VISITS_FEATURES` adds to the visits.
FEATURES: list[dict[str, Any]] = [
    {"name": "patient_id", "dtype": "string"},
    {
        "name": "profile",
        "struct": [
            {"name": "sex", "dtype": "string"},
            {"name": "age", "dtype": "float32"},
            {"name": "race", "dtype": "string"},
        ],
    },
    {
        "name": "visits",
        "list": [
            {"name": "codes", "list": "string"},
            {"name": "time", "dtype": "string"},
            {"name": "text", "dtype": "string"},
        ],
    },
]
DRG_SEVERITY = {"name": "drg_severity", "dtype": "int8"}

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(report: PrepareReport, origin: Origin) -> str:
    """The text of `README.md`.

    Args:
        report (`PrepareReport`): what `prepare` did.
        origin (`Origin`): where the data come from.
    """
    import yaml

    patients, graded = report.cohort["patients"], report.cohort.get("drg_severities")
    *others, visits = FEATURES
    if graded is not None:
        visits = visits | {"list": [*visits["list"], DRG_SEVERITY]}
    header = {
        "pretty_name": f"{origin.title}, visits for diagnosis prediction",
        "license": origin.license,
        **({"license_name": origin.license_name} if origin.license == "other" else {}),
        "task_categories": ["text-classification"],
        "task_ids": ["multi-label-classification"],
        "size_categories": [next((name for limit, name in SIZES if patients < limit), "1M<n<10M")],
        "tags": ["medical", "icd", "diagnosis-prediction", "electronic-health-records", "mera"],
        "configs": [
            {
                "config_name": "default",
                # `load_dataset` of datasets 5.2 cannot open a split without rows.
                "data_files": [
                    {"split": name, "path": f"data/{name}.parquet"}
                    for name, counts in report.splits.items()
                    if counts["patients"]
                ],
            }
        ],
        "dataset_info": {"features": [*others, visits]},
    }
    cohort, arguments = report.cohort, report.arguments
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {origin.title}, visits for diagnosis prediction",
        f"One row a patient, prepared by `mera prepare {report.source}`: `patient_id`, `profile` (sex, age in years "
        "at the first visit, race; empty where unknown) and `visits` in order of time, each with its ICD codes "
        "(`ICD9CM:250.23`, `ICD10CM:E11.65`), `time` and a short `text`, empty where the source has none. "
        "`codes.json` lists every code of the cohort with its patients and visits in train; `prepare.json` is this "
        "page for programs.",
        "## Terms and privacy",
        origin.terms,
        "## Counts",
        f"{report.read['patients']:,} patients with {report.read['visits']:,} visits were read; "
        f"{cohort['patients']:,} patients with {cohort['visits']:,} visits are here, with {cohort['codes']:,} "
        f"distinct codes, {cohort['codes_per_visit']:.2f} codes per visit and {cohort['visits_per_patient']:.2f} "
        "visits per patient.",
        _rows(
            ("split", "patients", "visits"),
            [(name, f"{counts['patients']:,}", f"{counts['visits']:,}") for name, counts in report.splits.items()],
        ),
    ]
    if graded is not None:
        parts += [
            f"Of the visits, {graded:,} have a `drg_severity`: the severity of illness of the stay's APR-DRG, 1 minor, 2 "
            "moderate, 3 major, 4 extreme (the highest of several), empty where it is not known. It is coded after "
            "discharge: no input of a prediction, only for analysing one afterwards."
        ]
    if cohort["single_visit_patients"]:
        parts += [
            f"Of train, {cohort['single_visit_patients']:,} patients have fewer than {arguments['min_visits']} "
            "visits: they teach which codes occur together, and are never evaluated."
        ]
    empty = [name for name, counts in report.splits.items() if not counts["patients"]]
    if empty:
        parts += [f"No patient fell into {' and '.join(empty)}: the cohort is too small to measure anything on it."]
    parts += ["## Left out", _left_out(report)]
    if report.code_rows:
        version = VERSIONS[NUMBERS[arguments["icd"]]].label
        parts += [
            "## Mapped codes",
            f"All codes are written in {version}, those of the other version by the General Equivalence Maps: among equal "
            "targets the one that is recorded most, and all codes of a combination. The code rows:",
            _rows(("what", "rows"), [(what, f"{count:,}") for what, count in report.code_rows.items()]),
        ]
    files = [(file["name"], f"{file['bytes']:,}", file["sha256"]) for file in report.raw_files]
    parts += [
        "## How it was made",
        _rows(("argument", "value"), [(name, str(value)) for name, value in arguments.items()]),
        *([_rows(("raw file", "bytes", "sha256"), files)] if files else []),
        f"Fingerprint of the rows: `{report.fingerprint}`.",
        "## Origin and citation",
        *([f"<{origin.homepage}>"] if origin.homepage else []),
        origin.citation,
    ]
    return "\n\n".join(parts) + "\n"


def _left_out(report: PrepareReport) -> str:
    rows = [(what, f"{count:,}") for what, count in report.dropped.items() if count]
    if not rows:
        return "Nothing."
    text = _rows(("what", "how many"), rows)
    if report.unknown_codes:
        spellings = [
            (f"`{row['value']}`", f"{row['count']:,}", row["nearest"] or "none") for row in report.unknown_codes[:20]
        ]
        text += "\n\nUnknown codes, most frequent first (all are in `prepare.json`):\n\n"
        text += _rows(("spelling", "rows", "nearest valid prefix"), spellings)
    return text


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(plain_table(header, rows), left=len(header), spaced=True)
