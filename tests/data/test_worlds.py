"""The worlds: each has what it says, the control has not, and the truth that they know is the truth. By simple counts."""

import math
import re
from collections import Counter, defaultdict
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest
import yaml
from datasets import Dataset
from scipy.stats import spearmanr

from mera_hf.cli.main import main
from mera_hf.data.codes import normalize_codes
from mera_hf.data.cohort import select_cohort
from mera_hf.data.prepare import check_raw_files, prepare
from mera_hf.data.prepared import Prepared, load_prepared, read_report
from mera_hf.data.schema import VISITS_FEATURES, check_visits
from mera_hf.data.sources import worlds as source
from mera_hf.data.splits import random_split
from mera_hf.data.worlds import PARTS, PLACES, SIDES, WORLDS, World
from mera_hf.errors import InputError
from mera_hf.icd import IcdTree, sort_codes


PATIENTS = 400
KINDS = ("family", "quartet", "frequent", "rare", "background")
TREE = IcdTree.load("ICD10CM")
OTHERS = [name for name in WORLDS if name != "nothing"]


@cache
def world(name):
    return World(name)


@cache
def cohort(name):
    return [world(name).patient(number) for number in range(PATIENTS)]


def targets(name):
    """Each visit but the first of each patient, with the visits before it."""
    return [(patient[:at], patient[at]) for patient in cohort(name) for at in range(1, len(patient))]


def kinds(name="nothing"):
    """The kind of each code, and its place there: family and child, quartet and letter, place and number."""
    of, codes = {}, world(name).codes
    for kind, groups in (
        ("family", world(name).families),
        ("quartet", world(name).quartets),
        ("frequent", world(name).frequent),
        ("rare", world(name).rare),
    ):
        of |= {codes[index]: (kind, row, at) for row, group in enumerate(groups) for at, index in enumerate(group)}
    return of | {codes[index]: ("background", 0, at) for at, index in enumerate(world(name).background)}


def split(visit, of):
    """The codes of a visit by kind, each as its place."""
    found = defaultdict(list)
    for code in visit:
        kind, row, at = of[code]
        found[kind].append((row, at))
    return found


def recall(name, judge, k=20):
    """Mean recall@k of the last visits of a world, in the order of what `judge`, a world of the same codes, knows."""
    codes = np.array(world(name).codes)
    shares = []
    for *history, last in cohort(name):
        first = codes[world(judge).probabilities(history).argsort()[::-1][:k]]
        shares.append(len(set(first) & set(last)) / len(last))
    return np.mean(shares)


def test_the_codes_are_4000_billable_ones_of_four_kinds():
    codes = world("nothing").codes
    assert codes == sort_codes(codes) and len(set(codes)) == 4_000 == len(kinds())
    assert all(TREE.is_billable(code) for code in codes)
    assert all(world(name).codes == codes for name in OTHERS)
    assert set(World("nothing", seed=1).codes) != set(codes)


def test_families_are_whole_categories():
    codes = world("nothing").codes
    assert len(world("nothing").families) == 40
    for family in world("nothing").families:
        children = tuple(codes[index] for index in family)
        category = TREE.parent(children[0])
        assert TREE.level(category) == "category" and TREE.children(category) == children and 3 <= len(children) <= 5
        assert sum(TREE.ancestor(code, "category") == category for code in codes) == len(children)


def test_words_are_in_the_descriptions_and_the_tree_does_not_tell_them():
    here = world("nothing")
    words = [set(re.findall("[a-z]+", TREE.description(code).lower())) for code in here.codes]
    category = [TREE.ancestor(code, "category") for code in here.codes]
    assert len(PLACES) == 28
    for place, frequent, rare in zip(PLACES, here.frequent, here.rare, strict=True):
        assert all(words[index] & {*SIDES, *PARTS} == {*place} for index in (*frequent, *rare))
        assert not {category[index] for index in frequent} & {category[index] for index in rare}
    held = {*here.frequent.ravel(), *here.rare.ravel()}
    assert not any(words[index] & {*PARTS} for index in range(4_000) if index not in held)

    # The place of a rare code, guessed from the other rare codes of its category
    count = defaultdict(Counter)
    for place, rare in enumerate(here.rare):
        for index in rare:
            count[category[index]][place] += 1
    right = 0
    for place, rare in enumerate(here.rare):
        for index in rare:
            others = count[category[index]] - Counter([place])
            right += bool(others) and others.most_common(1)[0][0] == place
    assert right / here.rare.size < 0.2


@pytest.mark.parametrize("name", WORLDS)
def test_visits_are_as_described(name):
    of = kinds(name)
    for patient in cohort(name):
        assert 2 <= len(patient) <= 8
        lasting = set()
        for visit in patient:
            assert visit == sort_codes(set(visit))
            found = split(visit, of)
            assert {kind: len(found[kind]) for kind in KINDS[:-1]} == {
                "family": 2,
                "quartet": 2,
                "frequent": 1,
                "rare": 1,
            }
            assert 1 <= len(found["background"]) <= 30
            assert len({row for row, _ in found["family"]}) == 2
            assert sorted(letter > 1 for _, letter in found["quartet"]) == [False, True]
            lasting.add(
                (
                    frozenset(row for row, _ in found["family"]),
                    frozenset(row for row, _ in found["quartet"]),
                    found["frequent"][0][0],
                )
            )
        assert len(lasting) == 1


@pytest.mark.parametrize("name", WORLDS)
def test_cohorts_have_the_shape_of_hospital_data(name):
    visits = [visit for patient in cohort(name) for visit in patient]
    assert 12 < np.mean([len(visit) for visit in visits]) < 14
    assert 2.5 < len(visits) / PATIENTS < 3.5
    repeated = [len(set(visit) & set().union(*history)) / len(visit) for history, visit in targets(name)]
    assert 0.4 < np.mean(repeated) < 0.6
    shares = np.sort([*Counter(code for visit in visits for code in visit).values()])[::-1] / len(visits)
    assert shares[0] > 0.2 and np.median(shares) < 0.005
    # A straight line between the logarithms of rank and prevalence
    ranks = np.arange(1, 301)
    slope, _ = np.polyfit(np.log(ranks), np.log(shares[:300]), 1)
    assert -1.2 < slope < -0.5


@pytest.mark.parametrize("name", OTHERS)
def test_worlds_of_a_seed_differ_in_what_is_planted_alone(name):
    of = kinds()

    def rest(visit):
        planted = {
            "sizes": lambda kind, at: kind == "background",
            "siblings": lambda kind, at: kind == "family",
            "meaning": lambda kind, at: kind == "rare",
            "order": lambda kind, at: kind == "quartet" and at > 1,
        }[name]
        return [code for code in visit if not planted(of[code][0], of[code][2])]

    assert cohort(name) != cohort("nothing")
    for here, control in zip(cohort(name), cohort("nothing"), strict=True):
        assert [rest(visit) for visit in here] == [rest(visit) for visit in control]


def test_sizes_follow_from_the_history_in_their_world_alone():
    truth = [len(visit) for _, visit in targets("sizes")]
    guesses = [world("sizes").expected_size(history) for history, _ in targets("sizes")]
    assert spearmanr(guesses, truth).statistic > 0.85
    assert np.mean(guesses) == pytest.approx(np.mean(truth), abs=0.3)
    for name in WORLDS:
        before, after = zip(*((len(history[-1]), len(visit)) for history, visit in targets(name)), strict=True)
        assert (abs(spearmanr(before, after).statistic) < 0.12) == (name != "sizes")
        if name != "sizes":
            assert np.ptp([world(name).expected_size(history) for history, _ in targets(name)[:20]]) < 1e-9


def test_the_same_sizes_in_every_world():
    sizes = [np.sort([len(patient[0]) for patient in cohort(name)]) for name in ("sizes", "nothing")]
    assert abs(np.percentile(sizes[0], [25, 50, 75]) - np.percentile(sizes[1], [25, 50, 75])).max() <= 1


def test_the_expected_size_is_that_of_bayes():
    """Against plain sums over fine steps of s."""
    normal = NormalDist()

    def chance(count, s):
        low = -math.inf if count == 1 else math.log((count - 0.5) / 6) / 0.6
        high = math.inf if count == 30 else math.log((count + 0.5) / 6) / 0.6
        return normal.cdf((high - 0.9**0.5 * s) / 0.1**0.5) - normal.cdf((low - 0.9**0.5 * s) / 0.1**0.5)

    steps = [step / 100 for step in range(-600, 601)]
    history = [["a"] * 20, ["b"] * 11]
    weights = [normal.pdf(s) * chance(14, s) * chance(5, s) for s in steps]
    expected = sum(w * n * chance(n, s) for w, s in zip(weights, steps, strict=True) for n in range(1, 31))
    assert world("sizes").expected_size(history) == pytest.approx(6 + expected / sum(weights), abs=1e-4)


@pytest.mark.parametrize("name", WORLDS)
def test_the_child_follows_from_the_one_before_in_siblings_alone(name):
    of, steps = kinds(name), defaultdict(Counter)
    for history, visit in targets(name):
        before, now = (dict(split(codes, of)["family"]) for codes in (history[-1], visit))
        for family, child in now.items():
            children = len(world(name).families[family])
            steps[children][(child - before[family]) % children] += 1
    for children, counts in steps.items():
        shares = np.array([*counts.values()]) / counts.total()
        entropy = -(shares * np.log2(shares)).sum()
        if name == "siblings":
            assert counts.keys() == {1} and entropy == 0
        else:
            assert entropy > math.log2(children) - 0.05


@pytest.mark.parametrize("name", WORLDS)
def test_one_code_forces_the_other_in_order_alone_and_the_history_neither(name):
    of = kinds(name)
    letters = [[sorted(at for _, at in split(visit, of)["quartet"]) for visit in patient] for patient in cohort(name)]
    together = np.mean([b - a == 2 for patient in letters for a, b in patient])
    assert together == 1 if name == "order" else 0.44 < together < 0.56
    for place in (0, 1):
        pairs = [(patient[at - 1][place], patient[at][place]) for patient in letters for at in range(1, len(patient))]
        assert 0.44 < np.mean([before == now for before, now in pairs]) < 0.56


@pytest.mark.parametrize("name", WORLDS)
def test_a_rare_code_keeps_the_company_of_its_words_in_meaning_alone(name):
    of = kinds(name)
    same = []
    for history, visit in targets(name):
        (place, _), (rare, _) = split(history[-1], of)["frequent"][0], split(visit, of)["rare"][0]
        same.append(place == rare)
    assert np.mean(same) == 1 if name == "meaning" else 0.01 < np.mean(same) < 0.07


@pytest.mark.parametrize("name", WORLDS)
def test_chances_are_those_of_what_comes(name):
    """Summed over patients, the chances of each kind are as many codes as came, of those had before and of the others."""
    here, of = world(name), kinds(name)
    kind = np.array([KINDS.index(of[code][0]) for code in here.codes])
    index = {code: at for at, code in enumerate(here.codes)}
    common = {at: here.background[at] for at in range(3)}
    sums, came = defaultdict(float), Counter()
    for history, visit in targets(name):
        chances = here.probabilities(history)
        assert chances.min() >= 0 and chances.max() <= 1
        assert chances.sum() == pytest.approx(here.expected_size(history))
        had, comes = np.zeros((2, 4_000), dtype=bool)
        had[[index[code] for earlier in history for code in earlier]] = True
        comes[[index[code] for code in visit]] = True
        bands = {(one, again): (kind == one) & (had == again) for one in range(5) for again in (False, True)}
        bands |= {("common", at): np.arange(4_000) == code for at, code in common.items() if not had[code]}
        for band, codes in bands.items():
            sums[band] += chances[codes].sum()
            came[band] += comes[codes].sum()
    for band, total in sums.items():
        assert abs(came[band] - total) < 4 * total**0.5 + 1, band
    assert sums["common", 0] > 40


def test_chances_by_hand():
    (history, _), here, of = targets("siblings")[0], world("siblings"), kinds("siblings")
    chances = dict(zip(here.codes, here.probabilities(history), strict=True))
    control = dict(zip(here.codes, world("nothing").probabilities(history), strict=True))
    last = split(history[-1], of)
    for family, child in last["family"]:
        codes = [here.codes[index] for index in here.families[family]]
        follows = codes[(child + 1) % len(codes)]
        assert [chances[code] for code in codes] == [float(code == follows) for code in codes]
        assert {control[code] for code in codes} == {1 / len(codes)}
    for kind, row, chance in (
        ("quartet", last["quartet"][0][0], 0.5),
        ("frequent", last["frequent"][0][0], 0.25),
        ("rare", 3, 1 / 560),
    ):
        assert {chances[code] for code in chances if of[code][:2] == (kind, row)} == {chance}
    new = [chances[here.codes[index]] for index in here.background if here.codes[index] not in history[0]]
    assert new == sorted(new, reverse=True)


def test_what_is_planted_can_be_ranked_where_the_history_tells_it():
    assert recall("siblings", "siblings") > recall("siblings", "nothing") + 0.03
    assert recall("meaning", "meaning", 60) > recall("meaning", "nothing", 60) + 0.03
    history = targets("order")[0][0]
    assert (world("order").probabilities(history) == world("nothing").probabilities(history)).all()


def test_the_same_seed_gives_the_same_patients():
    again, other = World("order", 0), World("order", 1)
    assert [again.patient(number) for number in (7, 3)] == [cohort("order")[number] for number in (7, 3)]
    assert other.patient(3) != cohort("order")[3]
    # A patient does not depend on how many are drawn.
    few, more = (source.read(None, world="order", patients=patients, seed=0) for patients in (3, 5))
    assert few.codes.equals(more.codes.head(few.codes.height))


def test_the_source_ends_in_the_schema():
    records = source.read(None, world="nothing", patients=20, seed=0)
    codes, unknown, _ = normalize_codes(records, "error")
    rows, _ = select_cohort(records, codes, rule="default", min_visits=2, keep_single_visit=False, sample=None)
    dataset = Dataset(rows.drop("single").to_arrow().cast(VISITS_FEATURES.arrow_schema))
    check_visits(dataset)
    assert not unknown and len(dataset) == 20
    assert [visit["time"] for visit in dataset[0]["visits"]][:2] == ["2150-01-01", "2150-04-11"]


def test_prepare_round_trip(tmp_path, capsys):
    out, twice = tmp_path / "out", tmp_path / "twice"
    command = ["prepare", "worlds", "--world", "sizes", "--patients", "60", "--seed", "2", "--output-dir", str(out)]
    assert main(command) == 0 and "60 patients" in capsys.readouterr().out
    report = prepare("worlds", output_dir=twice, world="sizes", patients=60, seed=2)
    assert report.to_dict() == read_report(out) and check_raw_files(out) == []
    assert report.arguments.items() >= {"world": "sizes", "patients": 60, "seed": 2}.items()
    drawn, found = World("sizes", 2), {}
    for name, rows in load_prepared(out).items():
        assert {random_split(patient, 2) for patient in rows["patient_id"]} == {name}
        found |= {row["patient_id"]: [visit["codes"] for visit in row["visits"]] for row in rows}
    assert [found[patient] for patient in sorted(found)] == [drawn.patient(number) for number in range(60)]
    assert drawn.probabilities(found["patient-000000"][:-1]).shape == (4_000,)
    assert set(Prepared.open(out).codes) <= set(drawn.codes)

    text = (out / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "cc0-1.0"
    assert "Synthetic: drawn from a seed" in text and WORLDS["sizes"] in text and "raw file" not in text
    with pytest.raises(InputError, match="holds worlds as prepared earlier"):
        prepare("worlds", output_dir=out, world="order", patients=60)
    assert prepare("worlds", output_dir=out, world="order", patients=60, seed=2, overwrite=True).changes == [
        "world: sizes -> order"
    ]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"world": None}, "`world` is missing. Name what is planted"),
        ({"world": "everything"}, "`world` is 'everything'. Choose one of nothing, sizes"),
        ({"patients": 0}, "`patients` is 0. Set"),
        ({"seed": -1}, "`seed` is -1. Set 0 or more"),
        ({"data_dir": "raw"}, "`data_dir` is 'raw', and a world is drawn, not read"),
        ({"source": "diabetes130"}, "`world` is 'nothing', and diabetes130 is read, not drawn"),
        ({"source": "diabetes130", "world": None}, "`patients` is 9, and diabetes130 is read, not drawn"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    good = {"source": "worlds", "output_dir": tmp_path / "out", "world": "nothing", "patients": 9}
    with pytest.raises(InputError, match=message):
        prepare(**good | arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_history_of_another_world_is_refused():
    here, history = world("sizes"), [cohort("sizes")[0][0]]
    with pytest.raises(InputError, match="`history` has no visit"):
        here.probabilities([])
    with pytest.raises(InputError, match="ICD9CM:428 is not a code of the world 'sizes' with seed 0"):
        here.probabilities([*history, ["ICD9CM:428"]])
    with pytest.raises(InputError, match="a visit of 40 codes; a world has 7 to 36"):
        here.expected_size([["a"] * 40])
    with pytest.raises(InputError, match="a visit of 6 codes"):
        here.expected_size([["a"] * 6])
