"""MIMIC-III (v1.4) and its demo: ADMISSIONS, DIAGNOSES_ICD, PATIENTS and, where present, DRGCODES; upper- or
lower-case columns, .csv or .csv.gz."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mera_hf.data.sources.mimic import build_patients, build_records, full_and_demo, read_admissions
from mera_hf.data.sources.records import (
    Records,
    find_table,
    number_visits,
    odbl_license,
    parse_times,
    read_table,
    require_unique,
)
from mera_hf.icd import ICD9CM


ORIGIN, DEMO = full_and_demo(
    "MIMIC-III",
    title="MIMIC-III Clinical Database",
    homepage="https://physionet.org/content/mimiciii/1.4/",
    citation=(
        'Johnson AEW, Pollard TJ, Shen L, et al. "MIMIC-III, a freely accessible critical care database." Scientific '
        "Data 2016;3:160035. doi:10.1038/sdata.2016.35. Data: PhysioNet, doi:10.13026/C2XW26."
    ),
    demo_title="MIMIC-III Clinical Database Demo v1.4",
    demo_homepage="https://physionet.org/content/mimiciii-demo/1.4/",
)

# MIMIC-III shifts the birth of everyone older than 89 to 300 years before the first admission; the median age of these
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
    """Read the tables. Admissions are in order of `admittime`, those of one time by `hadm_id`.

    Args:
        data_dir (`Path`): folder with ADMISSIONS, DIAGNOSES_ICD, PATIENTS and optionally DRGCODES.

    Raises:
        InputError: a table or column is missing, a time is unreadable or empty, an admission or patient occurs twice, a
            DRG severity is not 0 to 4.
    """
    paths = [find_table(data_dir, name) for name in ("ADMISSIONS", "DIAGNOSES_ICD", "PATIENTS")]
    admissions_path, diagnoses_path, patients_path = paths

    admissions = number_visits(read_admissions(admissions_path), "admittime", "hadm_id")

    born = read_table(patients_path, ("subject_id", "gender", "dob")).rename({"subject_id": "patient_id"})
    require_unique(patients_path, born, "patient_id", "patient")
    born = parse_times(patients_path, born, "dob")
    first = admissions.group_by("patient_id", maintain_order=True).first()
    age = (pl.col("admittime") - pl.col("dob")).dt.total_days() / 365.25
    age = pl.when(age > 89).then(SHIFTED_AGE).otherwise(age.clip(lower_bound=0))
    patients = build_patients(first.join(born, on="patient_id", how="left", maintain_order="left"), age)

    diagnoses = read_table(diagnoses_path, ("hadm_id", "icd9_code"), ("seq_num",)).rename({"icd9_code": "raw"})
    diagnoses = diagnoses.with_columns(pl.lit(ICD9CM.name).alias("version"))
    license_file = odbl_license(data_dir)
    return build_records(data_dir, paths, patients, admissions, diagnoses, DISCHARGE, (ORIGIN, DEMO), license_file)
