"""One patient for the report, chosen by a fixed rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample


if TYPE_CHECKING:
    import numpy as np


def example_patient(
    order: np.ndarray,
    probabilities: np.ndarray,
    set_sizes: np.ndarray,
    samples: Sequence[Sample],
    codes: Sequence[str],
    descriptions: Sequence[str],
    top: int = 10,
) -> dict:
    """Choose a patient by a fixed rule, not by how well they look, and describe the ranking for the report.

    The rule: among the patients with three earlier visits or more and with both repeated and new true codes (all
    patients if there are none), the first whose recall@20 is the median.

    Args:
        order (`np.ndarray` of shape (patients, K)):
            Rankings, K the number of candidate codes, so that every true code has a rank.
        probabilities (`np.ndarray` of shape (patients, codes)):
            In the order of `codes`, not of the ranking.
        set_sizes (`np.ndarray` of shape (patients,)):
            Codes above EOV.
        samples (`Sequence[Sample]`): the rows' samples.
        codes (`Sequence[str]`): the candidate space.
        descriptions (`Sequence[str]`): of `codes`.
        top (`int`, defaults to 10): codes to show before the true codes that come later.

    Returns:
        `dict`: `profile`, `visits` (codes per earlier visit), `set_size`, `true_size`, `ranking` (the first `top`
        entries) and `missed` (later true codes); an entry has `rank` (from 1), `code`, `description`, `probability`,
        `true` and `repeated`. No identifier of the patient.
    """
    import numpy as np

    history = [{code for visit in sample.history for code in visit} for sample in samples]
    mixed = [
        row
        for row, sample in enumerate(samples)
        if len(sample.history) >= 3 and 0 < len(history[row].intersection(sample.target)) < len(sample.target)
    ] or list(range(len(samples)))
    recalls = [np.isin(samples[row].target, order[row, :20]).mean() for row in mixed]
    chosen = mixed[recalls.index(np.sort(recalls)[len(recalls) // 2])]
    sample = samples[chosen]
    entries = [
        {
            "rank": rank,
            "code": codes[code],
            "description": descriptions[code],
            "probability": float(probabilities[chosen, code]),
            "true": code in sample.target,
            "repeated": code in history[chosen],
        }
        for rank, code in enumerate(order[chosen].tolist(), start=1)
    ]
    return {
        "profile": {key: sample.profile.get(key) for key in ("sex", "age")},
        "visits": [[codes[code] for code in visit] for visit in sample.history],
        "set_size": int(set_sizes[chosen]),
        "true_size": len(sample.target),
        "ranking": entries[:top],
        "missed": [entry for entry in entries[top:] if entry["true"]],
    }
