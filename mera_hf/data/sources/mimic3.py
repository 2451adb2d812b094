"""MIMIC-III (v1.4) and its demo: ADMISSIONS, DIAGNOSES_ICD, PATIENTS and, if it is there, DRGCODES; upper- or lower-case
columns, .csv or .csv.gz."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from mera_hf.data.sources.drg import attach_severity
from mera_hf.data.sources.records import (
    Origin,
    Records,
    fail_at,
    find_table,
    iso,
    number_visits,
    odbl_license,
    parse_numbers,
    parse_times,
    phrase,
    race_words,
    read_table,
    require,
    require_unique,
)


UNKNOWN = "drop"

ORIGIN = Origin(
    title="MIMIC-III Clinical Database",
    homepage="https://physionet.org/content/mimiciii/1.4/",
    license="other",
    license_name="PhysioNet Credentialed Health Data License 1.5.0",
    terms=(
        "Credentialed; not to be shared. The data use agreement covers this folder and every model made from it: keep "
        "both on your own disk, and send no record to an online service."
    ),
    citation=(
        'Johnson AEW, Pollard TJ, Shen L, et al. "MIMIC-III, a freely accessible critical care database." Scientific '
        "Data 2016;3:160035. doi:10.1038/sdata.2016.35. Data: PhysioNet, doi:10.13026/C2XW26."
    ),
    credentialed=True,
)
DEMO = dataclasses.replace(
    ORIGIN,
    title="MIMIC-III Clinical Database Demo v1.4",
    homepage="https://physionet.org/content/mimiciii-demo/1.4/",
    license="odbl",
    license_name="Open Database License 1.0",
    terms=(
        "Open Database License 1.0. The demo's patients are part of the full MIMIC-III: never test on them what was "
        "trained on the full set."
    ),
    credentialed=False,
)

# MIMIC-III moves the birth of everybody older than 89 to 300 years before the first admission; the median age of these
# patients is 91.4 (mimic.mit.edu, PATIENTS table).
SHIFTED_AGE = 91.4

DISCHARGE = {
    "DEAD/EXPIRED": "died",
    "SNF": "discharged to nursing facility",
    "ICF": "discharged to intermediate care facility",
    "HOME": "discharged home",
    "HOME HEALTH CARE": "discharged to home care",
    "HOME WITH HOME IV PROVIDR": "discharged to home care",
    "REHAB/DISTINCT PART HOSP": "discharged to rehabilitation",
    "LONG TERM CARE HOSPITAL": "discharged to long term care",
    "SHORT TERM HOSPITAL": "discharged to another hospital",
    "LEFT AGAINST MEDICAL ADVI": "left against advice",
    "HOSPICE-HOME": "discharged to hospice",
    "HOSPICE-MEDICAL FACILITY": "discharged to hospice",
    "DISCH-TRAN TO PSYCH HOSP": "discharged to psychiatric care",
}


def read(data_dir: Path) -> Records:
    """Read the tables. Admissions are in order of `admittime`, equal times in order of `hadm_id`.

    Args:
        data_dir (`Path`): folder with ADMISSIONS, DIAGNOSES_ICD, PATIENTS and perhaps DRGCODES.

    Raises:
        InputError: a table or column is missing, a time is unreadable or empty, an admission or patient occurs twice, a
            DRG severity is not 0 to 4.
    """
    paths = [find_table(data_dir, name) for name in ("ADMISSIONS", "DIAGNOSES_ICD", "PATIENTS")]
    admissions_path, diagnoses_path, patients_path = paths

    admissions = read_table(
        admissions_path, ("subject_id", "hadm_id", "admittime"), ("admission_type", "discharge_location", "ethnicity")
    ).rename({"subject_id": "patient_id"})
    require(admissions_path, admissions, "patient_id", "hadm_id", "admittime")
    require_unique(admissions_path, admissions, "hadm_id", "admission")
    admissions = parse_times(admissions_path, admissions, "admittime")
    admissions = parse_numbers(admissions_path, admissions, "hadm_id")
    admissions = number_visits(admissions, "admittime", "hadm_id")

    people = read_table(patients_path, ("subject_id", "gender", "dob")).rename({"subject_id": "patient_id"})
    require_unique(patients_path, people, "patient_id", "patient")
    people = parse_times(patients_path, people, "dob")
    first = admissions.group_by("patient_id", maintain_order=True).first()
    age = (pl.col("admittime") - pl.col("dob")).dt.total_days() / 365.25
    patients = first.join(people, on="patient_id", how="left", maintain_order="left").select(
        "patient_id",
        pl.col("gender").str.to_uppercase().replace_strict({"F": "F", "M": "M"}, default=None).alias("sex"),
        pl.when(age > 89).then(SHIFTED_AGE).otherwise(age.clip(lower_bound=0)).cast(pl.Float32).alias("age"),
        (race_words("ethnicity") if "ethnicity" in first.columns else pl.lit(None, pl.String)).alias("race"),
    )

    diagnoses = read_table(diagnoses_path, ("hadm_id", "icd9_code"), ("seq_num",)).rename({"icd9_code": "raw"})
    codes, dropped = attach_codes(
        diagnoses_path, diagnoses.with_columns(pl.lit("ICD9CM").alias("version")), admissions
    )

    admissions, drg_files, unused = attach_severity(data_dir, admissions)
    license_file = odbl_license(data_dir)
    return Records(
        patients=patients,
        visits=admissions.select(
            "visit",
            "patient_id",
            iso("admittime").alias("time"),
            stay_text(admissions, DISCHARGE).alias("text"),
            "^drg_severity$",  # if there
        ),
        codes=codes,
        files=paths + drg_files,
        origin=DEMO if license_file else ORIGIN,
        license_file=license_file,
        dropped=dropped | unused,
    )


def stay_text(admissions: pl.DataFrame, discharge: dict[str, str]) -> pl.Expr:
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


def attach_codes(path: Path, diagnoses: pl.DataFrame, admissions: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Give each diagnosis row its visit, in order of `seq_num`; count the rows that have no code or no admission.

    `path` is the second of the source's files.
    """
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
