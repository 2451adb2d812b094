"""A small cohort as a table of its owner: sixty synthetic patients, from a seed, for the tests of the command line."""

import csv
import random


CODES = (
    *("038.9", "250.00", "250.02", "250.40", "272.4", "276.8", "278.00", "285.9", "287.5", "305.1", "401.9", "403.90"),
    *("414.01", "427.31", "428.0", "486", "493.90", "496", "518.81", "530.81", "584.9", "585.9", "599.0", "995.92"),
    *("V15.82", "V58.67"),
)
COLUMNS = ("patient", "visit", "time", "code", "version", "sex", "age", "race")


def visit_rows(patients: int = 60, seed: int = 0) -> list[list[str]]:
    """One row for each code of each visit; half of a patient's codes come back at every visit."""
    draw = random.Random(seed)
    rows = []
    for patient in range(patients):
        chronic = draw.sample(CODES, 3)
        for visit in range(1, draw.randint(2, 4) + 1):
            for code in sorted({*draw.sample(chronic, 2), *draw.sample(CODES, 2)}):
                time = f"{2010 + visit}-01-0{visit}"
                rows.append(
                    [f"p{patient}", str(visit), time, code, "9", "FM"[patient % 2], str(40 + patient % 50), "White"]
                )
    return rows


def write_visits(path, rows: list[list[str]] | None = None, columns: tuple[str, ...] = COLUMNS):
    """Write the table as `mera prepare visits_csv` reads it; returns its path."""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *(visit_rows() if rows is None else rows)])
    return path
