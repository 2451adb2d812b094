"""MIMIC-IV and its demo: hosp/admissions, hosp/diagnoses_icd, hosp/patients and, if it is there, hosp/drgcodes, .csv or
.csv.gz."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from mera_hf.data.sources.drg import attach_severity
from mera_hf.data.sources.mimic3 import attach_codes, stay_text
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
    race_words,
    read_table,
    require,
    require_unique,
)


UNKNOWN = "drop"

ORIGIN = Origin(
    title="MIMIC-IV",
    homepage="https://physionet.org/content/mimiciv/",
    license="other",
    license_name="PhysioNet Credentialed Health Data License 1.5.0",
    terms=(
        "Credentialed; not to be shared. The data use agreement covers this folder and every model made from it: keep "
        "both on your own disk, and send no record to an online service."
    ),
    citation=(
        'Johnson AEW, Bulgarelli L, Shen L, et al. "MIMIC-IV, a freely accessible electronic health record dataset." '
        "Scientific Data 2023;10:1. doi:10.1038/s41597-022-01899-x. Data: PhysioNet, cite the version you downloaded."
    ),
    credentialed=True,
)
DEMO = dataclasses.replace(
    ORIGIN,
    title="MIMIC-IV Clinical Database Demo v2.2",
    homepage="https://physionet.org/content/mimic-iv-demo/2.2/",
    license="odbl",
    license_name="Open Database License 1.0",
    terms=(
        "Open Database License 1.0. The demo's patients are part of the full MIMIC-IV: never test on them what was "
        "trained on the full set."
    ),
    credentialed=False,
)

# Ages over 89 are all 91 in MIMIC-IV.
OLDEST = 91

DISCHARGE = {
    "DIED": "died",
    "HOME": "discharged home",
    "HOME HEALTH CARE": "discharged to home care",
    "SKILLED NURSING FACILITY": "discharged to nursing facility",
    "REHAB": "discharged to rehabilitation",
    "CHRONIC/LONG TERM ACUTE CARE": "discharged to long term care",
    "ACUTE HOSPITAL": "discharged to another hospital",
    "AGAINST ADVICE": "left against advice",
    "HOSPICE": "discharged to hospice",
    "PSYCH FACILITY": "discharged to psychiatric care",
}


def read(data_dir: Path) -> Records:
    """Read the tables. Admissions are in order of `admittime`, equal times in order of `hadm_id`.

    `year` of a visit is the estimate of the field: the admission's year, moved so that `anchor_year` falls on the
    first year of `anchor_year_group`.

    Args:
        data_dir (`Path`): the folder that holds `hosp/`, or `hosp/` itself.

    Raises:
        InputError: a table or column is missing, a time or number is unreadable, an admission or patient occurs
            twice, an `icd_version` is neither 9 nor 10, an admission's patient is not in `patients`, a DRG severity is
            not 0 to 4.
    """
    hosp = data_dir / "hosp" if (data_dir / "hosp").is_dir() else data_dir
    paths = [find_table(hosp, name) for name in ("admissions", "diagnoses_icd", "patients")]
    admissions_path, diagnoses_path, patients_path = paths

    people = read_table(patients_path, ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group"))
    people = people.rename({"subject_id": "patient_id"})
    require(patients_path, people, "patient_id", "anchor_age", "anchor_year", "anchor_year_group")
    require_unique(patients_path, people, "patient_id", "patient")
    # "2014 - 2016" -> 2014
    people = people.with_columns(pl.col("anchor_year_group").str.extract(r"^(\d{4})").alias("group"))
    fail_at(
        patients_path,
        people.filter(pl.col("group").is_null()),
        "`anchor_year_group` is {anchor_year_group!r}, not a span of years such as '2014 - 2016'. Correct it.",
    )
    for column in ("anchor_age", "anchor_year", "group"):
        people = parse_numbers(patients_path, people, column)

    # `race` was called `ethnicity` before MIMIC-IV 2.0.
    optional = ("admission_type", "discharge_location", "race", "ethnicity")
    admissions = read_table(admissions_path, ("subject_id", "hadm_id", "admittime"), optional)
    admissions = admissions.rename({"subject_id": "patient_id"})
    if "race" not in admissions.columns and "ethnicity" in admissions.columns:
        admissions = admissions.rename({"ethnicity": "race"})
    require(admissions_path, admissions, "patient_id", "hadm_id", "admittime")
    require_unique(admissions_path, admissions, "hadm_id", "admission")
    admissions = parse_times(admissions_path, admissions, "admittime")
    admissions = parse_numbers(admissions_path, admissions, "hadm_id")
    admissions = admissions.join(people.drop("row"), on="patient_id", how="left")
    fail_at(
        admissions_path,
        admissions.filter(pl.col("anchor_year").is_null()),
        "`subject_id` {patient_id} is not in the patients table. Check that the tables belong together.",
    )
    admissions = number_visits(admissions, "admittime", "hadm_id")
    since_anchor = pl.col("admittime").dt.year() - pl.col("anchor_year")
    admissions = admissions.with_columns((pl.col("group") + since_anchor).alias("year"))

    first = admissions.group_by("patient_id", maintain_order=True).first()
    patients = first.select(
        "patient_id",
        pl.col("gender").str.to_uppercase().replace_strict({"F": "F", "M": "M"}, default=None).alias("sex"),
        (pl.col("anchor_age") + since_anchor).clip(0, OLDEST).cast(pl.Float32).alias("age"),
        (race_words("race") if "race" in first.columns else pl.lit(None, pl.String)).alias("race"),
    )

    diagnoses = read_table(diagnoses_path, ("hadm_id", "icd_code", "icd_version"), ("seq_num",))
    diagnoses = diagnoses.rename({"icd_code": "raw"}).with_columns(
        pl.col("icd_version").replace_strict({"9": "ICD9CM", "10": "ICD10CM"}, default=None).alias("version")
    )
    fail_at(
        diagnoses_path,
        diagnoses.filter(pl.col("version").is_null()),
        "`icd_version` is {icd_version!r}. Write 9 or 10.",
    )
    codes, dropped = attach_codes(diagnoses_path, diagnoses, admissions)

    admissions, drg_files, unused = attach_severity(hosp, admissions)
    license_file = odbl_license(hosp) or odbl_license(hosp.parent)
    return Records(
        patients=patients,
        visits=admissions.select(
            "visit",
            "patient_id",
            iso("admittime").alias("time"),
            stay_text(admissions, DISCHARGE).alias("text"),
            "year",
            "^drg_severity$",  # if there
        ),
        codes=codes,
        files=paths + drg_files,
        origin=DEMO if license_file else ORIGIN,
        license_file=license_file,
        dropped=dropped | unused,
    )
