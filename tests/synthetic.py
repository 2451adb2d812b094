"""Large synthetic data in seconds, all from a seed: patients as Parquet for `mera predict`, tables shaped like MIMIC-IV's for
`mera prepare`. Codes are drawn at random, commoner ones more often; nobody's histories."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mera_hf.data.schema import VISITS_FEATURES


CHUNK = 100_000  # patients in memory at a time


def write_patients(path: Path, patients: int, codes: list[str], seed: int = 0) -> None:
    """Write a Parquet file of the visits schema: about three visits a patient (few have up to thirty) and three codes a visit,
    as in Diabetes 130-US Hospitals."""
    draw = np.random.default_rng(seed)
    with pq.ParquetWriter(path, VISITS_FEATURES.arrow_schema) as writer:
        for start in range(0, patients, CHUNK):
            writer.write_table(_patients(start, min(CHUNK, patients - start), codes, draw))


def _patients(start: int, count: int, codes: list[str], draw: np.random.Generator) -> pa.Table:
    visits = 1 + np.minimum(draw.geometric(0.55, count) * np.where(draw.random(count) < 0.01, 8, 1), 29)
    sizes = draw.integers(1, 6, visits.sum())
    chosen = pa.array(_skewed(draw, len(codes), sizes.sum()))
    column = VISITS_FEATURES.arrow_schema.field
    days = _order_in_group(visits) * 100 + draw.integers(0, 100, visits.sum())
    times = (np.datetime64("2000-01-01") + days).astype(str)
    profile = pa.StructArray.from_arrays(
        [
            pa.array(np.array(["F", "M"])[draw.integers(0, 2, count)]),
            pa.array(draw.integers(0, 95, count), pa.float32()),
            pa.array(np.array(["white", "black", "asian"])[draw.integers(0, 3, count)]),
        ],
        fields=list(column("profile").type),
    )
    rows = pa.StructArray.from_arrays(
        [
            pa.ListArray.from_arrays(_ends(sizes), pa.array(codes, pa.string()).take(chosen)),
            pa.array(times),
            pa.nulls(len(sizes), pa.string()),
        ],
        names=["codes", "time", "text"],
    )
    table = {
        "patient_id": pa.array([f"patient-{number}" for number in range(start, start + count)]),
        "profile": profile,
        "visits": pa.ListArray.from_arrays(_ends(visits), rows),
    }
    return pa.table(table).cast(VISITS_FEATURES.arrow_schema)


def write_mimic4(folder: Path, diagnoses: int, codes: dict[str, list[str]], seed: int = 0) -> None:
    """Write `hosp/patients.csv`, `hosp/admissions.csv` and `hosp/diagnoses_icd.csv` in the shape of MIMIC-IV: eleven
    diagnoses an admission, 1.9 admissions a patient, ICD-9 in the earlier admissions and ICD-10 in the later.

    Args:
        folder: where `hosp/` goes.
        diagnoses: rows of `diagnoses_icd.csv`.
        codes: for the versions "9" and "10" the spellings without a dot.
        seed: of everything.
    """
    draw = np.random.default_rng(seed)
    hosp = Path(folder) / "hosp"
    hosp.mkdir(parents=True)
    sizes = draw.integers(2, 21, diagnoses // 11 + 1)
    sizes = sizes[: np.searchsorted(sizes.cumsum(), diagnoses) + 1]
    sizes[-1] -= sizes.sum() - diagnoses  # the last admission takes what is left
    admissions = len(sizes)
    stays = draw.geometric(1 / 1.9, admissions)  # more patients than are needed
    stays = stays[: np.searchsorted(stays.cumsum(), admissions) + 1]
    patient = np.repeat(np.arange(len(stays)), stays)[:admissions]
    days = draw.integers(0, 365, admissions) + 400 * _order_in_group(stays)[:admissions]
    anchor = draw.integers(2110, 2200, len(stays))
    group = draw.integers(0, 4, len(stays))
    write = {"patients": {}, "admissions": {}, "diagnoses_icd": {}}
    write["patients"] = {
        "subject_id": 10_000_000 + np.arange(len(stays)),
        "gender": np.array(["F", "M"])[draw.integers(0, 2, len(stays))],
        "anchor_age": draw.integers(18, 92, len(stays)),
        "anchor_year": anchor,
        "anchor_year_group": np.array([f"{year} - {year + 2}" for year in (2008, 2011, 2014, 2017)])[group],
    }
    times = (anchor[patient] - 1970).astype("datetime64[Y]").astype("datetime64[D]") + days
    write["admissions"] = {
        "subject_id": 10_000_000 + patient,
        "hadm_id": 20_000_000 + draw.permutation(admissions),
        "admittime": pl.Series(times.astype("datetime64[us]")).dt.strftime("%Y-%m-%d %H:%M:%S"),
        "admission_type": np.array(["EW EMER.", "ELECTIVE", "EU OBSERVATION"])[draw.integers(0, 3, admissions)],
        "discharge_location": np.array(["HOME", "SKILLED NURSING FACILITY", "DIED", "REHAB"])[
            draw.integers(0, 4, admissions)
        ],
        "race": np.array(["WHITE", "BLACK/AFRICAN AMERICAN", "ASIAN", "UNKNOWN"])[draw.integers(0, 4, admissions)],
    }
    later = np.repeat((group[patient] >= 2) | (days > 1200), sizes)
    nines, tens = np.array(codes["9"]), np.array(codes["10"])
    spelled = np.where(later, tens[_skewed(draw, len(tens), diagnoses)], nines[_skewed(draw, len(nines), diagnoses)])
    order = draw.permutation(admissions)  # the rows of an admission stand together, the admissions anyhow
    write["diagnoses_icd"] = {
        "subject_id": 10_000_000 + np.repeat(patient, sizes),
        "hadm_id": np.repeat(write["admissions"]["hadm_id"], sizes),
        "seq_num": _order_in_group(sizes) + 1,
        "icd_code": spelled,
        "icd_version": np.where(later, 10, 9),
        "place": np.repeat(order, sizes),
    }
    for name, columns in write.items():
        frame = pl.DataFrame(columns)
        if "place" in columns:
            frame = frame.sort("place", maintain_order=True).drop("place")
        frame.write_csv(hosp / f"{name}.csv")


def _skewed(draw: np.random.Generator, values: int, count: int) -> np.ndarray:
    """Numbers below `values`, the n-th as likely as 1 / (n + 10), in an order of its own."""
    shares = 1 / (np.arange(values) + 10)
    ends = (shares / shares.sum()).cumsum()
    return np.random.default_rng(0).permutation(values)[np.searchsorted(ends[:-1], draw.random(count))]


def _ends(sizes: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], sizes.cumsum()]).astype(np.int32))


def _order_in_group(sizes: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of the groups of these sizes."""
    return np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
