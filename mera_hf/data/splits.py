"""Who goes to train, validation and test: by hash of the patient (default), or as the field does it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import polars as pl

from mera_hf.data.cohort import FIELD_SEED
from mera_hf.errors import InputError


SPLITS = ("train", "validation", "test")

# Patients in train and test; the rest is validation. MIMIC-IV: of a sample of 10,000.
FIELD_SIZES = {"mimic3": (6000, 1000), "mimic4": (8000, 1000)}
FIELD_SAMPLE = {"mimic4": 10_000}


def random_split(patient_id: str, seed: int) -> str:
    """The split of one patient, 70 % train, 10 % validation, 20 % test, whatever other patients the data hold.

    u = first 8 bytes of sha256("{seed}:{patient_id}") / 2^64; u < 0.7 is train, u < 0.8 validation, else test (this
    project's choice).
    """
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if u < 0.7 else "validation" if u < 0.8 else "test"


def split_hash(patient_ids: Iterable[str]) -> str:
    """sha256 (64 hex digits) over the sorted identifiers, one per line: equal for equal patients, and reveals none."""
    return hashlib.sha256("".join(f"{patient}\n" for patient in sorted(patient_ids)).encode()).hexdigest()


def field_split(rows: pl.DataFrame, train: int, test: int, seed: int = FIELD_SEED) -> list[str]:
    """The transductive split of the field (CGL, Chet): every code of the cohort is seen in train.

    For every code the first patient who has it goes to train, and so does the patient with the most visits; the others
    are shuffled and fill train, validation and test. The rule is the field's; the patients differ from those of its
    published code, which draws them in another order.

    Args:
        rows (`pl.DataFrame`): the cohort, `patient_id` and `visits`, sorted by `patient_id`.
        train, test (`int`): patients in each; the rest is validation.
        seed (`int`): seed of the shuffle.

    Returns:
        `list[str]`: the split of each row.

    Raises:
        InputError: too few patients, or more patients needed for the codes than `train` holds.
    """
    advice = "Use split='random' (--split random)."
    if rows.height <= train + test:
        raise InputError(
            f"split='field' needs more than {train + test:,} patients ({train:,} train, {test:,} test, the rest "
            f"validation), and the cohort has {rows.height:,}. {advice}"
        )
    held = (
        rows.with_row_index("index")
        .select("index", pl.col("visits").list.eval(pl.element().struct.field("codes").explode()).alias("code"))
        .explode("code")
    )
    always = set(held.group_by("code").agg(pl.col("index").min())["index"])
    always.add(int(np.argmax(rows["visits"].list.len().to_numpy())))
    if len(always) > train:
        raise InputError(
            f"split='field' puts one patient for every code into train: {len(always):,} patients, and train has "
            f"{train:,}. {advice}"
        )
    remaining = np.array([index for index in range(rows.height) if index not in always])
    np.random.RandomState(seed).shuffle(remaining)
    fill = train - len(always)
    split = np.full(rows.height, "train", dtype=object)
    split[remaining[fill : len(remaining) - test]] = "validation"
    split[remaining[len(remaining) - test :]] = "test"
    return split.tolist()


def check_disjoint(patients: dict[str, list[str]]) -> None:
    """Raise an `InputError` if a patient is in two splits; `patients` maps a split to its patient identifiers."""
    names = list(patients)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = set(patients[one]) & set(patients[other])
            if shared:
                rows = [patients[name].index(min(shared)) for name in (one, other)]
                raise InputError(
                    f"A patient is in two splits: row {rows[0]} of {one} and row {rows[1]} of {other} (patients in "
                    f"both: {len(shared)}). Prepare the dataset again: a patient belongs to one split."
                )
