"""Rankers as trained and after the same fit, and MERA's ranking cut in three ways: against plain loops."""

import numpy as np
import pytest
from ranking_cases import ICD_CODES, random_samples, ranked
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from mera_hf.evaluation.metrics import evaluate_ranking, order_from_scores
from mera_hf.evaluation.rankings.fit import Fit
from mera_hf.evaluation.rankings.ranked import Cut, ModelRanking, RankedPatients
from mera_hf.evaluation.rankings.reference import fit_threshold
from mera_hf.evaluation.sections import alike, cuts


N = len(ICD_CODES)


def answer(samples, rng, knows_sizes=True) -> ModelRanking:
    """Logits with the truth in noise, an EOV that knows the size of the visit, and a spoilt order of the first codes."""
    logits = rng.normal(0, 1, size=(len(samples), N)).astype(np.float32)
    for row, sample in enumerate(samples):
        logits[row, sample.target] += 1.5
    order = order_from_scores(logits)
    logits = np.take_along_axis(logits, order, axis=1)
    sizes = [len(sample.target) if knows_sizes else 2 for sample in samples]
    eov = np.array([logits[row, size - 1 : size + 1].mean() for row, size in enumerate(sizes)])
    shuffled = np.concatenate([order[:, 2::-1], order[:, 3:]], axis=1)
    logits = np.concatenate([logits[:, 2::-1], logits[:, 3:]], axis=1)
    cut, probabilities = Cut(np.full(len(samples), 4), "EOV"), 1 / (1 + np.exp(-logits))
    return ModelRanking(shuffled, cut, probabilities, logits, eov, np.zeros(len(samples), dtype=int))


@pytest.fixture(scope="module")
def patients():
    rng = np.random.default_rng(3)
    validation, samples = (random_samples(rng, 60, N, 4) for _ in range(2))

    def copied(chosen):
        scores = rng.random((len(chosen), N), dtype=np.float32)
        for row, sample in enumerate(chosen):
            scores[row, list(sample.known)] += 1
        return ranked(order_from_scores(scores), (scores > 1).sum(1))

    others = RankedPatients(
        validation, ICD_CODES, {"mera": answer(validation, rng), "copy_history": copied(validation)}
    )
    rankings = {"mera": answer(samples, rng), "copy_history": copied(samples)}
    return RankedPatients(samples, ICD_CODES, rankings, validation=others)


def weighted_f1(sets, samples) -> float:
    truth, predicted = (np.zeros((len(samples), N)) for _ in range(2))
    for row, sample in enumerate(samples):
        truth[row, sample.target], predicted[row, list(sets[row])] = 1, 1
    return f1_score(truth, predicted, average="weighted", zero_division=0)


def test_as_trained_is_the_order_of_the_logits_cut_at_eov(patients):
    ranking = patients.rankings["mera"]
    trained = ranking.as_trained()
    logits = np.empty(ranking.logits.shape)
    np.put_along_axis(logits, ranking.order, ranking.logits, axis=1)
    for row, codes in enumerate(trained.order):
        assert (np.diff(logits[row, codes]) <= 0).all()
        assert trained.set_sizes[row] == (logits[row] > ranking.eov_logits[row]).sum()
    np.testing.assert_allclose(trained.probabilities.sum(1), 1, rtol=1e-5)
    assert trained.set_sizes.tolist() == [len(sample.target) for sample in patients.samples], "EOV knows the size here"


def test_rankers_are_fitted_alike(patients):
    section = alike.measure(patients)
    assert section["patients"] == 60
    for name, ranking in patients.rankings.items():
        trained = ranking.as_trained()
        fit = Fit(N).learn(patients.validation.rankings[name].as_trained(), patients.validation.samples)
        for way, each in (("as_trained", trained), ("fitted", fit.apply(trained, patients.samples))):
            wanted = evaluate_ranking(each.order, each.set_sizes, patients.samples, (10,))
            found = section[way]["rankers"][name]
            assert found == {metric: wanted[metric] for metric in alike.METRICS if metric in wanted}
    for metric, lead in section["lead"].items():
        theirs = {way: section[way]["rankers"]["copy_history"][metric] for way in ("as_trained", "fitted")}
        assert lead["over"] == "copy_history" and theirs[lead["way"]] == max(theirs.values())
        assert lead["difference"] == section["fitted"]["rankers"]["mera"][metric] - max(theirs.values())
        assert lead["interval"][0] <= lead["difference"] <= lead["interval"][1]
    text = alike.sentences({"alike": section})[0]
    assert text.startswith(
        "After the same fit for all rankers, MERA less the best other one, fitted or not, in points: w-F1 "
    )


def test_three_cuts_of_one_ranking(patients):
    section = cuts.measure(patients)
    ranking, before = patients.rankings["mera"], patients.validation.rankings["mera"]
    samples, true = patients.samples, [len(sample.target) for sample in patients.samples]

    def tables(of):
        margins, shares = np.empty((2, *of.order.shape), dtype=np.float32)
        np.put_along_axis(margins, of.order, (of.logits - of.eov_logits[:, None]).astype(np.float32), axis=1)
        powers = np.exp(of.logits)
        np.put_along_axis(shares, of.order, (powers / powers.sum(1, keepdims=True)).astype(np.float32), axis=1)
        return margins, shares

    margins, shares = tables(ranking)
    offset, share = (fit_threshold(table, patients.validation.samples) for table in tables(before))
    inside = {"own": margins > 0, "fitted": margins >= offset, "plain": shares >= share - 1e-7}
    for way, chosen in inside.items():
        wanted = weighted_f1([row.nonzero()[0] for row in chosen], samples)
        assert section[way]["weighted_f1_eov"] == pytest.approx(wanted, abs=1e-9)
        assert section[way]["mean_set_size"] == chosen.sum(1).mean()
        assert section[way]["correlation"] == pytest.approx(spearmanr(chosen.sum(1), true)[0])
    assert section["own"]["correlation"] == pytest.approx(1)
    last = [len(sample.history[-1]) for sample in samples]
    assert section["last"] == {"correlation": pytest.approx(spearmanr(last, true)[0])}
    for way in ("own", "plain"):
        low, high = section[f"fitted_over_{way}"]["interval"]
        assert low <= section["fitted"]["weighted_f1_eov"] - section[way]["weighted_f1_eov"] <= high
    table = cuts.table({"cuts": section})
    assert [row.title for row in table.rows] == [*cuts.WAYS.values(), "as many as at the last visit"]
    assert table.rows[0].texts[-1] == "1.00"


def test_without_enough_validation_patients_nothing_is_said(patients):
    few = RankedPatients(
        patients.validation.samples[:19],
        ICD_CODES,
        {"mera": ranked(patients.validation.rankings["mera"].order[:19])},
    )
    for validation in (None, few):
        alone = RankedPatients(patients.samples, ICD_CODES, patients.rankings, validation=validation)
        assert alike.measure(alone) == cuts.measure(alone) == {}
    for section in (alike, cuts):
        assert section.blocks({"metrics": {}}) == section.sentences({}) == []
