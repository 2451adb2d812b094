"""Which patients and visits enter a dataset, and the rows of the schema that they become."""

from __future__ import annotations

import numpy as np
import polars as pl

from mera_hf.data.sources.records import Records
from mera_hf.errors import InputError


# The constants of the field's cohort (CGL, Chet).
FIELD_SEED = 6669
FIELD_YEAR = 2013
FIELD_ICD = "9"


def select_cohort(
    records: Records,
    codes: pl.DataFrame,
    *,
    rule: str,
    min_visits: int,
    keep_single_visit: bool,
    sample: int | None,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Choose the cohort and build its rows.

    - `rule="default"` (this project's choice): a visit without any code is removed, its patient stays.
    - `rule="field"` (CGL, Chet): a patient is dropped entirely if one admission has no code; where a visit has an
      estimated year (MIMIC-IV), admissions before 2013 are left out first.

    Args:
        records (`Records`): what a source read.
        codes (`pl.DataFrame`): `visit`, `code`, normalised.
        rule (`str`): `"default"` or `"field"`.
        min_visits (`int`): patients with fewer visits are left out.
        keep_single_visit (`bool`): keep patients below `min_visits`, marked `single`: they teach which codes occur
            together, and belong in train only.
        sample (`int` or `None`): draw this many patients (seed 6669, from the sorted identifiers) after all other
            rules.

    Returns:
        the frame `patient_id`, `profile`, `visits` (the schema) and `single`, in order of `patient_id`, and what was
        dropped, in words, with its count.

    Raises:
        InputError: no patient is left, or fewer than `sample`.
    """
    dropped = dict(records.dropped)
    visits = records.visits
    if rule == "field" and "year" in visits.columns:
        kept = visits.filter(pl.col("year") >= FIELD_YEAR)
        dropped[f"visits before {FIELD_YEAR} (estimated)"] = visits.height - kept.height
        visits = kept

    coded = visits.join(
        codes.group_by("visit", maintain_order=True).agg(pl.col("code").alias("codes")), on="visit", how="left"
    )
    uncoded = coded.filter(pl.col("codes").is_null())
    if rule == "field":
        whole = coded.join(uncoded.select("patient_id").unique(), on="patient_id", how="anti")
        dropped["patients with an admission without codes"] = uncoded["patient_id"].n_unique()
    else:
        whole = coded.drop_nulls("codes")
        dropped["visits without codes"] = uncoded.height

    fields = pl.struct("codes", "time", "text", "^drg_severity$")  # the last where the source has it
    patients = whole.sort("visit").group_by("patient_id").agg(fields.alias("visits"))
    without = visits["patient_id"].n_unique() - patients.height
    if rule == "default":
        dropped["patients without any code"] = without
    patients = patients.with_columns((pl.col("visits").list.len() < min_visits).alias("single")).sort("patient_id")
    few = f"patients with fewer than {min_visits} visits"
    dropped[few] = 0
    if not keep_single_visit:
        dropped[few] = int(patients["single"].sum())
        patients = patients.filter(~pl.col("single"))

    candidates = patients.filter(~pl.col("single"))["patient_id"]
    if candidates.is_empty():
        raise InputError(
            f"The cohort is empty: of {records.visits['patient_id'].n_unique()} patients none has {min_visits} visits "
            f"with codes under the rules of `cohort={rule!r}`. Lower `min_visits`, or check that the tables belong "
            "together."
        )
    if sample is not None:
        if sample > len(candidates):
            raise InputError(
                f"`sample` is {sample} patients, and the cohort has {len(candidates)}. Set it lower or leave it out."
            )
        drawn = np.random.RandomState(FIELD_SEED).choice(candidates.to_numpy(), sample, replace=False)
        dropped["patients outside the sample"] = len(candidates) - sample
        patients = patients.filter(pl.col("single") | pl.col("patient_id").is_in(drawn.tolist()))

    profile = records.patients.select("patient_id", pl.struct("sex", "age", "race").alias("profile"))
    rows = patients.join(profile, on="patient_id", how="left", maintain_order="left")
    return rows.select("patient_id", "profile", "visits", "single"), dropped
