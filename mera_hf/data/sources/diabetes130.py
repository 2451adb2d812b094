"""Diabetes 130-US Hospitals 1999-2008 (UCI 296): real inpatient encounters of 71,518 patients, CC BY 4.0.

The column `readmitted` says what happens after the encounter. It is never read.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mera_hf.data.sources import BUNDLED
from mera_hf.data.sources.records import (
    Origin,
    Records,
    find_table,
    number_visits,
    parse_numbers,
    phrase,
    read_table,
    require,
    require_unique,
)
from mera_hf.icd import ICD9CM


ORIGIN = Origin(
    title="Diabetes 130-US Hospitals for Years 1999-2008",
    homepage="https://doi.org/10.24432/C5230J",
    license="cc-by-4.0",
    license_name="CC BY 4.0",
    terms="Creative Commons Attribution 4.0. De-identified at the source; do not try to identify anybody.",
    citation=(
        'Strack B, DeShazo JP, Gennings C, et al. "Impact of HbA1c Measurement on Hospital Readmission Rates: '
        'Analysis of 70,000 Clinical Database Patient Records." BioMed Research International 2014:781670. '
        "doi:10.1155/2014/781670. Data: UCI Machine Learning Repository 296, doi:10.24432/C5230J."
    ),
)

DIAGNOSES = ("diag_1", "diag_2", "diag_3")

ADMISSION_TYPE = {
    "1": "emergency admission",
    "2": "urgent admission",
    "3": "elective admission",
    "4": "newborn admission",
    "7": "trauma admission",
}
ADMISSION_SOURCE = {
    **dict.fromkeys(("1", "2", "3"), "from referral"),
    **dict.fromkeys(("4", "10", "22"), "from another hospital"),
    "5": "from nursing facility",
    "6": "from another facility",
    "7": "from emergency room",
    "8": "from court",
    **dict.fromkeys(("11", "12", "13", "14", "23", "24"), "from birth"),
    **dict.fromkeys(("18", "19"), "from home care"),
    "25": "from surgery center",
    "26": "from hospice",
}
DISCHARGE = {
    "1": "discharged home",
    **dict.fromkeys(("6", "8"), "discharged to home care"),
    **dict.fromkeys(("3", "4", "15", "24"), "discharged to nursing facility"),
    **dict.fromkeys(("2", "5", "9", "10", "27", "29"), "discharged to another hospital"),
    "7": "left against advice",
    **dict.fromkeys(("11", "19", "20", "21"), "died"),
    **dict.fromkeys(("12", "16", "17"), "discharged to outpatient care"),
    **dict.fromkeys(("13", "14"), "discharged to hospice"),
    "22": "discharged to rehabilitation",
    "23": "discharged to long term care",
    "28": "discharged to psychiatric care",
    "30": "discharged to another facility",
}
A1C = {">8": "a1c above 8", ">7": "a1c above 7", "Norm": "a1c normal"}
GLUCOSE = {">300": "glucose above 300", ">200": "glucose above 200", "Norm": "glucose normal"}
INSULIN = {"Up": "insulin up", "Down": "insulin down", "Steady": "insulin steady", "No": "no insulin"}
MEDICINE = {"Yes": "diabetes medicine", "No": "no diabetes medicine"}
CHANGE = {"Ch": "medicine changed"}

BEFORE = {"number_outpatient": "outpatient", "number_emergency": "emergency", "number_inpatient": "inpatient"}
FACTS = (
    "admission_type_id",
    "admission_source_id",
    "discharge_disposition_id",
    "time_in_hospital",
    "medical_specialty",
    "number_diagnoses",
    *BEFORE,
    "a1cresult",
    "max_glu_serum",
    "insulin",
    "diabetesmed",
    "change",
)


def _bucket(column: str, breaks: list[int], labels: list[str]) -> pl.Expr:
    """A count in words: `labels[i]` up to and including `breaks[i]`, the last label above the last break."""
    return pl.col(column).cut(breaks, labels=labels).cast(pl.String)


def _specialty(column: str) -> pl.Expr:
    """`Surgery-Cardiovascular/Thoracic` -> "surgery cardiovascular thoracic"."""
    return (
        pl.col(column)
        .replace({"PhysicianNotFound": None, "DCPTEAM": None})
        .str.replace("Obsterics", "Obstetrics")
        .str.replace_all(r"(and|within)([A-Z])", " $1 $2")
        .str.replace_all(r"([a-z])([A-Z])", "$1 $2")
        .str.replace_all(r"[/&-]+", " ")
    )


def _facts(present: set[str]) -> list[pl.Expr]:
    """What is known when the encounter ends, in a small vocabulary; the multi-visit core file lacks some of the
    columns."""
    known = {
        "admission_type_id": pl.col("admission_type_id").replace_strict(ADMISSION_TYPE, default=None),
        "admission_source_id": pl.col("admission_source_id").replace_strict(ADMISSION_SOURCE, default=None),
        "discharge_disposition_id": pl.col("discharge_disposition_id").replace_strict(DISCHARGE, default=None),
        "time_in_hospital": _bucket(
            "time_in_hospital", [1, 3, 7], ["one day", "short stay", "medium stay", "long stay"]
        ),
        "medical_specialty": _specialty("medical_specialty"),
        "number_diagnoses": _bucket(
            "number_diagnoses", [3, 6, 8], ["few diagnoses", "some diagnoses", "several diagnoses", "many diagnoses"]
        ),
        "a1cresult": pl.col("a1cresult").replace_strict(A1C, default=None),
        "max_glu_serum": pl.col("max_glu_serum").replace_strict(GLUCOSE, default=None),
        "insulin": pl.col("insulin").replace_strict(INSULIN, default=None),
        "diabetesmed": pl.col("diabetesmed").replace_strict(MEDICINE, default=None),
        "change": pl.col("change").replace_strict(CHANGE, default=None),
    } | {
        column: _bucket(
            column,
            [0, 1, 3],
            ["", f"one {kind} visit before", f"some {kind} visits before", f"many {kind} visits before"],
        )
        for column, kind in BEFORE.items()
    }
    return [known[column] for column in FACTS if column in present]


def read(data_dir: Path | None) -> Records:
    """Read UCI's `diabetic_data.csv` (plain or .gz), the multi-visit core file, or the bundled file if `data_dir` is
    `None`.

    `?` means missing. Lost leading zeros are restored when codes are normalised (`38` -> 038). There are no dates: a
    patient's encounters are in order of `encounter_id`. Age is the midpoint of the bracket, in years, at the first
    encounter.

    Args:
        data_dir (`Path` or `None`): folder with the file.

    Raises:
        InputError: the file or a column is missing, a cell is not what it should be, an encounter occurs twice.
    """
    path = find_table(data_dir or BUNDLED["diabetes130"], "diabetic_data", "diabetic_multivisit_core", "diabetes130")
    frame = read_table(path, ("encounter_id", "patient_nbr", "race", "gender", "age", *DIAGNOSES), FACTS)
    frame = frame.with_columns(pl.col(pl.String).replace({"?": None}))
    require(path, frame, "encounter_id", "patient_nbr")
    for column in ("encounter_id", "time_in_hospital", "number_diagnoses", *BEFORE):
        if column in frame.columns:
            frame = parse_numbers(path, frame, column)
    require_unique(path, frame, "encounter_id", "encounter")

    frame = number_visits(frame.rename({"patient_nbr": "patient_id"}), "encounter_id")
    facts = _facts(set(frame.columns))
    # "[70-80)" -> 75
    bracket = pl.col("age").str.extract_groups(r"^\[(\d+)-(\d+)\)$").struct.rename_fields(["low", "high"])
    low, high = (bracket.struct.field(end).cast(pl.Float32) for end in ("low", "high"))
    patients = (
        frame.group_by("patient_id", maintain_order=True)
        .first()
        .select(
            "patient_id",
            pl.col("gender").replace_strict({"Female": "F", "Male": "M"}, default=None).alias("sex"),
            ((low + high) / 2).alias("age"),
            pl.col("race").str.replace_all(r"([a-z])([A-Z])", "$1 $2").str.to_lowercase(),
        )
    )
    codes = (
        frame.unpivot(DIAGNOSES, index=["visit", "row"], variable_name="position", value_name="raw")
        .drop_nulls("raw")
        .sort("visit", "position")
        .select("visit", pl.lit(ICD9CM.name).alias("version"), "raw", pl.lit(0).alias("file"), "row")
    )
    return Records(
        patients=patients,
        visits=frame.select(
            "visit",
            "patient_id",
            pl.lit(None, pl.String).alias("time"),
            (phrase(*facts) if facts else pl.lit(None, pl.String)).alias("text"),
        ),
        codes=codes,
        files=[path],
        origin=ORIGIN,
        license_file=BUNDLED["diabetes130"] / "LICENSE.txt",
    )
