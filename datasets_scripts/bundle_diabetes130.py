"""Make the bundled diabetes130 file from UCI's.

python datasets_scripts/bundle_diabetes130.py diabetic_data.csv OUTPUT.csv.gz
"""

import argparse
import gzip
from pathlib import Path

import polars as pl


# `readmitted` looks into the future, and is left out on purpose.
COLUMNS = (
    "encounter_id patient_nbr race gender age admission_type_id discharge_disposition_id admission_source_id "
    "time_in_hospital medical_specialty number_outpatient number_emergency number_inpatient diag_1 diag_2 diag_3 "
    "number_diagnoses max_glu_serum A1Cresult insulin change diabetesMed"
).split()


def bundle(source: Path, output: Path) -> None:
    """Keep the columns that visits need, every cell as UCI has it, and sort the rows, which compresses best."""
    rows = pl.read_csv(source, columns=COLUMNS, infer_schema=False).select(COLUMNS)
    rows = rows.sort(pl.col("patient_nbr").cast(pl.Int64), pl.col("encounter_id").cast(pl.Int64))
    # mtime=0: the same rows give the same bytes.
    output.write_bytes(gzip.compress(rows.write_csv().encode(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="UCI's diabetic_data.csv, plain or .gz")
    parser.add_argument("output", type=Path, help="the .csv.gz file to write")
    arguments = parser.parse_args()
    bundle(arguments.source, arguments.output)
