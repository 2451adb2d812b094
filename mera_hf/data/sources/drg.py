"""APR-DRG severity of illness of hospital stays, from the table DRGCODES that MIMIC-III and MIMIC-IV have."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mera_hf.data.sources.records import fail_at, look_for_table, parse_numbers, read_table


def attach_severity(folder: Path, admissions: pl.DataFrame) -> tuple[pl.DataFrame, list[Path], dict[str, int]]:
    """Give each admission the severity of its APR-DRG, the highest where it has several.

    Only rows whose `drg_type` is APR have a severity: 1 minor, 2 moderate, 3 major, 4 extreme. Where it is empty or 0, it
    is not known. It is coded after discharge, for analysis alone.

    Args:
        folder (`Path`): where DRGCODES is, if it is there.
        admissions (`pl.DataFrame`): `hadm_id` and other columns, one row an admission.

    Returns:
        the admissions with `drg_severity` (`Int8`, null where it is not known), in their order, or as they were without the
        table; the files that were read; what could not be used, in words, with its count.

    Raises:
        InputError: a column is missing, a number is unreadable, a severity of an APR row is not 0 to 4.
    """
    path = look_for_table(folder, "DRGCODES")
    if path is None:
        return admissions, [], {"DRG severities of visits (no table DRGCODES)": admissions.height}
    table = read_table(path, ("hadm_id", "drg_type", "drg_severity"))
    table = table.filter(pl.col("drg_type").str.to_uppercase() == "APR")
    for column in ("hadm_id", "drg_severity"):
        table = parse_numbers(path, table, column)
    fail_at(
        path,
        table.filter(~pl.col("drg_severity").is_between(0, 4)),
        "`drg_severity` is {drg_severity}. Write 1 (minor) to 4 (extreme), or leave it empty.",
    )
    known = table.filter(pl.col("drg_severity") > 0)
    of_stays = known.join(admissions.select("hadm_id"), on="hadm_id", how="inner")
    highest = of_stays.group_by("hadm_id").agg(pl.col("drg_severity").max().cast(pl.Int8))
    dropped = {
        "APR-DRG rows without a severity (0 or empty)": table.height - known.height,
        "APR-DRG rows without an admission": known.height - of_stays.height,
    }
    return admissions.join(highest, on="hadm_id", how="left", maintain_order="left"), [path], dropped
