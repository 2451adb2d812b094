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
    import numpy as np

    profiles = profile_stratifications(patients)
    if not profiles:
        return {}
    strata = Strata(patients, profiles, ks=(20,))
    n = len(patients)
    half = np.zeros(n, dtype=bool)
    half[np.random.default_rng(seed).permutation(n)[: n // 2]] = True
    once = strata.resampled("mera", np.stack([np.ones(n), half, ~half], axis=1))
    draws = strata.resampled("mera", draw_patients(n, resamples, seed))
    of_second_half = np.zeros((n, resamples), dtype=np.float32)
    of_second_half[~half] = draw_patients(n - n // 2, resamples, seed)
    held_out_draws = strata.resampled("mera", of_second_half)

    section = {}
    for profile in profiles:
        groups = [
            i
            for i, (name, group) in enumerate(strata.labels)
            if name == profile.name and group != UNKNOWN and (strata.sizes[i] > 0).sum() >= FEWEST_PATIENTS
        ]
        if len(groups) < 2:
            continue
        section[profile.name] = {}
        for metric in [metric for metric in METRICS if metric in once]:
            whole, first, second = once[metric].T  # (groups,) each
            best, worst = _extremes(groups, whole)
            named_best, named_worst = _extremes(groups, first)
            section[profile.name][metric] = {
                "best": strata.labels[best][1],
                "worst": strata.labels[worst][1],
                "gap": float(whole[best] - whole[worst]),
                "interval": interval(draws[metric][best] - draws[metric][worst]),
                "held_out": {
                    "best": strata.labels[named_best][1],
                    "worst": strata.labels[named_worst][1],
                    "difference": float(second[named_best] - second[named_worst]),
                    "interval": interval(held_out_draws[metric][named_best] - held_out_draws[metric][named_worst]),
                },
            }
    return section


def _extremes(groups: list[int], values: np.ndarray) -> tuple[int, int]:
    """The group with the largest value and the one with the smallest."""
    return max(groups, key=lambda group: values[group]), min(groups, key=lambda group: values[group])
