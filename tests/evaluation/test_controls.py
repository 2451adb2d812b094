import numpy as np
import pytest
from ranking_cases import learnable_samples, metrics_dict, ranked

from mera_hf.errors import InputError
from mera_hf.evaluation.figures import spread
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.rankings.reference import CopyHistory, Prevalence, rank_function
from mera_hf.evaluation.sections.controls import (
    CONTROLS,
    control_sentence,
    evaluation_controls,
    sentences,
    shuffled_histories,
    shuffled_profiles,
)


@pytest.fixture
def samples():
    return learnable_samples(np.random.default_rng(0), 100)[2::3]  # the last visit of each patient


def marked(samples, count):
    return [type(s)(s.patient, [[i]], s.target, {"row": i}, [f"text {i}"]) for i, s in enumerate(samples[:count])]


@pytest.mark.parametrize("count", [2, 3, 50])
def test_nobody_keeps_their_history_and_every_history_is_given_once(samples, count):
    own = marked(samples, count)
    shuffled = shuffled_histories(own, seed=4)
    given = [sample.history[0][0] for sample in shuffled]
    assert sorted(given) == list(range(count))
    assert all(giver != receiver for receiver, giver in enumerate(given))
    assert [sample.texts for sample in shuffled] == [[f"text {giver}"] for giver in given]
    assert [(s.patient, s.target, s.profile) for s in shuffled] == [(s.patient, s.target, s.profile) for s in own]
    assert shuffled == shuffled_histories(own, seed=4)


def test_profiles_are_shuffled_alone(samples):
    own = marked(samples, 9)
    shuffled = shuffled_profiles(own, seed=4)
    assert sorted(sample.profile["row"] for sample in shuffled) == list(range(9))
    assert all(sample.profile["row"] != row for row, sample in enumerate(shuffled))
    for ours, theirs in zip(own, shuffled, strict=True):
        assert (ours.history, ours.target, ours.texts) == (theirs.history, theirs.target, theirs.texts)


def test_the_control_breaks_copying_and_leaves_prevalence(samples):
    for ranker, falls in ((CopyHistory(), True), (Prevalence(), False)):
        rank = rank_function(ranker.fit(samples, 24, samples), samples)
        ranking = rank(samples)
        own = evaluate_ranking(ranking.order, ranking.set_sizes, samples, (4,))
        sections = evaluation_controls(lambda shown, _, rank=rank: rank(shown), ranking.order, samples, (4,))
        control, drop = sections["controls"]["shuffled_history"], sections["drops"]["shuffled_history"]["recall@4"]
        assert (control["recall@4"] < own["recall@4"] - 0.2) if falls else control == own
        assert (drop[0] > 0.2) if falls else drop == [0.0, 0.0]
        assert drop[0] <= own["recall@4"] - control["recall@4"] <= drop[1]


def test_repeated_codes_are_those_of_the_patients_own_history(samples):
    own_order = np.tile(np.arange(24), (len(samples), 1))
    sections = evaluation_controls(lambda shown, _: ranked(own_order), own_order, samples, (12,))
    assert sections["controls"]["shuffled_history"] == evaluate_ranking(own_order, None, samples, (12,))


def test_the_profile_is_shuffled_for_those_who_read_one(samples):
    order = np.tile(np.arange(24), (len(samples), 1))

    def names(shown, **options):
        titles = []
        sections = evaluation_controls(
            lambda _, title: titles.append(title) or ranked(order), order, shown, (4,), **options
        )
        assert [title.replace(" ", "_") for title in titles] == list(sections["controls"]) == list(sections["drops"])
        return list(sections["controls"])

    told = [type(s)(s.patient, s.history, s.target, {"sex": "F", "age": None}, s.texts) for s in samples]
    untold = [type(s)(s.patient, s.history, s.target, {"sex": None, "age": None}, s.texts) for s in samples]
    assert names(told, use_profile=True) == ["shuffled_history", "shuffled_profile"]
    assert names(told) == names(untold, use_profile=True) == ["shuffled_history"]
    assert evaluation_controls(None, order[:1], samples[:1], (4,)) == {"controls": {}, "drops": {}}


def test_one_sample_cannot_be_shuffled(samples):
    for shuffle in (shuffled_histories, shuffled_profiles):
        with pytest.raises(InputError, match="two samples or more, not 1"):
            shuffle(samples[:1])


def test_the_interval_is_that_of_paired_differences(samples):
    """Two rankings that differ for every patient alike have no width, however much patients differ."""
    order = np.stack([np.random.default_rng(row).permutation(24) for row in range(len(samples))])

    def drop(control):
        return evaluation_controls(lambda *_: ranked(control), order, samples, (6,))["drops"]["shuffled_history"][
            "recall@6"
        ]

    assert drop(order) == [0.0, 0.0]
    low, high = drop(order[:, ::-1])
    found = [
        np.isin(s.target, a[:6]).mean() - np.isin(s.target, a[::-1][:6]).mean()
        for s, a in zip(samples, order, strict=True)
    ]
    mean = np.mean(found)
    assert low < mean < high
    half = 1.96 * np.std(found) / np.sqrt(len(found))
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.3 * half)


# -- in words -----------------------------------------------------------------------------------------------------


def test_every_control_says_what_it_means_either_way():
    assert {
        "shuffled_history",
        "shuffled_hierarchy",
        "random_rows",
        "description_rows",
        "shuffled_rows",
    } < CONTROLS.keys()
    assert {
        "encoder_rows",
        "without_memorizing",
        "with_memorizing",
        "copy_history",
        "shuffled_profile",
    } < CONTROLS.keys()
    assert len({control.title for control in CONTROLS.values()}) == len(CONTROLS)
    for name, control in CONTROLS.items():
        assert control_sentence(name, 0.6, 0.595).endswith(f"which is as well. {control.meaning}")
        assert control_sentence(name, 0.6, 0.5).endswith(control.loss)
        assert control_sentence(name, 0.6, 0.7).endswith("The control does better.")
    with pytest.raises(InputError, match="`name` is 'placebo'; choose one of shuffled_history"):
        control_sentence("placebo", 0.6, 0.5)


@pytest.mark.parametrize(
    ("own", "control", "interval", "ending"),
    [
        (0.60, 0.57, [0.01, 0.05], CONTROLS["shuffled_history"].loss),
        (0.60, 0.57, [-0.01, 0.07], "too few to say whether it does as well."),
        (0.60, 0.63, [-0.07, 0.01], "too few to say whether it does as well."),
        (0.60, 0.63, [-0.05, -0.01], "The control does better."),
        (0.600, 0.595, [0.001, 0.009], CONTROLS["shuffled_history"].meaning),
        (0.600, 0.595, [-0.02, 0.03], CONTROLS["shuffled_history"].meaning),
    ],
)
def test_the_verdict_heeds_the_interval(own, control, interval, ending):
    assert control_sentence("shuffled_history", own, control, interval).endswith(ending)


def test_a_sentence_has_the_figures():
    text = control_sentence("shuffled_history", 0.6412, 0.435, [0.19, 0.22])
    assert text.startswith(
        "Shown another patient's history instead of their own: recall@20 of 43.5 % instead of 64.1 %"
    )
    assert "(a difference of -22.0 to -19.0 points, 95 % interval over patients)" in text
    seeds = control_sentence("random_rows", spread([0.6, 0.62]), spread([0.5, 0.52]), metric="weighted_f1")
    assert "weighted_f1 of 51.0 ± 1.4 % instead of 61.0 ± 1.4 %" in seeds


def test_sentences_of_metrics():
    (text,) = sentences(metrics_dict())
    assert "of 43.5 % instead of 64.1 %. What it loses" in text
    assert text.endswith("Ranking by prevalence alone gives 50.7 %.")
    (undecided,) = sentences(metrics_dict(drops={"shuffled_history": {"recall@20": [-0.1, 0.5]}}))
    assert "too few" in undecided
    assert sentences(metrics_dict(controls={})) == []
