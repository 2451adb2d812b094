"""The tree against co-occurrence and learned rows: every figure by hand or by brute force, planted structure and none."""

import copy
import itertools
import json

import numpy as np
import pytest
from cohort import write_visits
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score
from tiny import CODES, tiny_mera

from mera_hf.data.prepare import prepare
from mera_hf.data.prepared import Prepared
from mera_hf.data.samples import multi_hot
from mera_hf.errors import InputError
from mera_hf.experiments.ontology import agreement as measure
from mera_hf.experiments.ontology import finding, ontology_analysis, ontology_table, write_ontology
from mera_hf.experiments.ontology.analysis import code_embeddings, cosines
from mera_hf.experiments.ontology.cooccurrence import (
    Visits,
    company,
    cooccurrence,
    next_visit_pairs,
    positive_pmi,
    repeatability,
    visit_pairs,
)
from mera_hf.experiments.ontology.groupings import Grouping, flat_groupings, tree_distance, tree_levels
from mera_hf.experiments.ontology.misfits import _equal_classes, _random_groups, chapter_map, far_pairs, group_fit
from mera_hf.icd import ccs, ccsr, sort_codes


# Four chapters of six codes each, in two blocks of three
ICD9 = {
    "endocrine": ("242.9", "244.9", "245.2", "250.00", "250.60", "251.2"),
    "circulatory": ("401.9", "402.91", "403.90", "410.71", "411.1", "414.01"),
    "respiratory": ("486", "481", "482.9", "491.21", "493.90", "496"),
    "genitourinary": ("584.9", "585.9", "586", "599.0", "590.80", "592.0"),
}
ICD10 = {
    "endocrine": ("E03.9", "E05.90", "E06.3", "E10.9", "E11.9", "E11.65"),
    "circulatory": ("I10", "I11.0", "I12.9", "I20.0", "I21.4", "I25.10"),
    "respiratory": ("J18.9", "J15.9", "J13", "J44.1", "J44.9", "J45.909"),
    "genitourinary": ("N17.9", "N18.6", "N19", "N10", "N20.0", "N20.1"),
}


def analysed(folder, *args, **options):
    return ontology_analysis(Prepared.open(folder), *args, **options)


def hot(visits, codes, patients=None):
    return Visits(multi_hot(visits, codes), np.array([0] * len(visits) if patients is None else patients))


def random_visits(rng, codes=9, visits=200):
    return hot(
        [rng.choice(codes, size=rng.integers(1, 5), replace=False).tolist() for _ in range(visits)],
        codes,
        np.sort(rng.integers(0, 60, size=visits)),
    )


def random_likeness(rng, n):
    values = rng.normal(size=(n, n)).round(1)  # with ties
    return np.triu(values, 1) + np.triu(values, 1).T


def planted_rows(groups, version="9", patients=240, seed=0, prefix="p"):
    """Rows of a visits table: a patient's visits hold codes of one group, and now and then any code."""
    rng = np.random.default_rng(seed)
    groups, every = list(groups), list(itertools.chain(*groups))
    rows = []
    for patient in range(patients):
        group = groups[patient % len(groups)]
        for visit in range(1, 4):
            codes = {*rng.choice(group, 3, replace=False), *([rng.choice(every)] if rng.random() < 0.3 else [])}
            rows += [
                [f"{prefix}{patient}", str(visit), f"201{visit}-01-01", str(code), version, "F", "50", "White"]
                for code in sorted(codes)
            ]
    return rows


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """From a name and rows to a prepared folder."""

    def folder(name, rows):
        root = tmp_path_factory.mktemp(name)
        prepare("visits_csv", write_visits(root / "visits.csv", rows), root / "prepared")
        return root / "prepared"

    return folder


@pytest.fixture(scope="module")
def planted(prepared):
    return prepared("planted", planted_rows(ICD9.values()))


@pytest.fixture(scope="module")
def planted_result(planted):
    return analysed(planted)


@pytest.fixture(scope="module")
def shuffled_result(prepared):
    """The same visits, but codes have traded places, so that the tree says nothing."""
    every = np.random.default_rng(1).permutation(list(itertools.chain(*ICD9.values())))
    return analysed(prepared("shuffled", planted_rows(every.reshape(4, 6).tolist())))


# Co-occurrence


def test_pmi_by_hand():
    # Pairs: a-b twice, a-c once, b-c once; a and b are in 3 each, c in 2, of 8 counted from both sides
    visits = hot([[0, 1], [0, 1, 2], [3]], 4)
    together, chance = visit_pairs(visits)
    assert together.tolist() == [[0, 2, 1, 0], [2, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert chance[0].tolist() == [0, 9 / 8, 6 / 8, 0]
    pmi = positive_pmi(together, chance)
    assert pmi[0, 1] == pytest.approx(np.log(3 / (17 / 8)))
    assert pmi[0, 2] == pytest.approx(np.log(2 / (14 / 8)))
    assert not pmi[3].any() and not pmi.diagonal().any()
    # b and c both know a, and each other, which does not count
    assert company(pmi)[1, 2] == pytest.approx(
        pmi[0, 1] * pmi[0, 2] / (np.hypot(pmi[0, 1], pmi[1, 2]) * np.hypot(pmi[0, 2], pmi[1, 2]))
    )


def test_less_often_than_by_chance_counts_as_chance():
    assert positive_pmi(np.array([0.0, 3.0]), np.array([5.0, 3.0])).tolist() == [0, 0]


def test_pairs_by_brute_force():
    visits = random_visits(np.random.default_rng(0))
    rows = [set(row.nonzero()[0]) for row in visits.table.toarray()]
    same, following = np.zeros((9, 9)), np.zeros((9, 9))
    for i, row in enumerate(rows):
        for a, b in itertools.permutations(row, 2):
            same[a, b] += 1
        if i + 1 < len(rows) and visits.patient[i] == visits.patient[i + 1]:
            for a, b in itertools.product(row, rows[i + 1]):
                following[a, b] += a != b
    together, chance = visit_pairs(visits)
    assert np.array_equal(together, same)
    expected = np.outer(same.sum(1), same.sum(0)) / same.sum()
    assert np.allclose(chance, expected * (1 - np.eye(9)))
    together, chance = next_visit_pairs(visits)
    expected = np.outer(following.sum(1), following.sum(0)) / following.sum() * (1 - np.eye(9))
    assert np.array_equal(together, following + following.T)
    assert np.allclose(chance, expected + expected.T)


def test_no_pairs_across_patients_nor_without_any():
    visits = hot([[0], [1], [2], [0]], 3, patients=[0, 1, 1, 2])
    together, _ = next_visit_pairs(visits)
    assert together.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    alone = hot([[0], [1]], 3, patients=[0, 1])
    assert not any(values.any() for values in cooccurrence(alone).values())
    assert repeatability(alone) == {}


def test_what_repeats_is_a_rule_and_not_noise():
    rng = np.random.default_rng(0)
    ruled = [rng.choice(5, 2, replace=False) + 5 * (i % 4) for i in range(1200)]
    noise = [rng.choice(20, 2, replace=False) for _ in range(1200)]
    shares = [
        repeatability(hot([v.tolist() for v in visits], 20, np.arange(1200)))["visit"] for visits in (ruled, noise)
    ]
    assert shares[0] > 0.6 and shares[1] < 0.3


# Distances


def test_tree_distance_by_hand():
    codes = [f"ICD9CM:{code}" for code in ("250", "250.01", "250.03", "250.1", "285.9", "401.9")]
    assert tree_levels(codes) == ["chapter", "block", "category", "subcategory1", "subcategory2"]
    distance = tree_distance(codes)
    # A code that is itself a category is as far from what is below it as that is from other branches
    assert distance[0].tolist() == [0, 2, 2, 2, 5, 5]
    assert distance[1].tolist() == [2, 0, 1, 2, 5, 5]
    assert np.array_equal(distance, distance.T)


@pytest.mark.parametrize("version, groups", [("ICD9CM", ICD9), ("ICD10CM", ICD10)])
def test_tree_distance_is_ultrametric(version, groups):
    codes = sort_codes(f"{version}:{code}" for code in itertools.chain(*groups.values()))
    distance = tree_distance(codes)
    upper = np.triu_indices(len(codes), 1)
    # A dendrogram keeps an ultrametric distance as it is
    assert np.array_equal(cophenet(linkage(distance[upper], "single")), distance[upper])


def test_groupings_are_those_of_the_tables():
    codes = sort_codes(f"ICD10CM:{code}" for code in itertools.chain(*ICD10.values()))
    groupings = flat_groupings(codes)
    assert list(groupings) == ["chapter", "block", "category", "ccs", "ccsr"]
    for name, of in (("ccs", lambda code: " ".join(ccs(code))), ("ccsr", ccsr)):
        assert [groupings[name].names[label] for label in groupings[name].labels] == [of(code) for code in codes]
    codes = ["ICD9CM:250", "ICD9CM:250.00", "ICD9CM:285.9"]
    groupings = flat_groupings(codes)
    assert list(groupings) == ["chapter", "block", "category", "ccs"]
    assert groupings["ccs"].labels.tolist() == [-1, 0, 1]  # the codes below 250 are in several groups of CCS
    assert groupings["block"].labels.tolist() == [0, 0, -1]  # this chapter has no blocks
    assert groupings["category"].shared == 1 and groupings["ccs"].known.tolist() == [1, 2]


# Agreement


def test_correlations_are_those_of_scipy_and_pearson_is_the_cophenetic_one():
    rng = np.random.default_rng(0)
    codes = sort_codes(f"ICD9CM:{code}" for code in itertools.chain(*ICD9.values()))
    distance, likeness = tree_distance(codes), random_likeness(rng, 24)
    upper = np.triu_indices(24, 1)
    found = measure.agreement(distance, likeness)
    assert found["spearman"] == pytest.approx(spearmanr(distance[upper], -likeness[upper]).statistic)
    # scipy's coefficient of the dendrogram that the tree is
    coefficient, _ = cophenet(linkage(distance[upper], "single"), -likeness[upper])
    assert found["pearson"] == pytest.approx(coefficient)
    best = measure.agreement(distance, -distance.astype(float))
    assert best["explained"] == pytest.approx(1) and best["explainable"] == pytest.approx(1)
    assert found["explained"] < found["explainable"] <= 1


def test_explainable_is_what_no_order_of_the_pairs_exceeds():
    rng = np.random.default_rng(0)
    distance = (np.arange(8)[:, None] // 4 != np.arange(8)[None, :] // 4).astype(int)
    likeness = random_likeness(rng, 8)
    upper = np.triu_indices(8, 1)
    limit = measure.agreement(distance, likeness)["explainable"]
    for _ in range(200):
        assert spearmanr(distance[upper], rng.permutation(likeness[upper])).statistic ** 2 <= limit + 1e-12


def test_permutations_by_brute_force(monkeypatch):
    monkeypatch.setattr(measure, "PERMUTATIONS", 20)
    rng = np.random.default_rng(0)
    distance, likeness = tree_distance(CODES), random_likeness(rng, len(CODES))
    upper = np.triu_indices(len(CODES), 1)
    orders = np.random.default_rng(5)
    expected = []
    for _ in range(20):
        order = orders.permutation(len(CODES))
        expected.append(spearmanr(distance[upper], -likeness[np.ix_(order, order)][upper]).statistic)
    assert np.allclose(measure.permuted_correlations(distance, likeness, seed=5), expected)


def test_bootstrap_by_brute_force(monkeypatch):
    monkeypatch.setattr(measure, "REPLICATES", 30)
    rng = np.random.default_rng(0)
    distance, likeness = tree_distance(CODES), random_likeness(rng, len(CODES))
    x, y = measure._ranks(distance), measure._ranks(-likeness)
    expected = []
    for draw in measure._draws(len(CODES), seed=3).astype(int):
        drawn = np.repeat(np.arange(len(CODES)), draw)
        pairs = [(a, b) for a, b in itertools.combinations(drawn, 2) if a != b]
        expected.append(pearsonr([x[pair] for pair in pairs], [y[pair] for pair in pairs]).statistic)
    assert np.allclose(measure.bootstrap(distance, likeness, seed=3), expected)


def test_bootstrap_of_the_area_under_the_curve(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(15), 4)
    distance = (labels[:, None] != labels[None, :]).astype(int)
    likeness = random_likeness(rng, 60) + 0.8 * (distance == 0)
    np.fill_diagonal(likeness, 0)
    upper = np.triu_indices(60, 1)
    same = distance[upper] == 0
    exact = roc_auc_score(same, likeness[upper])
    assert measure.contrast(distance, likeness)["auc"] == exact
    drawn = measure.bootstrap_auc(distance, likeness, seed=2)[:100]
    expected = [
        roc_auc_score(same, likeness[upper], sample_weight=draw[upper[0]] * draw[upper[1]])
        for draw in measure._draws(60, seed=2)[:100]
    ]
    assert np.corrcoef(drawn, expected)[0, 1] > 0.98
    assert np.abs(drawn - expected).mean() < 0.01
    monkeypatch.setattr(measure, "_draws", lambda n, seed: np.ones((2, n)))
    assert measure.bootstrap_auc(distance, likeness) == pytest.approx(exact)
    assert measure.bootstrap(distance, likeness) == pytest.approx(
        spearmanr(distance[upper], -likeness[upper]).statistic
    )
    # Where every pair within is above every pair between, no draw says otherwise
    assert (measure.bootstrap_auc(distance, 1.0 - distance) == 1).all()


def test_contrast_by_hand():
    distance = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    likeness = np.array([[0, 5, 1, 2], [5, 0, 2, 1], [1, 2, 0, 2], [2, 1, 2, 0]], dtype=float)
    found = measure.contrast(distance, likeness)
    assert found["pairs_within"] == 2
    assert (found["within"], found["between"]) == (3.5, 1.5)
    assert found["auc"] == (4 + 2 + 2 * 0.5) / 8


def test_by_level_by_hand(monkeypatch):
    monkeypatch.setattr(measure, "FEWEST_PAIRS", 2)
    codes = [f"ICD9CM:{code}" for code in ("250.00", "250.01", "250.02", "401.9")]
    likeness = np.array([[0, 1, 2, 9], [1, 0, 3, 7], [2, 3, 0, 5], [9, 7, 5, 0]], dtype=float)
    seen, expected = np.full((4, 4), 3.0), np.full((4, 4), 2.0)
    nothing, siblings = measure.by_level(tree_levels(codes), tree_distance(codes), likeness, (seen, expected))
    assert (nothing["shared"], nothing["pairs"], nothing["mean"], nothing["lift"]) == (None, 3, 7, 1.5)
    assert (siblings["shared"], siblings["mean"], siblings["quantiles"][2]) == ("subcategory1", 2, 2)
    monkeypatch.setattr(measure, "FEWEST_PAIRS", 4)
    rows = measure.by_level(tree_levels(codes), tree_distance(codes), likeness, None)
    assert rows == [{"shared": None, "pairs": 3}, {"shared": "subcategory1", "pairs": 3}]


def test_clusters_find_planted_groups_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    grouping = {"block": Grouping(labels, [str(label) for label in range(6)])}
    same = labels[:, None] == labels[None, :]
    distance = grouping["block"].distance()
    planted = measure.clustering(same + 0.1 * random_likeness(rng, 30), distance, grouping)
    assert planted["ami"]["block"] == pytest.approx(1) and planted["tree"] > 0.5
    noise = measure.clustering(random_likeness(rng, 30), distance, grouping)
    assert abs(noise["ami"]["block"]) < 0.2 and abs(noise["tree"]) < 0.2
    assert measure.clustering(np.zeros((30, 30)), distance, grouping) is None


def test_the_better_grouping_wins_and_equal_ones_do_not():
    rng = np.random.default_rng(0)
    right, wrong = np.repeat(np.arange(10), 4), np.tile(np.arange(10), 4)
    groupings = [Grouping(labels, [str(label) for label in range(10)]) for labels in (right, wrong)]
    likeness = (right[:, None] == right[None, :]) + random_likeness(rng, 40)
    found = measure.compare_groupings(*groupings, likeness)
    assert found["interval"][0] > 0 and found["auc"][0] - found["auc"][1] == found["difference"]
    assert measure.compare_groupings(groupings[0], groupings[0], likeness)["interval"] == [0, 0]
    without = Grouping(np.full(40, -1), [])
    assert measure.compare_groupings(groupings[0], without, likeness) is None
    assert measure.compare_groupings(groupings[0], Grouping(np.arange(40), []), likeness) is None


# Misfits


def test_group_fit_by_brute_force():
    rng = np.random.default_rng(0)
    likeness = random_likeness(rng, 20)
    labels = np.array([0] * 4 + [1] * 3 + [2] * 2 + [-1] * 11)
    # What group 0 holds is alike
    likeness[:4, :4] += 3 * (1 - np.eye(4))
    counts = (np.full((20, 20), 2.0), np.full((20, 20), 4.0))
    frequency = np.random.default_rng(1).permutation(20)
    worst, best = group_fit(Grouping(labels, ["a", "b", "c"]), likeness, counts, frequency)
    assert (worst["group"], best["group"]) == ("b", "a")  # c has two codes and is not measured
    assert best["within"] == pytest.approx(np.mean([likeness[pair] for pair in itertools.combinations(range(4), 2)]))
    assert best["lift"] == 0.5 and best["z"] > 3 > worst["z"]
    assert best["nearest"] == {"group": "b", "likeness": pytest.approx(likeness[:4, 4:7].mean())}
    assert best["chance_range"][0] <= best["chance"] <= best["chance_range"][1]


def test_random_groups_have_the_frequencies_of_the_group():
    classes = _equal_classes(np.array([9, 1, 8, 2, 7, 3, 6, 4, 5, 0]))
    assert classes.tolist() == [4, 0, 4, 1, 3, 1, 3, 2, 2, 0]
    groups = _random_groups(np.array([0, 1, 2]), classes, np.random.default_rng(0))
    assert all(sorted(classes[group]) == [0, 4, 4] and len(set(group)) == 3 for group in groups)
    assert {tuple(sorted(group)) for group in groups} == {(0, 1, 2), (0, 2, 9)}


def test_far_pairs_need_ten_patients_and_not_ten_visits():
    codes = [f"ICD9CM:{code}" for code in ("250.00", "250.02", "401.9", "486")]
    visits, patients = [], []
    for patient in range(10):  # ten patients once, siblings too
        visits += [[0, 2], [0, 1]]
        patients += [patient] * 2
    for patient in range(10, 19):  # nine patients, thirty-six visits
        visits += [[1, 3]] * 4
        patients += [patient] * 4
    table = hot(visits, 4, patients)
    counts = visit_pairs(table)
    found = far_pairs(codes, ["a", "b", "c", "d"], tree_distance(codes), table, counts, positive_pmi(*counts))
    assert [(pair["codes"], pair["patients"]) for pair in found] == [(["ICD9CM:250.00", "ICD9CM:401.9"], 10)]
    assert found[0]["descriptions"] == ["a", "c"]
    assert found[0]["lift"] == pytest.approx(10 / (20 * 10 / 112))


def test_chapters_by_hand():
    grouping = Grouping(np.array([0, 0, 0, 1, 1, 1, 2]), ["a", "b", "small"])
    seen, expected = np.ones((7, 7)) - np.eye(7), np.full((7, 7), 0.5) * (1 - np.eye(7))
    found = chapter_map(grouping, (seen, expected))
    assert found["chapters"] == ["a", "b"]
    assert found["log2_lift"][0] == pytest.approx([np.log2(4 / 2.5), np.log2(10 / 5.5)])


# The whole


def test_a_planted_tree_is_found(planted_result):
    compared = planted_result["versions"]["ICD9CM"]
    assert compared["codes"] == 24 and compared["left_out"] == 0
    for name in ("visit", "next_visit", "company"):
        tree = compared["likeness"][name]["agreement"]["tree"]
        assert tree["p"] == 0.001 and tree["interval"][0] > 0.3 and tree["z"] > 5
        assert compared["likeness"][name]["agreement"]["chapter"]["auc"] > 0.9
        assert compared["likeness"][name]["repeatability"] > 0.3
    rows = {row["shared"]: row for row in compared["likeness"]["visit"]["by_level"]}
    assert rows[None]["lift"] < 0.5 < 2 < rows["chapter"]["lift"]
    assert min(group["z"] for group in compared["groups"]["chapter"]) > 2
    chapters = np.array(compared["chapters"]["log2_lift"])
    assert chapters.diagonal().min() > 1 > 0 > (chapters - 9 * np.eye(len(chapters))).max()
    assert "explains" in finding("ICD9CM", compared)


def test_a_shuffled_tree_is_not(shuffled_result):
    compared = shuffled_result["versions"]["ICD9CM"]
    for name in ("visit", "next_visit", "company"):
        tree = compared["likeness"][name]["agreement"]["tree"]
        assert tree["p"] > 0.05 and tree["interval"][0] < 0 < tree["interval"][1]
        assert tree["explained"] < 0.05
        # The visits have structure all the same
        assert compared["likeness"][name]["repeatability"] > 0.3
    assert max(group["z"] for group in compared["groups"]["chapter"]) < 2.5
    assert compared["far_pairs"] and "cannot be told from chance" in finding("ICD9CM", compared)


def test_a_planted_misfit_is_the_worst_group(prepared):
    # The second block of the endocrine chapter goes with three other chapters
    groups = [list(group) for group in ICD9.values()]
    strays = groups[0][3:]
    mixed = [groups[0][:3], *([*group, stray] for group, stray in zip(groups[1:], strays, strict=True))]
    compared = analysed(prepared("misfit", planted_rows(mixed)))["versions"]["ICD9CM"]
    worst = compared["groups"]["block"][0]
    assert worst["group"].startswith("249-259") and worst["z"] < 0 < compared["groups"]["block"][1]["z"]
    assert any(f"ICD9CM:{stray}" in pair["codes"] for stray in strays for pair in compared["far_pairs"])
    assert all(pair["patients"] >= 10 for pair in compared["far_pairs"])


def test_the_same_seed_gives_the_same_figures_and_another_moves_only_intervals_and_chance(planted, planted_result):
    assert analysed(planted) == planted_result
    other = analysed(planted, seed=1)["versions"]["ICD9CM"]["likeness"]["visit"]["agreement"]["tree"]
    tree = planted_result["versions"]["ICD9CM"]["likeness"]["visit"]["agreement"]["tree"]
    assert other["spearman"] == tree["spearman"] and other["interval"] != tree["interval"]


def test_only_train_visits_count(planted, planted_result):
    report = json.loads((planted / "prepare.json").read_text())
    assert planted_result["dataset"]["patients"] == report["splits"]["train"]["patients"]
    assert planted_result["dataset"]["visits"] == report["splits"]["train"]["visits"]
    assert planted_result["dataset"]["visits"] < report["cohort"]["visits"]


def test_both_versions_each_for_itself(prepared, planted_result):
    rows = planted_rows(ICD9.values()) + planted_rows(ICD10.values(), version="10", prefix="q", patients=200)
    result = analysed(prepared("mixed", rows))
    assert list(result["versions"]) == ["ICD9CM", "ICD10CM"] and result["too_small"] == {}
    ten = result["versions"]["ICD10CM"]["likeness"]["visit"]
    assert ten["agreement"]["tree"]["p"] == 0.001 and "ccsr" in ten["agreement"]
    assert "ccsr" not in result["versions"]["ICD9CM"]["likeness"]["visit"]["agreement"]
    # Other versions beside it change nothing: the split goes by patient
    ours, alone = (some["versions"]["ICD9CM"]["likeness"]["visit"] for some in (result, planted_result))
    assert ours["agreement"] == alone["agreement"]
    table = ontology_table(result)
    assert "plots/icd9cm_chapters.png" in table and "plots/icd10cm_chapters.png" in table


def test_a_version_with_few_codes_is_said_and_not_measured(prepared):
    rows = planted_rows(ICD9.values()) + planted_rows([ICD10["endocrine"]], version="10", prefix="q")
    result = analysed(prepared("few", rows))
    assert list(result["versions"]) == ["ICD9CM"] and result["too_small"] == {"ICD10CM": 6}
    assert "ICD-10-CM is left out: 6 of its codes" in ontology_table(result)


def test_too_few_codes_are_refused_with_the_fix(prepared, planted):
    folder = prepared("small", planted_rows([ICD9["endocrine"]]))
    with pytest.raises(InputError, match="ICD-9-CM has 6 such codes, and 20 are needed.*lower `min_visits`"):
        analysed(folder)
    with pytest.raises(InputError, match="100000 visits and 10 patients.*ICD-9-CM has 0 such codes"):
        analysed(planted, min_visits=100000)
    with pytest.raises(InputError, match="`min_visits` is 0"):
        analysed(planted, min_visits=0)
    with pytest.raises(InputError, match="is not a prepared dataset"):
        analysed(folder.parent)


def test_codes_that_never_meet_are_not_compared(prepared, tmp_path):
    rows = np.random.default_rng(0).permutation(planted_rows(ICD9.values(), patients=600)).tolist()
    alone = sorted({(row[0], row[1]): row for row in rows}.values())  # one code a visit
    result = analysed(prepared("alone", alone))
    compared = result["versions"]["ICD9CM"]
    assert compared["likeness"]["visit"]["agreement"]["tree"] is None
    assert compared["likeness"]["visit"]["clustering"] is None
    assert compared["likeness"]["visit"]["repeatability"] is None
    assert "too few of them share a group, or occur together" in finding("ICD9CM", compared)
    assert compared["groups"]["chapter"] == [] and compared["far_pairs"] == []
    names = write_ontology(result, tmp_path)
    assert "too few" in (tmp_path / "table.md").read_text() and "plots/icd9cm_worst_groups.png" not in names


# With a model


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_rows_of_a_model(family):
    model, _ = tiny_mera(family)
    chosen = CODES[3:9]
    found = code_embeddings(chosen, chosen, model)
    start = model.config.code_token_start + 3
    assert np.allclose(found["output_rows"], model.get_output_embeddings().weight[start : start + 6].detach())
    if family == "llama":
        assert np.allclose(found["input_rows"], model.get_input_embeddings().weight[start : start + 6].detach())
    else:
        assert "input_rows" not in found  # the same numbers would say the same twice
    with pytest.raises(InputError, match="`model` lacks 1 codes of the dataset, ICD9CM:001.1"):
        code_embeddings([*chosen, "ICD9CM:001.1"], [""] * 7, model)


def test_cosines_by_hand():
    rows = np.array([[2.0, 1.0], [4.0, 1.0], [3.0, 3.0], [3.0, -1.0]])  # around (3, 1)
    assert cosines(rows).round(9).tolist()[0] == [1, -1, 0, 0]


def test_a_model_is_compared_too(planted, tmp_path):
    from tiny import FAMILIES, texts

    from mera_hf.training.code_tokens import add_code_tokens
    from mera_hf.training.from_scratch import from_scratch

    model, tokenizer = from_scratch(FAMILIES["llama"], texts(), 0)
    codes = Prepared.open(planted).codes
    add_code_tokens(model, tokenizer, codes, initialise="random")
    # Rows that know the chapter
    chapters = flat_groupings(codes)["chapter"].labels
    start = model.config.code_token_start
    model.get_output_embeddings().weight.data[start : start + len(codes), :4] += 0.5 * np.eye(4)[chapters].astype("f4")
    before = copy.deepcopy(model.state_dict())
    result = analysed(planted, model)
    compared = result["versions"]["ICD9CM"]
    assert compared["likeness"]["output_rows"]["agreement"]["tree"]["p"] == 0.001
    assert compared["likeness"]["input_rows"]["agreement"]["tree"]["p"] > 0.05  # random, and nobody touched them
    assert compared["correlations"]["output_rows"]["company"] > 0.3
    assert compared["correlations"]["output_rows"]["output_rows"] == pytest.approx(1)
    assert "model's rows of two codes" in finding("ICD9CM", compared)
    assert all((before[name] == tensor).all() for name, tensor in model.state_dict().items())
    names = write_ontology(result, tmp_path)
    assert "plots/icd9cm_rows_by_level.png" in names


# Files


def test_files_say_the_same_and_nothing_is_left_behind(planted_result, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "table.md").write_text("an older one")
    names = write_ontology(planted_result, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == set(names)
    plots = {"groupings", "together_by_level", "worst_groups", "chapters"}
    assert {name for name in names if name.startswith("plots/")} == {f"plots/icd9cm_{plot}.png" for plot in plots}
    assert json.loads((tmp_path / "ontology.json").read_text()) == planted_result
    table = (tmp_path / "table.md").read_text()
    compared = planted_result["versions"]["ICD9CM"]
    assert finding("ICD9CM", compared) in table and "an older one" not in table
    tree = compared["likeness"]["visit"]["agreement"]["tree"]
    assert f"| {tree['spearman']:.3f} [{tree['interval'][0]:.3f}, {tree['interval'][1]:.3f}] |" in table
    assert f"| {100 * tree['explained']:.2f} |" in table
    for plot in plots:  # each with an alternative text
        assert f"](plots/icd9cm_{plot}.png)" in table and f"![](plots/icd9cm_{plot}.png)" not in table
    for block in table.split("\n\n"):  # every row has the cells of its heading
        if block.startswith("| "):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_no_patient_in_the_result(planted_result):
    text = json.dumps(planted_result)
    assert '"p0"' not in text and '"p17"' not in text
    assert all(pair["patients"] >= 10 for pair in planted_result["versions"]["ICD9CM"]["far_pairs"])
