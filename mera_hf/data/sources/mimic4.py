"""MIMIC-IV and its demo: hosp/admissions, hosp/diagnoses_icd, hosp/patients and, where present, hosp/drgcodes, .csv or
.csv.gz."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mera_hf.data.sources.mimic import build_patients, build_records, full_and_demo, read_admissions
from mera_hf.data.sources.records import (
    Records,
    fail_at,
    find_table,
    number_visits,
    odbl_license,
    parse_numbers,
    read_table,
    require,
    require_unique,
)
from mera_hf.icd import NUMBERS


ORIGIN, DEMO = full_and_demo(
    "MIMIC-IV",
    title="MIMIC-IV",
    homepage="https://physionet.org/content/mimiciv/",
    citation=(
        'Johnson AEW, Bulgarelli L, Shen L, et al. "MIMIC-IV, a freely accessible electronic health record dataset." '
        "Scientific Data 2023;10:1. doi:10.1038/s41597-022-01899-x. Data: PhysioNet, cite the version you downloaded."
    ),
    demo_title="MIMIC-IV Clinical Database Demo v2.2",
    demo_homepage="https://physionet.org/content/mimic-iv-demo/2.2/",
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
    """Read the tables. Admissions are in order of `admittime`, those of one time by `hadm_id`.

    `year` of a visit is estimated as in the field: the admission's year, shifted so that `anchor_year` falls on the
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

    anchors = read_table(patients_path, ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group"))
    anchors = anchors.rename({"subject_id": "patient_id"})
    require(patients_path, anchors, "patient_id", "anchor_age", "anchor_year", "anchor_year_group")
    require_unique(patients_path, anchors, "patient_id", "patient")
    # "2014 - 2016" -> 2014
    anchors = anchors.with_columns(pl.col("anchor_year_group").str.extract(r"^(\d{4})").alias("group"))
    fail_at(
        patients_path,
        anchors.filter(pl.col("group").is_null()),
        "`anchor_year_group` is {anchor_year_group!r}, not a span of years such as '2014 - 2016'. Correct it.",
    )
    for column in ("anchor_age", "anchor_year", "group"):
        anchors = parse_numbers(patients_path, anchors, column)

    admissions = read_admissions(admissions_path)
    admissions = admissions.join(anchors.drop("row"), on="patient_id", how="left")
    fail_at(
        admissions_path,
        admissions.filter(pl.col("anchor_year").is_null()),
        "`subject_id` {patient_id} is not in the patients table. Check that the tables belong together.",
    )
    admissions = number_visits(admissions, "admittime", "hadm_id")
    since_anchor = pl.col("admittime").dt.year() - pl.col("anchor_year")
    admissions = admissions.with_columns((pl.col("group") + since_anchor).alias("year"))

    first = admissions.group_by("patient_id", maintain_order=True).first()
    patients = build_patients(first, (pl.col("anchor_age") + since_anchor).clip(0, OLDEST))

    diagnoses = read_table(diagnoses_path, ("hadm_id", "icd_code", "icd_version"), ("seq_num",))
    diagnoses = diagnoses.rename({"icd_code": "raw"}).with_columns(
        pl.col("icd_version").replace_strict(NUMBERS, default=None).alias("version")
    )
    fail_at(
        diagnoses_path,
        diagnoses.filter(pl.col("version").is_null()),
        f"`icd_version` is {{icd_version!r}}. Write {' or '.join(NUMBERS)}.",
    )
    license_file = odbl_license(hosp) or odbl_license(hosp.parent)
    return build_records(hosp, paths, patients, admissions, diagnoses, DISCHARGE, (ORIGIN, DEMO), license_file)
