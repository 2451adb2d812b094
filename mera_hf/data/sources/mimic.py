"""What MIMIC-III and MIMIC-IV share: the terms, the common tables, and APR-DRG severity from the table DRGCODES."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from mera_hf.data.sources.records import (
    Origin,
    Records,
    fail_at,
    iso,
    look_for_table,
    parse_numbers,
    parse_times,
    phrase,
    race_words,
    read_table,
    require,
    require_unique,
)


def full_and_demo(
    name: str, title: str, homepage: str, citation: str, demo_title: str, demo_homepage: str
) -> tuple[Origin, Origin]:
    """Where the data come from, and where their demo comes from. `name` is what people call the data."""
    full = Origin(
        title=title,
        homepage=homepage,
        license="other",
        license_name="PhysioNet Credentialed Health Data License 1.5.0",
        terms=(
            "Credentialed; not to be shared. The data use agreement covers this folder and every model made from it: "
            "keep both on your own disk, and send no record to an online service."
        ),
        citation=citation,
        credentialed=True,
    )
    demo = dataclasses.replace(
        full,
        title=demo_title,
        homepage=demo_homepage,
        license="odbl",
        license_name="Open Database License 1.0",
        terms=(
            f"Open Database License 1.0. The demo's patients are part of the full {name}: never test on them what was "
            "trained on the full set."
        ),
        credentialed=False,
    )
    return full, demo


def read_admissions(path: Path) -> pl.DataFrame:
    """The table ADMISSIONS: `patient_id`, `hadm_id`, `admittime`, and where present `admission_type`,
    `discharge_location` and `race`, which was called `ethnicity` before MIMIC-IV 2.0."""
    optional = ("admission_type", "discharge_location", "race", "ethnicity")
    admissions = read_table(path, ("subject_id", "hadm_id", "admittime"), optional)
    admissions = admissions.rename({"subject_id": "patient_id"})
    if "race" not in admissions.columns:
        admissions = admissions.rename({"ethnicity": "race"}, strict=False)
    require(path, admissions, "patient_id", "hadm_id", "admittime")
    require_unique(path, admissions, "hadm_id", "admission")
    admissions = parse_times(path, admissions, "admittime")
    return parse_numbers(path, admissions, "hadm_id")


def build_patients(first: pl.DataFrame, age: pl.Expr) -> pl.DataFrame:
    """The patients of [`Records`], from each one's first admission joined to PATIENTS, and the age in years."""
    sex = pl.col("gender").str.to_uppercase().replace_strict({"F": "F", "M": "M"}, default=None)
    race = race_words("race") if "race" in first.columns else pl.lit(None, pl.String)
    return first.select("patient_id", sex.alias("sex"), age.cast(pl.Float32).alias("age"), race.alias("race"))


def build_records(
    folder: Path,
    files: list[Path],
    patients: pl.DataFrame,
    admissions: pl.DataFrame,
    diagnoses: pl.DataFrame,
    discharge: dict[str, str],
    origins: tuple[Origin, Origin],
    license_file: Path | None,
) -> Records:
    """The records of the tables in `folder`.

    `files` are those of `admissions`, `diagnoses` and PATIENTS; `admissions` are numbered by `visit`, perhaps with `year`;
    `diagnoses` have `hadm_id`, `raw`, `version`, `row` and perhaps `seq_num`; `discharge` puts a place of discharge in
    words; `origins` are those of the full data and of the demo: the demo's is taken if there is a `license_file`.
    """
    codes, dropped = _attach_codes(files[1], diagnoses, admissions)
    admissions, drg_files, unused = _attach_severity(folder, admissions)
    full, demo = origins
    return Records(
        patients=patients,
        visits=admissions.select(
            "visit",
            "patient_id",
            iso("admittime").alias("time"),
            _stay_text(admissions, discharge).alias("text"),
            "^(year|drg_severity)$",  # where present
        ),
        codes=codes,
        files=files + drg_files,
        origin=demo if license_file else full,
        license_file=license_file,
        dropped=dropped | unused,
    )


def _stay_text(admissions: pl.DataFrame, discharge: dict[str, str]) -> pl.Expr:
    """How the stay began and ended, in words: "emergency admission, discharged to home care"."""
    parts = []
    if "admission_type" in admissions.columns:
        kind = pl.col("admission_type").str.to_lowercase()
        # MIMIC-IV abbreviates: "EW EMER.", "EU OBSERVATION", "DIRECT EMER.", "SURGICAL SAME DAY ADMISSION".
        kind = kind.str.replace("ew emer.", "emergency ward", literal=True).str.replace(
            "emer.", "emergency", literal=True
        )
        kind = kind.str.replace("eu ", "emergency ", literal=True).str.replace(r" admi(t|ssion)$", "")
        parts.append(kind + " admission")
    if "discharge_location" in admissions.columns:
        place = pl.col("discharge_location")
        parts.append(place.replace_strict(discharge, default="discharged to " + place.str.to_lowercase()))
    return phrase(*parts) if parts else pl.lit(None, pl.String)


def _attach_codes(
    path: Path, diagnoses: pl.DataFrame, admissions: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Give each diagnosis row its visit, in order of `seq_num`; count the rows that have no code or no admission."""
    diagnoses = parse_numbers(path, diagnoses, "hadm_id")
    order = ["row"]
    if "seq_num" in diagnoses.columns:
        diagnoses = parse_numbers(path, diagnoses, "seq_num")
        order = ["seq_num", "row"]
    coded = diagnoses.drop_nulls("raw")
    codes = coded.join(admissions.select("hadm_id", "visit"), on="hadm_id", how="inner").sort("visit", *order)
    if codes.is_empty():
        fail_at(
            path,
            diagnoses.head(1),
            "no row has a code and an admission of ADMISSIONS. Check that the tables belong together.",
        )
    dropped = {
        "diagnosis rows without a code": diagnoses.height - coded.height,
        "diagnosis rows without an admission": coded.height - codes.height,
    }
    return codes.select("visit", "version", "raw", pl.lit(1).alias("file"), "row"), dropped


def _attach_severity(folder: Path, admissions: pl.DataFrame) -> tuple[pl.DataFrame, list[Path], dict[str, int]]:
    """Give each admission the severity of its APR-DRG, the highest where it has several.

    Only rows whose `drg_type` is APR have a severity: 1 minor, 2 moderate, 3 major, 4 extreme. Empty or 0 means
    not known. It is coded after discharge, so it is for analysis only.

    Args:
        folder (`Path`): where DRGCODES is, if there is one.
        admissions (`pl.DataFrame`): `hadm_id` and other columns, one row per admission.

    Returns:
        the admissions in their order with `drg_severity` (`Int8`, null where not known), or unchanged if there is no
        such table; the files that were read; what could not be used, in words, with its count.

    Raises:
        InputError: a column is missing, a number is unreadable, a severity of an APR row is not 0 to 4.
    """
    path = look_for_table(folder, "DRGCODES")
    if path is None:
        return admissions, [], {"DRG severities of visits (no table DRGCODES)": admissions.height}
    table = read_table(path, ("hadm_id", "drg_type", "drg_severity"))
    table = table.filter(pl.col("drg_type").str.to_uppercase() == "APR")
    for column in ("hadm_id", "drg_severity"):
        table = parse_numbers(path, table, column)
    fail_at(
        path,
        table.filter(~pl.col("drg_severity").is_between(0, 4)),
        "`drg_severity` is {drg_severity}. Write 1 (minor) to 4 (extreme), or leave it empty.",
    )
    known = table.filter(pl.col("drg_severity") > 0)
    of_stays = known.join(admissions.select("hadm_id"), on="hadm_id", how="inner")
    highest = of_stays.group_by("hadm_id").agg(pl.col("drg_severity").max().cast(pl.Int8))
    dropped = {
        "APR-DRG rows without a severity (0 or empty)": table.height - known.height,
        "APR-DRG rows without an admission": known.height - of_stays.height,
    }
    return admissions.join(highest, on="hadm_id", how="left", maintain_order="left"), [path], dropped
