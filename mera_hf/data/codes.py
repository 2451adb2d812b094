"""Raw spellings to codes: each distinct spelling is looked up once, and none is dropped silently."""

from __future__ import annotations

from typing import Any

import polars as pl

from mera_hf.data.sources.records import Records
from mera_hf.errors import InputError
from mera_hf.icd import IcdTree, UnknownCodeError, gem_map


def _lookup(version: str, raw: str) -> str:
    tree = IcdTree.load(version)
    code = tree.normalize(raw)
    # A chapter or block (240-279) is a node of the tree, not a diagnosis.
    if tree.level(code) in ("chapter", "block"):
        raise UnknownCodeError(raw, version)
    return code


def normalize_codes(records: Records, unknown: str) -> tuple[pl.DataFrame, list[dict], dict[str, int]]:
    """Qualified codes of each visit, without duplicates, in the order of the source.

    Args:
        records (`Records`): what a source read.
        unknown (`str`): `"drop"` leaves unknown spellings out and counts them, `"error"` raises at the first.

    Returns:
        the frame `visit`, `code`; the unknown spellings, most frequent first, as `unknown_codes` of `PrepareReport`; what
        was dropped, in words, with its count.

    Raises:
        InputError: a spelling is not a code of its version and `unknown` is `"error"`.
    """
    spellings = (
        records.codes.group_by("version", "raw", "file")
        .agg(pl.len().alias("count"), pl.col("row").min())
        .sort("file", "row")
        .group_by("version", "raw", maintain_order=True)
        .agg(pl.col("count").sum(), pl.col("file").first(), pl.col("row").first())
    )
    found: list[str | None] = []
    unknown_codes: list[dict[str, Any]] = []
    for version, raw, count, file, row in spellings.iter_rows():
        try:
            found.append(_lookup(version, raw))
        except UnknownCodeError as error:
            if unknown == "error":
                raise InputError(
                    f"{records.files[file].name}, row {row}: {error}. Correct the code or its version, or drop "
                    f"unknown codes and have them counted: unknown='drop' (--unknown drop)."
                ) from error
            found.append(None)
            unknown_codes.append(
                {"value": raw, "version": version, "count": count, "nearest": error.nearest, "other": error.other}
            )
    unknown_codes.sort(key=lambda row: (-row["count"], f"{row['version']}:{row['value']}"))
    spellings = spellings.select("version", "raw", pl.Series("code", found, dtype=pl.String))
    codes = (
        records.codes.join(spellings, on=["version", "raw"], how="left", maintain_order="left")
        .select("visit", "code")
        .drop_nulls("code")
    )
    distinct = codes.unique(maintain_order=True)
    dropped = {
        "unknown codes": sum(row["count"] for row in unknown_codes),
        "codes repeated within a visit": codes.height - distinct.height,
    }
    return distinct, unknown_codes, dropped


def map_codes(codes: pl.DataFrame, to: str) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """Map the codes of the other version to version `to` (`"ICD9CM"` or `"ICD10CM"`), as [`gem_map`] does.

    Among equal targets it takes the one that most visits of `codes` record, whether or not they enter the cohort: the
    same raw tables are mapped alike whatever patients are chosen (this project's choice).

    Args:
        codes (`pl.DataFrame`): `visit`, `code`, without duplicates.
        to (`str`): the version.

    Returns:
        the frame `visit`, `code`, again without duplicates, the codes of a combination in the place of the one that they
        stand for; how many rows the combinations add; what was dropped, in words, with its count.
    """
    counts = {code: count for code, count in codes["code"].value_counts().iter_rows() if code.startswith(f"{to}:")}
    distinct = codes["code"].unique()
    targets = [[code] if code in counts else gem_map(code, to, counts) for code in distinct]
    table = pl.DataFrame({"code": distinct, "target": pl.Series(targets, dtype=pl.List(pl.String))})
    joined = codes.join(table, on="code", how="left", maintain_order="left")
    found = joined.filter(pl.col("target").list.len() > 0)
    mapped = found.select("visit", pl.col("target").alias("code")).explode("code")
    merged = mapped.unique(maintain_order=True)
    dropped = {
        f"codes without a counterpart in {to}": codes.height - found.height,
        "codes merged within a visit by the map": mapped.height - merged.height,
    }
    return merged, mapped.height - found.height, dropped
