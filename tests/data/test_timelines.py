import random

import pytest
import torch
from tiny import CODES, encoder_of, patients, tiny_mera

from mera_hf.data.samples import prediction_samples
from mera_hf.data.timelines import LengthSampler, TimelineCollator, TimelineDataset
from mera_hf.errors import InputError
from mera_hf.timeline_mera import collate_timelines


def test_codes_come_in_a_fresh_order_every_epoch(llama):
    encoder = encoder_of(*llama)
    rows = patients(12, seed=5)
    dataset = TimelineDataset(rows, encoder, seed=3)
    orders = [[dataset[epoch, row].visits for row in range(len(dataset))] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    # Neither the process nor what was asked before matters
    again = TimelineDataset(rows, encoder, seed=3)
    assert [again[2, row].visits for row in reversed(range(12))] == orders[2][::-1]
    assert [TimelineDataset(rows, encoder, seed=4)[0, row].visits for row in range(12)] != orders[0]
    plain = [dataset[row] for row in range(12)]
    assert plain == [encoder.encode(row) for row in rows]
    assert dataset.lengths == [len(timeline.input_ids) for timeline in plain]


def test_datasets_are_read_like_lists(llama):
    from datasets import Dataset

    rows = patients(3)
    dataset = TimelineDataset(Dataset.from_list(rows), encoder_of(*llama))
    assert [dataset[row] for row in range(3)] == [encoder_of(*llama).encode(row) for row in rows]


def test_nothing_that_a_model_reads_holds_the_drg_severity(llama):
    rows, encoder = patients(20), encoder_of(*llama)
    graded = [
        row | {"visits": [visit | {"drg_severity": 1 + number % 4} for number, visit in enumerate(row["visits"])]}
        for row in rows
    ]
    for row, other in zip(rows, graded, strict=True):
        assert encoder.encode(other) == encoder.encode(row)
        assert encoder.encode_history(other) == encoder.encode_history(row)
    assert prediction_samples(graded, CODES, "every") == prediction_samples(rows, CODES, "every")


def test_patients_without_a_visit_to_predict_are_counted(llama):
    encoder = encoder_of(*llama)
    rows = patients(5, fewest_visits=1, most_visits=1) + patients(4)
    dataset = TimelineDataset(rows, encoder)
    assert (len(dataset), dataset.left_out) == (4, 5)
    everyone = TimelineDataset(rows, encoder, first_target=0)
    assert (len(everyone), everyone.left_out) == (9, 0)
    assert everyone[0].decision_visits == [0] * len(everyone[0].decisions)
    with pytest.raises(InputError, match="none of the 5 patients has more than 1 visits.*use a cohort with two"):
        TimelineDataset(rows[:5], encoder)
    with pytest.raises(InputError, match="none of the 0 patients"):
        TimelineDataset([], encoder)


def test_no_visit_is_too_long_to_be_predicted(llama):
    """A patient without a decision would leave a batch without a loss, and an evaluation without a ranking."""
    model, tokenizer = llama
    model.config.use_profile = False
    rows = [
        {"profile": None, "visits": [{"codes": CODES[:1]}, {"codes": CODES[:9]}]},
        {"profile": None, "visits": [{"codes": CODES[:1]}, {"codes": CODES[:2]}]},
    ]
    dataset = TimelineDataset(rows, encoder_of(model, tokenizer, 5))
    assert (len(dataset), dataset.left_out, dataset.unread_visits) == (2, 0, 2)
    assert [len(dataset[row].decisions) for row in range(2)] == [10, 3]
    with pytest.raises(InputError, match="the dataset does not fit the model: `max_length` is 2, but the profile"):
        TimelineDataset(rows, encoder_of(model, tokenizer, 2))


def test_unknown_codes_are_refused(llama):
    rows = [{"profile": None, "visits": [{"codes": [CODES[0]]}, {"codes": ["ICD9CM:001.0"]}]}]
    with pytest.raises(InputError, match="the dataset does not fit the model: code ICD9CM:001.0 is not one of the 19"):
        TimelineDataset(rows, encoder_of(*llama))


def test_prefix_share_keeps_first_decisions_and_a_share_of_the_others(llama):
    rows = patients(60, seed=6)
    dataset = TimelineDataset(rows, encoder_of(*llama), prefix_share=0.3)
    whole = [dataset[row] for row in range(60)]
    later = sum(given > 0 for timeline in whole for given in timeline.decision_given)
    kept = []
    for epoch in range(3):
        thin = [dataset[epoch, row] for row in range(60)]
        assert [t.input_ids.__len__() for t in thin] == dataset.lengths  # decisions are thinned, tokens are not
        for full, timeline in zip(whole, thin, strict=True):
            places = list(zip(full.decision_visits, full.decision_given, strict=True))
            chosen = list(zip(timeline.decision_visits, timeline.decision_given, strict=True))
            assert [place for place in places if place[1] == 0] == [place for place in chosen if place[1] == 0]
            assert [place for place in places if place in chosen] == chosen
            by_place = dict(zip(places, full.decisions, strict=True))
            assert timeline.decisions == [by_place[place] for place in chosen]
        kept.append([given for timeline in thin for given in timeline.decision_given])
        share = sum(given > 0 for given in kept[-1]) / later
        assert 0.2 < share < 0.4
    assert kept[0] != kept[1] != kept[2]


def test_an_epoch_without_perturbed_orders_draws_the_same_decisions(llama):
    rows = patients(20, seed=6)
    encoder = encoder_of(*llama)
    fixed = TimelineDataset(rows, encoder, prefix_share=0.5, perturb_orders=False)
    drawn = [fixed[epoch, row] for epoch in (0, 1) for row in range(20)]
    assert [timeline.visits for timeline in drawn] == 2 * [fixed[row].visits for row in range(20)]
    assert [timeline.decisions for timeline in drawn[:20]] != [timeline.decisions for timeline in drawn[20:]]
    none = TimelineDataset(rows, encoder, prefix_share=0.0)
    assert {given for row in range(20) for given in none[0, row].decision_given} == {0}


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (8, 4), (1000, 8), (1003, 8), (801, 16), (3, 1)])
def test_length_sampler_visits_every_row_once_an_epoch(count, batch_size):
    lengths = [random.Random(row).randint(3, 90) for row in range(count)]
    sampler = LengthSampler(lengths, batch_size, seed=1)
    assert len(sampler) == count
    for epoch in range(3):
        items = epoch_of(sampler, epoch)
        assert sorted(items) == [(epoch, row) for row in range(count)]


def test_length_sampler_puts_similar_lengths_into_a_batch():
    lengths = [random.Random(row).randint(3, 200) for row in range(2000)]
    sampler = LengthSampler(lengths, 8)
    rows = [row for _, row in sampler]
    spread = [
        max(lengths[row] for row in batch) - min(lengths[row] for row in batch)
        for batch in (rows[at : at + 8] for at in range(0, 2000, 8))
    ]
    assert sum(spread) / len(spread) < 8  # of 150 in random batches
    # Batches do not come in the order of their length
    means = [sum(lengths[row] for row in rows[at : at + 8]) / 8 for at in range(0, 2000, 8)]
    assert sum(later > earlier for earlier, later in zip(means, means[1:], strict=False)) < 150


def test_length_sampler_is_drawn_afresh_each_epoch_and_from_the_seed_alone():
    lengths = [row % 17 for row in range(300)]
    sampler = LengthSampler(lengths, 4, seed=7)
    epochs = [[row for _, row in epoch_of(sampler, epoch)] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    batches = [{tuple(sorted(rows[at : at + 4])) for at in range(0, 300, 4)} for rows in epochs]
    assert batches[0] != batches[1]
    torch.manual_seed(123)
    assert [row for _, row in epoch_of(LengthSampler(lengths, 4, seed=7), 2)] == epochs[2]
    assert [row for _, row in epoch_of(LengthSampler(lengths, 4, seed=8), 2)] != epochs[2]


@pytest.mark.parametrize("side", ["right", "left"])
def test_collator_pads_on_the_side_of_the_tokenizer(side, llama):
    encoder = encoder_of(*llama)
    timelines = [encoder.encode(row) for row in patients(3)]
    batch = TimelineCollator(5, side)(timelines)
    expected = collate_timelines(timelines, 5, side)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 5).all()


def test_shared_positions_do_not_depend_on_the_order_of_codes():
    model, tokenizer = tiny_mera("llama", positions="visit")
    dataset = TimelineDataset(patients(4), encoder_of(model, tokenizer))
    for row in range(4):
        assert dataset[0, row].positions == dataset[1, row].positions == dataset[row].positions
