"""Prediction samples: the history of a patient as code indices, and the visit to be predicted.

Every ranker, trained or not, is fitted and measured on these, so that all see the same patients and the same targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from mera_hf.errors import InputError


if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Sample:
    """One decision: what is known before a visit, and the codes of that visit.

    Attributes:
        patient (`int`):
            Row of the patient in the dataset split.
        history (`list[list[int]]`):
            Code indices of the earlier visits, in order of time, each visit without duplicates.
        target (`list[int]`):
            Code indices of the visit to be predicted, without duplicates, never empty.
        profile (`dict`):
            `sex`, `age` and anything else that the source gives; values may be `None`.
        texts (`list[str | None]`):
            Text of each earlier visit, where the source gives one.
    """

    patient: int
    history: list[list[int]]
    target: list[int]
    profile: dict
    texts: list[str | None] = field(default_factory=list)

    @property
    def known(self) -> set[int]:
        """The codes of the earlier visits."""
        return {code for visit in self.history for code in visit}


def prediction_samples(rows: Iterable[dict], codes: Sequence[str], target: str = "last") -> list[Sample]:
    """Turn rows of a visits dataset into prediction samples.

    A patient with one visit has nothing to predict from and gives no sample: cohorts leave such patients out of
    validation and test, and count them.

    Args:
        rows (`datasets.Dataset` or iterable of `dict`):
            Rows of the visits schema: `profile` and `visits`, a list of `{"codes": [...]}` in order of time.
        codes (`Sequence[str]`):
            The candidate space, for example `["ICD9CM:250.00", ...]`; a code's index is its place here.
        target (`str`, defaults to `"last"`):
            `"last"`: one sample per patient, the last visit (the field's test protocol). `"every"`: every visit except
            the first, each with the visits before it (the field's training protocol).

    Raises:
        [`~mera_hf.errors.InputError`]: if `target` is anything else, a visit holds a code outside `codes`, or a visit
            to be predicted holds no code.
    """
    if target not in ("last", "every"):
        raise InputError(f"`target` must be 'last' or 'every', not {target!r}.")
    index = {code: i for i, code in enumerate(codes)}
    samples: list[Sample] = []
    unknown: Counter[str] = Counter()
    for patient, row in enumerate(rows):
        visits = []
        for visit in row["visits"]:
            distinct = dict.fromkeys(visit["codes"])
            unknown.update(code for code in distinct if code not in index)
            visits.append([index[code] for code in distinct if code in index])
        first = 1 if target == "every" else max(1, len(visits) - 1)
        for t in range(first, len(visits)):
            if not row["visits"][t]["codes"]:
                raise InputError(
                    f"Row {patient}, visit {t + 1} of {len(visits)} holds no code, so there is nothing to predict. "
                    "Leave such patients or visits out of the cohort."
                )
            texts = [visit.get("text") for visit in row["visits"][:t]]
            samples.append(Sample(patient, visits[:t], visits[t], dict(row.get("profile") or {}), texts))
    if unknown:
        examples = ", ".join(code for code, _ in unknown.most_common(5))
        raise InputError(
            f"{len(unknown)} distinct codes ({unknown.total()} occurrences) of the visits are not among the "
            f"{len(index)} codes of `codes`: {examples}{', ...' if len(unknown) > 5 else ''}. This is a checkpoint or "
            "candidate list of another vocabulary: use the `codes.json` that was prepared with this dataset."
        )
    return samples


def multi_hot(code_lists: Sequence[Iterable[int]], n_codes: int) -> csr_array:
    """Rows of code indices as a sparse 0/1 matrix; an index given twice still counts once.

    Returns:
        `scipy.sparse.csr_array` of shape (len(code_lists), n_codes), float32, indices sorted.
    """
    import numpy as np
    from scipy.sparse import csr_array

    sets = [sorted(set(codes)) for codes in code_lists]
    indptr = np.cumsum([0, *map(len, sets)])
    indices = np.fromiter(chain.from_iterable(sets), dtype=np.int32, count=indptr[-1])
    return csr_array((np.ones(len(indices), dtype=np.float32), indices, indptr), shape=(len(sets), n_codes))
