"""CMS DE-SynPUF 2008-2010 inpatient claims: synthetic patients, public domain. The negative control.

A patient's later claims share no more codes with their own history than with another patient's, so any model that
seems to learn from history here is wrong.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from mera_hf.data.sources import BUNDLED
from mera_hf.data.sources.records import Origin, Records, fail_at, number_visits, read_table, require
from mera_hf.errors import InputError
from mera_hf.icd import ICD9CM


ORIGIN = Origin(
    title="CMS 2008-2010 Data Entrepreneurs' Synthetic Public Use File (DE-SynPUF), inpatient claims",
    homepage="https://www.cms.gov/data-research/statistics-trends-and-reports/medicare-claims-synthetic-public-use-files",
    license="other",
    license_name="Public domain (work of the US Government)",
    terms=(
        "Synthetic patients, public domain. Their visits do not continue one another: use them as a negative control "
        "only."
    ),
    citation=(
        "Centers for Medicare & Medicaid Services, 2008-2010 Data Entrepreneurs' Synthetic Public Use File "
        "(DE-SynPUF)."
    ),
)

# CMS's own names, and the multi-visit excerpt that the package bundles.
FILE = re.compile(
    r"(DE1_0_2008_to_2010_Inpatient_Claims_Sample_\d+|inpatient_multivisit\w*)\.csv(\.gz)?", re.IGNORECASE
)
DIAGNOSES = tuple(f"icd9_dgns_cd_{number}" for number in range(1, 11))


def read(data_dir: Path | None) -> Records:
    """Read every sample file in the folder, or the bundled excerpt if `data_dir` is `None`.

    A claim of several segments is one visit. Claims are in order of admission, those of one date by `CLM_ID`. The
    claims do not give sex, age or race.

    Args:
        data_dir (`Path` or `None`): folder with CMS's `DE1_0_2008_to_2010_Inpatient_Claims_Sample_<n>.csv` files
            (unzipped; .csv or .csv.gz), or the bundled `inpatient_multivisit_*.csv.gz`.

    Raises:
        InputError: no such file, a missing column, an admission date that is not YYYYMMDD.
    """
    folder = data_dir or BUNDLED["desynpuf"]
    if not folder.is_dir():
        raise InputError(
            f"`data_dir` {str(folder)!r} is not a folder. Name the folder that holds the inpatient claims."
        )
    paths = sorted(path for path in folder.iterdir() if FILE.fullmatch(path.name))
    if not paths:
        raise InputError(
            f"The folder {str(folder)!r} has no DE1_0_2008_to_2010_Inpatient_Claims_Sample_<n>.csv (nor .csv.gz). "
            f"Unzip CMS's sample files into it."
        )
    tables = []
    for number, path in enumerate(paths):
        table = read_table(path, ("desynpuf_id", "clm_id", "clm_admsn_dt", *DIAGNOSES), ("segment",))
        require(path, table, "desynpuf_id", "clm_id", "clm_admsn_dt")
        date = pl.col("clm_admsn_dt").str.to_date("%Y%m%d", strict=False)
        fail_at(
            path,
            table.filter(date.is_null()),
            "`CLM_ADMSN_DT` is {clm_admsn_dt!r}, not a date. Write it as YYYYMMDD.",
        )
        if "segment" not in table.columns:
            table = table.with_columns(pl.lit("1").alias("segment"))
        tables.append(
            table.with_columns(date.alias("time"), pl.lit(number).alias("file")).rename({"desynpuf_id": "patient_id"})
        )
    claims = pl.concat(tables, how="diagonal").sort("clm_id", "segment", maintain_order=True)

    visits = claims.group_by("patient_id", "clm_id", maintain_order=True).agg(pl.col("time").first())
    visits = number_visits(visits, "time", "clm_id")
    codes = (
        claims.join(visits.select("patient_id", "clm_id", "visit"), on=["patient_id", "clm_id"])
        .unpivot(DIAGNOSES, index=["visit", "segment", "file", "row"], variable_name="position", value_name="raw")
        .drop_nulls("raw")
        .with_columns(pl.col("position").str.extract(r"(\d+)$").cast(pl.Int64))
        .sort("visit", "segment", "position")
        .select("visit", pl.lit(ICD9CM.name).alias("version"), "raw", "file", "row")
    )
    unknown = pl.lit(None, pl.String)
    return Records(
        patients=visits.select("patient_id")
        .unique(maintain_order=True)
        .with_columns(unknown.alias("sex"), pl.lit(None, pl.Float32).alias("age"), unknown.alias("race")),
        visits=visits.select("visit", "patient_id", pl.col("time").dt.strftime("%Y-%m-%d"), unknown.alias("text")),
        codes=codes,
        files=paths,
        origin=ORIGIN,
    )
