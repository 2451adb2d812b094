"""One file per source, with `read(data_dir) -> Records`, `ORIGIN`. A new source is a file and a line in `SOURCES`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Source:
    """What is known about a source before its file is imported, so that `mera --help` need not import Polars.

    Attributes:
        summary (`str`): what `mera prepare --help` says about it, in one or more lines.
        unknown (`str`, defaults to `"drop"`): what is done by default with an unknown code, see [`~mera_hf.prepare`].
        drawn (`int`, *optional*): of a source that has no raw tables and is drawn from a seed, how many patients it has
            by default; its `read` takes `world`, `patients` and `seed` too.
    """

    summary: str
    unknown: str = "drop"
    drawn: int | None = None


SOURCES = {
    "diabetes130": Source("Diabetes 130-US Hospitals"),
    "mimic3": Source(
        "MIMIC-III or its demo: the folder with ADMISSIONS, DIAGNOSES_ICD and PATIENTS (.csv or .csv.gz)"
    ),
    "mimic4": Source(
        "MIMIC-IV or its demo: the folder that holds hosp/, or hosp/ itself\n"
        "either: DRGCODES, if it is there, gives visits a DRG severity, which `mera evaluate` looks at"
    ),
    "desynpuf": Source("CMS DE-SynPUF, synthetic, a negative control"),
    "visits_csv": Source(
        "your own table, one row for each code: patient, visit, time, code, version (9 or 10);\n"
        "if known also sex (F or M), age (years), race; .csv, .tsv, .csv.gz, .tsv.gz or .parquet",
        unknown="error",
    ),
    "worlds": Source(
        "synthetic visits with a known truth, drawn from --seed, no --data-dir: --world says what is planted:\n"
        "sizes (of the next visit), siblings (which child of a category comes), meaning (rare codes and the words\n"
        "of their descriptions), order (which codes of a visit force each other), or nothing, the control",
        drawn=4_000,
    ),
}

# The raw tables that the package carries: their sources need no `data_dir`.
_CARRIED = Path(__file__).parent.parent / "bundled"
BUNDLED = {name: _CARRIED / name for name in SOURCES if (_CARRIED / name).is_dir()}


def source_module(source: str) -> ModuleType:
    """The file of a source, imported."""
    return importlib.import_module(f"mera_hf.data.sources.{source}")
