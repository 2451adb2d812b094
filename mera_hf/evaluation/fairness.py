"""Gaps between groups of sex, age and race: how much better the ranker serves one than another (this project's choice).

The largest figure less the smallest, among groups of at least 100 patients, whose own intervals are some points wide already.
Such a gap is never negative and leans upward: among groups that are served alike, one is ahead by chance, the more so the more
groups there are and the smaller they are. The bootstrap interval of the same pair's difference has the same lean, since the
pair was chosen on the patients that it is measured on. `held_out` is free of it: the best and the worst group are named on a
random half of the patients, and their difference, which has a sign, is measured on the other half. Read a gap as one where the
interval of `held_out` lies above zero. It is wider, being that of half the patients.

A gap says that figures differ, not why: groups differ in how ill they are and in how many codes their visits have, and the
weighted F1 of a group also depends on how often its codes occur in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mera_hf.evaluation.ranked_patients import RankedPatients
from mera_hf.evaluation.strata import (
    RESAMPLES,
    UNKNOWN,
    Strata,
    Stratification,
    draw_patients,
    interval,
    profile_stratifications,
)


if TYPE_CHECKING:
    import numpy as np

FEWEST_PATIENTS = 100
METRICS = ("recall@20", "weighted_f1", "weighted_f1_eov")


def fairness_gaps(patients: RankedPatients, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """The section `fairness` of `metrics.json`, for `mera`.

    Args:
        patients (`RankedPatients`): the patients and their rankings.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): of the bootstrap and of the halves.

    Returns:
        `dict`: `{"sex" | "age" | "race": {metric: {"best", "worst", "gap", "interval", "held_out": {"best", "worst",
        "difference", "interval"}}}}`. A profile's part with fewer than two groups of 100 known patients is left out.
    """
    section = {}
    for profile in profile_stratifications(patients):
        gaps = _gaps(patients, profile, resamples, seed)
        if gaps:
            section[profile.name] = gaps
    return section


def _gaps(patients: RankedPatients, profile: Stratification, resamples: int, seed: int) -> dict:
    import numpy as np

    strata = Strata(patients, [profile], ks=(20,))
    counts = (strata.sizes > 0).sum(axis=1)  # (groups,) patients
    groups = [i for i, name in enumerate(profile.strata) if counts[i] >= FEWEST_PATIENTS and name != UNKNOWN]
    if len(groups) < 2:
        return {}
    n = len(patients)
    half = np.zeros(n, dtype=bool)
    half[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    again = np.zeros((n, resamples), dtype="f4")
    again[~half] = draw_patients(n - n // 2, resamples, seed)
    # All patients, either half, and then the draws
    fixed = strata.resampled("mera", np.stack([np.ones(n), half, ~half], axis=1))
    whole, first, second = ({metric: x[:, i] for metric, x in fixed.items()} for i in range(3))
    draws = strata.resampled("mera", draw_patients(n, resamples, seed))
    second_draws = strata.resampled("mera", again)

    def extremes(values: np.ndarray) -> tuple[int, int]:
        return max(groups, key=lambda group: values[group]), min(groups, key=lambda group: values[group])

    gaps = {}
    for metric in METRICS:
        if metric not in whole:
            continue
        best, worst = extremes(whole[metric])
        named_best, named_worst = extremes(first[metric])
        gaps[metric] = {
            "best": profile.strata[best],
            "worst": profile.strata[worst],
            "gap": float(whole[metric][best] - whole[metric][worst]),
            "interval": interval(draws[metric][best] - draws[metric][worst]),
            "held_out": {
                "best": profile.strata[named_best],
                "worst": profile.strata[named_worst],
                "difference": float(second[metric][named_best] - second[metric][named_worst]),
                "interval": interval(second_draws[metric][named_best] - second_draws[metric][named_worst]),
            },
        }
    return gaps
