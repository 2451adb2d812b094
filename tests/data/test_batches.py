import random

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from tiny import encoder_of, patients, tiny_mera

from mera_hf.data.timelines import BudgetSampler, TimelineCollator, TimelineDataset
from mera_hf.timeline_mera import collate_timelines


def lengths_of(count: int, seed: int = 0, longest: int = 90) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(3, longest) for _ in range(count)]


def epoch_of(sampler, epoch: int) -> list[list[int]]:
    """The rows of each batch of an epoch."""
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert all(of == epoch for batch in batches for of, _ in batch)
    return [[row for _, row in batch] for batch in batches]


@pytest.mark.parametrize(
    ("count", "batch_size", "budget", "processes"),
    [
        (1, 4, 10, 1),
        (300, 8, 256, 1),
        (301, 64, 400, 1),
        (300, 16, 512, 4),
        (97, 16, 90, 8),
        (50, 4, 1, 1),
        (9, 99, 9999, 4),
    ],
)
def test_batches_keep_to_the_budget_and_are_as_many_in_every_epoch(count, batch_size, budget, processes):
    lengths = lengths_of(count)
    sampler = BudgetSampler(lengths, batch_size, budget, seed=1, processes=processes)
    shapes = []
    for epoch in range(3):
        batches = epoch_of(sampler, epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(count))
        for batch in batches:
            assert len(batch) == 1 or (
                len(batch) <= batch_size and len(batch) * max(lengths[r] for r in batch) <= budget
            )
        assert len(batches) == len(sampler) and len(batches) % processes == 0
        shapes.append(sorted((len(batch), max(lengths[row] for row in batch)) for batch in batches))
    assert shapes[0] == shapes[1] == shapes[2]


def test_batches_are_filled():
    lengths = lengths_of(2000)
    batches = epoch_of(BudgetSampler(lengths, 64, 1024), 0)
    real = sum(lengths)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.05 * real
    assert len(batches) < 1.1 * real / 1024
    # A timeline above the budget is not lost
    assert [4] in epoch_of(BudgetSampler([5, 5, 5, 5, 2000], 64, 1024), 0)


def test_batches_are_drawn_afresh_each_epoch_and_from_the_seed_alone():
    lengths = [row % 17 + 3 for row in range(300)]
    epochs = [epoch_of(BudgetSampler(lengths, 16, 100, seed=7), epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    contents = [{tuple(sorted(batch)) for batch in batches} for batches in epochs]
    assert contents[0] != contents[1]  # other company, not only another turn
    longest = [max(lengths[row] for row in batch) for batch in epochs[0]]
    assert longest != sorted(longest)
    torch.manual_seed(123)
    assert epoch_of(BudgetSampler(lengths, 16, 100, seed=7), 2) == epochs[2]
    assert epoch_of(BudgetSampler(lengths, 16, 100, seed=8), 2) != epochs[2]


@pytest.mark.parametrize("processes", [2, 3])
def test_every_process_gets_as_many_batches_and_each_row_once(processes):
    lengths = lengths_of(61)
    shares = [
        list(BatchSamplerShard(BudgetSampler(lengths, 8, 300, 0, processes), processes, index))
        for index in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    rows = sorted(row for share in shares for batch in share for _, row in batch)
    assert rows == list(range(61))


def test_fewer_rows_than_processes_come_twice():
    """As accelerate has it with any sampler: no process may wait for ever."""
    sampler = BudgetSampler([4, 5, 6], 8, 300, 0, 2)
    assert len(sampler) == 2
    alone = BudgetSampler([4], 8, 300, 0, 2)
    shares = [list(BatchSamplerShard(alone, 2, index)) for index in range(2)]
    assert shares == [[[(0, 0)]], [[(0, 0)]]]


def test_a_dataset_of_trees_knows_its_lengths_and_draws_every_order(llama):
    encoder, rows = encoder_of(*llama), patients(12, seed=5)
    dataset = TimelineDataset(rows, encoder, seed=3, orders=3)
    trees = [dataset[2, row] for row in range(12)]
    assert dataset.lengths == [len(tree.input_ids) for tree in trees]
    assert dataset.reach == max(tree.reach for tree in trees)
    for row, tree in zip(rows, trees, strict=True):
        assert len(tree.visits) == 3 * (len(row["visits"]) - 1)
    assert [dataset[1, row].visits for row in range(12)] != [tree.visits for tree in trees]
    assert [TimelineDataset(rows, encoder, seed=3, orders=3)[2, row] for row in range(12)] == trees
    # Without an epoch one order is all there is
    assert [dataset[row] for row in range(12)] == [encoder.encode_tree(row) for row in rows]
    # One order of an epoch is that of the timeline
    one, timelines = TimelineDataset(rows, encoder, seed=3, orders=1), TimelineDataset(rows, encoder, seed=3)
    for row in range(12):
        assert one[4, row].visits == timelines[4, row].visits[1:]


def test_decisions_of_a_tree_are_thinned_in_each_order():
    model, tokenizer = tiny_mera("llama", history_text="description")
    dataset = TimelineDataset(patients(30), encoder_of(model, tokenizer), prefix_share=0.3, orders=2)
    given = []
    for row in range(30):
        tree = dataset[0, row]
        first = [visit for visit, before in zip(tree.decision_visits, tree.decision_given, strict=True) if not before]
        assert first == list(range(len(tree.branches)))
        given += [before for before in tree.decision_given if before]
    later = sum(len(codes) for row in range(30) for codes in dataset[0, row].visits)
    assert 0.2 < len(given) / later < 0.4


def test_collator_packs(llama):
    timelines = [encoder_of(*llama).encode(row) for row in patients(3)]
    batch, expected = TimelineCollator(5, packed=True)(timelines), collate_timelines(timelines, 5, packed=True)
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert batch["input_ids"].shape == (1, sum(len(timeline.input_ids) for timeline in timelines))
