import numpy as np
import pytest
from ranking_cases import random_patients, ranked

from mera_hf.data.samples import Sample
from mera_hf.evaluation.rankings import ranked as ranked_module
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.sections.distance import measure
from mera_hf.icd import code_tree, sort_codes


CODES = sort_codes(
    [
        *("ICD9CM:250", "ICD9CM:250.00", "ICD9CM:250.01", "ICD9CM:250.40", "ICD9CM:251.2", "ICD9CM:272.4"),
        *("ICD9CM:428.0", "ICD9CM:428.1", "ICD9CM:280.9", "ICD9CM:285.9", "ICD10CM:E11.65", "ICD10CM:E11.9"),
        *("ICD10CM:I50.9", "ICD10CM:T81.4XXA"),
    ]
)


def wrong(true, predicted):
    """The figures of one patient with these true codes, to whom these other codes are predicted."""
    true, predicted = ([CODES.index(f"ICD9CM:{code}") for code in each] for each in (true, predicted))
    order = [*predicted, *(code for code in range(len(CODES)) if code not in predicted)]
    ranking = ranked(np.array([order]), np.array([len(predicted)]))
    patients = RankedPatients([Sample(0, [[0]], true, {})], CODES, {"mera": ranking})
    return measure(patients)["mera"]["eov"]


@pytest.mark.parametrize(
    ("code", "true", "steps", "share"),
    [
        ("250.00", "250.01", 1, "same_category"),  # up to 250.0
        ("250.00", "250.40", 2, "same_category"),  # 250.0, 250
        ("250.00", "250", 2, "same_category"),
        ("250", "250.00", 0, "same_category"),  # it holds the true code
        ("251.2", "250.00", 2, "same_block"),  # 251, 249-259
        ("272.4", "250.00", 3, "same_chapter"),  # 272, 270-279, 240-279
        ("250.00", "428.0", 5, "other_chapter"),  # 250.0, 250, 249-259, 240-279, the root
        ("280.9", "285.9", 2, "same_chapter"),  # 280, 280-289: a chapter without blocks
    ],
)
def test_by_hand(code, true, steps, share):
    figures = wrong([true], [code])
    assert (figures["wrong_codes"], figures["mean"], figures[share]) == (1, steps, 1.0)


def test_the_nearest_true_code_counts_and_true_codes_are_not_wrong():
    figures = wrong(["428.0", "250.01", "272.4"], ["250.00", "428.0", "428.1", "285.9"])
    # 250.00 one step from 250.01, 428.1 one from 428.0, 285.9 three (285, 280-289, the root) from all
    assert figures["wrong_codes"] == 3
    assert figures["mean"] == pytest.approx((1 + 1 + 3) / 3)
    assert figures["same_category"] == pytest.approx(2 / 3) and figures["other_chapter"] == pytest.approx(1 / 3)


def test_without_a_wrong_code_there_is_nothing_to_measure():
    assert wrong(["428.0", "250.01"], ["250.01", "428.0"]) == {"wrong_codes": 0}
    assert wrong(["428.0"], []) == {"wrong_codes": 0}


def brute_force(patients, name, sizes):
    steps, shares = [], []
    for sample, row, size in zip(patients.samples, patients.rankings[name].order, sizes, strict=True):
        for code in row[:size]:
            if code in sample.target:
                continue
            tree, own = code_tree(patients.codes[code]), patients.codes[code]
            path = [own, *reversed(tree.ancestors(own))]
            best = len(path), "other_chapter"
            for true in sample.target:
                other = patients.codes[true]
                holding = {other, *code_tree(other).ancestors(other)}
                up = next((up for up, node in enumerate(path) if node in holding), None)
                if up is not None:
                    level = tree.level(path[up])
                    best = min(best, (up, f"same_{level if level in ('block', 'chapter') else 'category'}"))
            steps.append(best[0])
            shares.append(best[1])
    return {"wrong_codes": len(steps), "mean": np.mean(steps)} | {
        share: np.mean([each == share for each in shares])
        for share in ("same_category", "same_block", "same_chapter", "other_chapter")
    }


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(seed, monkeypatch):
    monkeypatch.setattr(ranked_module, "BLOCK_PATIENTS", 7)
    patients = random_patients(np.random.default_rng(seed), 40, CODES)
    section = measure(patients)
    for name, ranking in patients.rankings.items():
        eov = section[name].pop("eov")
        assert section[name] == pytest.approx(brute_force(patients, name, patients.true_sizes))
        assert eov == pytest.approx(brute_force(patients, name, ranking.set_sizes))
        assert sum(eov[share] for share in eov if share not in ("wrong_codes", "mean")) == pytest.approx(1)
