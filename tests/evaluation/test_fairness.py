import numpy as np
import pytest
from ranking_cases import random_patients, ranked

from mera_hf.data.samples import Sample
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.sections.fairness import measure


CODES = [f"ICD9CM:{code}" for code in range(240, 280) if code not in (247, 248)]  # categories of one chapter


def groups(sizes, hit_share, seed=0):
    """Patients with one true code, which the ranker has first for some and last for the others, by group."""
    rng = np.random.default_rng(seed)
    samples, order = [], []
    for group, size in sizes.items():
        for _ in range(size):
            true = int(rng.integers(len(CODES)))
            others = [code for code in range(len(CODES)) if code != true]
            samples.append(Sample(len(samples), [[0]], [true], {"race": group}))
            order.append([true, *others] if rng.random() < hit_share[group] else [*others, true])
    order = np.array(order, dtype=np.int32)
    return RankedPatients(samples, CODES, {"mera": ranked(order, np.ones(len(order), dtype=int))})


def test_a_gap_is_found_and_named():
    patients = groups({"a": 300, "b": 300, "c": 300}, {"a": 0.9, "b": 0.7, "c": 0.3})
    gap = measure(patients, resamples=200)["race"]["recall@20"]
    assert (gap["best"], gap["worst"]) == ("a", "c") == (gap["held_out"]["best"], gap["held_out"]["worst"])
    assert gap["interval"][0] < gap["gap"] < gap["interval"][1] and gap["gap"] == pytest.approx(0.6, abs=0.1)
    held_out = gap["held_out"]
    assert 0 < held_out["interval"][0] < held_out["difference"] < held_out["interval"][1]
    width, wider = (ends[1] - ends[0] for ends in (gap["interval"], held_out["interval"]))
    assert wider == pytest.approx(width * 2**0.5, rel=0.25), "half the patients"


def test_the_gap_is_the_difference_of_the_groups_own_figures():
    patients = groups({"a": 150, "b": 250}, {"a": 0.5, "b": 0.8})
    gaps = measure(patients, resamples=2)["race"]
    order, sizes = patients.rankings["mera"].order, patients.rankings["mera"].set_sizes
    own = {}
    for group in "ab":
        rows = [i for i, sample in enumerate(patients.samples) if sample.profile["race"] == group]
        own[group] = evaluate_ranking(order[rows], sizes[rows], [patients.samples[i] for i in rows], (20,))
    assert gaps.keys() == {"recall@20", "weighted_f1", "weighted_f1_eov"}
    for metric, gap in gaps.items():
        assert gap["gap"] == pytest.approx(own[gap["best"]][metric] - own[gap["worst"]][metric], abs=1e-12)
        assert gap["gap"] >= 0


def test_without_a_difference_the_gap_leans_upward_and_the_held_out_difference_does_not():
    gaps, held_out = [], []
    for seed in range(30):
        patients = groups(dict.fromkeys("abcdef", 100), dict.fromkeys("abcdef", 0.5), seed)
        found = measure(patients, resamples=2, seed=seed)["race"]["recall@20"]
        gaps.append(found["gap"])
        held_out.append(found["held_out"]["difference"])
    assert np.mean(gaps) > 0.05
    assert abs(np.mean(held_out)) < np.mean(gaps) / 2 and min(held_out) < 0


def test_small_and_unknown_groups_take_no_part():
    shares = {"a": 0.9, "b": 0.5, "c": 0.1, None: 0.0}
    section = measure(groups({"a": 120, "b": 110, "c": 99, None: 150}, shares), resamples=2)
    assert {section["race"]["recall@20"][end] for end in ("best", "worst")} == {"a", "b"}
    assert measure(groups({"a": 120, "b": 99, None: 300}, shares), resamples=2) == {}
    assert measure(random_patients(np.random.default_rng(0)), resamples=2) == {}
    assert measure(groups({None: 200}, shares), resamples=2) == {}
