"""Your own visits: one long table, a row for each code of each visit."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mera_hf.data.sources.records import (
    Origin,
    Records,
    fail_at,
    iso,
    number_visits,
    parse_numbers,
    parse_times,
    race_words,
    read_table,
    require,
)
from mera_hf.errors import InputError
from mera_hf.icd import VERSIONS


ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")

ORIGIN = Origin(
    title="Visits table",
    homepage=None,
    license="unknown",
    license_name=None,
    terms=(
        "The terms of the table that you prepared hold for this folder too, and mera_hf does not know them. Treat "
        "it as patient data: share it only if you may."
    ),
    citation="Cite the origin of your table.",
    # The terms are not known, so assume strict ones.
    credentialed=True,
)

SPELLINGS = {
    spelling: version.name
    for version in VERSIONS.values()
    for spelling in (version.number, f"ICD{version.number}", version.name)
}
SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}


def _table(data_dir: Path) -> Path:
    if data_dir.is_file():
        return data_dir
    if not data_dir.is_dir():
        raise InputError(f"`data_dir` {str(data_dir)!r} does not exist. Name the table, or the folder that holds it.")
    tables = sorted(path for path in data_dir.iterdir() if path.name.lower().endswith(ENDINGS))
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise InputError(
            f"`data_dir` {str(data_dir)!r} must hold one table ({', '.join(ENDINGS)}); found: {found}. "
            f"Name the table itself."
        )
    return tables[0]


def read(data_dir: Path) -> Records:
    """Read a long table with the columns `patient`, `visit`, `time`, `code`, `version`, and, if known, `sex`, `age`,
    `race`.

    - `visit` identifies a visit of a patient; `time` is ISO 8601 and the same on every row of a visit; rows may be in
      any order.
    - Visits are in order of `time`. Two visits of a patient at the same time are an error, unless every `visit` is a
      whole number: then the numbers order them. `time` may be left out altogether if every `visit` is a whole number.
    - `version` is 9 or 10 (or ICD9CM, ICD10CM), on every row, because E and V codes exist in both.
    - `sex` is F, M or empty; `age` is in years, `race` in words: the values at the patient's first visit count.

    Args:
        data_dir (`Path`): the table (csv, tsv, either with .gz, or parquet), or a folder that holds this one table.

    Raises:
        InputError: the file, row, value and fix of the first fault: a missing column, an empty cell, an unreadable
            time or number, another version, visits at the same time, a visit with two times.
    """
    path = _table(data_dir)
    frame = read_table(path, ("patient", "visit", "code", "version"), ("time", "sex", "age", "race"))
    frame = frame.rename({"patient": "patient_id", "visit": "name", "code": "raw"})
    # The messages name the columns as the table does.
    for column, title in (("patient_id", "patient"), ("name", "visit"), ("version", "version")):
        fail_at(
            path, frame.filter(pl.col(column).is_null()), f"column `{title}` is empty. Fill it in or delete the row."
        )
    fail_at(
        path,
        frame.filter(pl.col("raw").is_null()),
        "the visit {name!r} has an empty `code`. Write its code, or delete the row: a visit without codes "
        "cannot be used.",
    )
    version = pl.col("version").str.to_uppercase().str.replace_all("[- ]", "")
    frame = frame.with_columns(version.replace_strict(SPELLINGS, default=None).alias("known"))
    fail_at(
        path,
        frame.filter(pl.col("known").is_null()),
        f"`version` is {{version!r}}. Write {' or '.join(f'{v.number} for {v.label}' for v in VERSIONS.values())}.",
    )
    for column in ("sex", "age", "race", "time"):
        if column not in frame.columns:
            frame = frame.with_columns(pl.lit(None, pl.String).alias(column))
    sex = pl.col("sex").str.to_lowercase().replace_strict(SEXES, default=None)
    fail_at(
        path,
        frame.filter(pl.col("sex").is_not_null() & sex.is_null()),
        "`sex` is {sex!r}. Write F or M, or leave it empty.",
    )
    frame = parse_numbers(path, frame.with_columns(sex), "age", pl.Float32)
    fail_at(
        path,
        frame.filter(~pl.col("age").is_between(0, 130)),
        "`age` is {age}. Write the age in years, 0 to 130, or leave it empty.",
    )

    number = pl.col("name").cast(pl.Int64, strict=False)
    numbered = frame.select(number.is_not_null().all()).item()
    if frame["time"].null_count() == frame.height:
        if not numbered:
            raise InputError(
                f"{path.name}: column `time` is missing or empty, and `visit` is not a whole number on every row, so "
                f"that the order of the visits is unknown. Add `time`, or number the visits of each patient."
            )
        frame = frame.with_columns(pl.col("time").cast(pl.Datetime("us")))
    else:
        require(path, frame, "time")
        frame = parse_times(path, frame, "time")
    frame = frame.with_columns(number.alias("number"))

    visits = frame.sort("row").group_by("patient_id", "name", maintain_order=True).first()
    first_time = visits.select("patient_id", "name", pl.col("time").alias("first_time"))
    fail_at(
        path,
        frame.join(first_time, on=["patient_id", "name"], maintain_order="left").filter(
            pl.col("time") != pl.col("first_time")
        ),
        "the visit {name!r} has the time {time} here and {first_time} on an earlier row. Give a visit one time.",
    )
    if not numbered:
        at_once = visits.filter(pl.struct("patient_id", "time").is_duplicated()).sort("patient_id", "time", "row")
        fail_at(
            path,
            at_once.filter(~pl.struct("patient_id", "time").is_first_distinct()),
            "the visit {name!r} has the time {time}, as another visit of this patient has: their order is unknown. "
            "Give them different times, or number the visits of each patient in `visit` (1, 2, ...).",
        )
    visits = number_visits(visits, "time", "number")

    dated = visits.select((pl.col("time").dt.truncate("1d") == pl.col("time")).all()).item()
    time = pl.col("time").dt.strftime("%Y-%m-%d") if dated else iso("time")
    codes = frame.join(visits.select("patient_id", "name", "visit"), on=["patient_id", "name"]).sort("visit", "row")
    return Records(
        patients=visits.group_by("patient_id", maintain_order=True)
        .first()
        .select("patient_id", "sex", "age", race_words("race")),
        visits=visits.select("visit", "patient_id", time, pl.lit(None, pl.String).alias("text")),
        codes=codes.select("visit", pl.col("known").alias("version"), "raw", pl.lit(0).alias("file"), "row"),
        files=[path],
        origin=ORIGIN,
    )
