"""Worlds with a known truth: synthetic visits in which one thing at most is to be found, see `mera_hf.data.worlds`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl

from mera_hf.data.sources.records import Origin, Records
from mera_hf.data.worlds import WORLDS, World
from mera_hf.errors import InputError
from mera_hf.icd import ICD10CM


DAYS = 100  # between two visits

ORIGIN = Origin(
    title="World with a known truth",
    homepage=None,
    license="cc0-1.0",
    license_name="CC0 1.0",
    terms="Synthetic: drawn from a seed, nobody's histories. They say nothing about diseases. Public domain (CC0 1.0).",
    citation="mera_hf, `mera_hf.data.worlds`, which says exactly what is drawn how.",
)


def read(data_dir: Path | None, *, world: str, patients: int, seed: int) -> Records:
    """Draw the visits of a world. Nothing is read.

    Visits are 100 days apart. Sex, age and race are not known.

    Args:
        data_dir (`None`): a world has no raw tables.
        world (`str`): one of `WORLDS`.
        patients (`int`): how many patients to draw.
        seed (`int`): of the world, 0 or more.

    Raises:
        InputError: a `data_dir`, no such world, no patients, a negative seed.
    """
    if data_dir is not None:
        raise InputError(f"`data_dir` is {str(data_dir)!r}, and a world is drawn, not read. Leave it out.")
    if patients < 1:
        raise InputError(f"`patients` is {patients}. Set the number of patients to draw, 1 or more.")
    drawn = World(world, seed)
    # As wide as the numbers need, so that the order of the names is that of the patients
    names = [f"patient-{number:06d}" for number in range(patients)]
    visits = pl.DataFrame({"patient_id": names, "codes": [drawn.patient(number) for number in range(patients)]})
    visits = visits.explode("codes").with_row_index("visit")
    days = pl.int_range(pl.len()).over("patient_id") * DAYS
    time = (pl.lit(np.datetime64("2150-01-01")).cast(pl.Date) + pl.duration(days=days)).dt.strftime("%Y-%m-%d")
    unknown = pl.lit(None, pl.String)
    return Records(
        patients=pl.DataFrame({"patient_id": names}).with_columns(
            unknown.alias("sex"), pl.lit(None, pl.Float32).alias("age"), unknown.alias("race")
        ),
        visits=visits.select("visit", "patient_id", time.alias("time"), unknown.alias("text")),
        codes=visits.explode("codes").select(
            "visit",
            pl.lit(ICD10CM.name).alias("version"),
            pl.col("codes").alias("raw"),
            pl.lit(0).alias("file"),
            pl.lit(0).alias("row"),
        ),
        files=[],
        origin=dataclasses.replace(
            ORIGIN,
            title=f"{ORIGIN.title}: {world}",
            terms=f"{ORIGIN.terms} {WORLDS[world]} `mera_hf.data.worlds.World({world!r}, {seed})` knows the truth.",
        ),
    )
