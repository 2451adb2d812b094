"""The visits schema: one row per patient. Every source produces it, every consumer starts with `check_visits`.

Where the source has it (MIMIC), visits also hold `drg_severity`. It is coded after discharge, so it is only for the
analysis of predictions: no model or reference ranker reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasets import Features, List, Value

from mera_hf.errors import InputError
from mera_hf.icd import VERSIONS


if TYPE_CHECKING:
    import datasets

VISITS_FEATURES = Features(
    {
        "patient_id": Value("string"),
        # sex "F" or "M"; age in years at the first visit (the midpoint where only a bracket is known)
        "profile": {"sex": Value("string"), "age": Value("float32"), "race": Value("string")},
        # in order of time; codes are qualified (`ICD9CM:250.23`); time is ISO 8601
        "visits": List({"codes": List(Value("string")), "time": Value("string"), "text": Value("string")}),
    }
)

# drg_severity: severity of illness of the visit's APR-DRG, 1 minor, 2 moderate, 3 major, 4 extreme, null where not known
DRG_VISITS_FEATURES = Features(
    VISITS_FEATURES | {"visits": List({**VISITS_FEATURES["visits"].feature, "drg_severity": Value("int8")})}
)

QUALIFIED_CODE = rf"^({'|'.join(VERSIONS)}):\S+$"


def check_visits(dataset: datasets.Dataset) -> None:
    """Check that a dataset follows the visits schema; raise at the first fault.

    Args:
        dataset (`datasets.Dataset`): the dataset to check, one row per patient (`VISITS_FEATURES` or
            `DRG_VISITS_FEATURES`).

    Raises:
        InputError: a missing or misshapen column, a patient without visits, a visit without codes, a code without its
            version, visits not in order of time, a DRG severity that is not 1 to 4, a patient who has two rows.
            The message names the row (the first row is row 0, as in `dataset[0]`) and the fix.
    """
    import polars as pl

    for name in VISITS_FEATURES:
        if name not in dataset.column_names:
            raise InputError(
                f"The dataset has no column `{name}` (it has {dataset.column_names}). "
                f"Rename or add the column; `mera prepare` writes a dataset that has all of {list(VISITS_FEATURES)}."
            )
    # Compared as Arrow types, so that a `large_string` column, which Polars writes, is refused here rather than in a
    # model.
    for name, feature in VISITS_FEATURES.items():
        if dataset.features[name] not in (feature, DRG_VISITS_FEATURES[name]):
            raise InputError(
                f"The column `{name}` has the type {dataset.features[name]}, not {feature}. "
                f"Cast it: dataset.cast(VISITS_FEATURES)."
            )

    frame = pl.DataFrame(dataset.with_format("arrow")[:]).select("patient_id", "visits").with_row_index("row")
    if frame.is_empty():
        return

    def fail(faults: pl.DataFrame, message: str) -> None:
        if not faults.is_empty():
            first = faults.row(0, named=True)
            raise InputError(f"Row {first['row']}: {message.format(**first)}")

    fail(frame.filter(pl.col("patient_id").is_null()), "`patient_id` is empty. Give every patient an identifier.")
    fail(
        frame.filter(pl.col("patient_id").is_duplicated() & ~pl.col("patient_id").is_first_distinct()),
        "the patient of this row has another row too. Merge the visits of a patient into one row.",
    )
    fail(
        frame.filter(pl.col("visits").list.len().fill_null(0) == 0),
        "the patient has no visits. Remove the row, or add the visits.",
    )
    visits = (
        frame.select("row", "visits", pl.int_ranges(pl.col("visits").list.len()).alias("number"))
        .explode("visits", "number")
        .unnest("visits")
    )
    fail(
        visits.filter(pl.col("codes").list.len().fill_null(0) == 0),
        "visit {number} has no codes. Remove the visit, or add its codes.",
    )
    # Two spellings of one rule: ISO 8601 strings of one zone sort as their times do.
    fail(
        visits.filter(pl.col("time") < pl.col("time").shift().over("row")),
        "visit {number} has the time {time!r}, which is before the visit ahead of it. Sort the visits of the patient "
        "by time.",
    )
    if "drg_severity" in visits.columns:
        fail(
            visits.filter(~pl.col("drg_severity").is_between(1, 4)),
            "visit {number} has the DRG severity {drg_severity}. Write 1 (minor) to 4 (extreme), or null where it is not "
            "known.",
        )
    codes = visits.select("row", "number", pl.col("codes").alias("code")).explode("code")
    fail(
        codes.filter(~pl.col("code").str.contains(QUALIFIED_CODE).fill_null(False)),
        "visit {number} has the code {code!r}, which does not name its version. Write it as `ICD9CM:250.23` or "
        "`ICD10CM:E11.65`.",
    )
