"""Layouts: how many decisions one forward and backward pass holds."""

import math
import random

import torch
from torch.nn.functional import cross_entropy, pad

from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import Timeline, TimelineEncoder, collate_timelines

from .cases import batches_by_length, icd_codes, language_model, synthetic_patients
from .timing import best_of


def timeline(patients=16, codes=4_900, width=256, layers=4, repeat=5) -> tuple[float, str]:
    """One sequence a patient against one for each visit and each prefix of its codes."""
    names = icd_codes("ICD9CM", codes)
    model, tokenizer = language_model(names, width, layers)
    encoder = TimelineEncoder(model.config, tokenizer)
    rows = synthetic_patients(patients, names, visits=[2, 3, 4, 5, 6])
    timelines = [encoder.encode(row, shuffle=random.Random(number)) for number, row in enumerate(rows)]
    variants = [variant for timeline in timelines for variant in prefixes(timeline)]
    # The prefixes of a visit follow each other, so that even batches as they come have little padding
    as_they_come = [collate_timelines(variants[at : at + 32], 0) for at in range(0, len(variants), 32)]
    ratio = _speedup(model, as_they_come, batches_by_length(timelines, 8), repeat)
    return ratio, (
        "one sequence for each visit and each prefix of its codes, in batches of 32 / one timeline a patient, time of forward "
        f"and backward with code logits: {patients} patients with 2 to 6 visits of 10 to 15 codes, {len(variants):,} "
        f"decisions, {codes:,} codes; {_size(width, layers)}"
    )


def tree(patients=4, orders=4, codes=4_900, width=256, layers=4, repeat=5) -> tuple[float, str]:
    """One history for all orders of all visits against one for each."""
    names = icd_codes("ICD9CM", codes)
    model, tokenizer = language_model(names, width, layers, history_text="code+description")
    encoder = TimelineEncoder(model.config, tokenizer)
    rows = synthetic_patients(patients, names, visits=[2, 3, 4, 5, 6])
    trees = [encoder.encode_tree(row, orders=orders, shuffle=random.Random(number)) for number, row in enumerate(rows)]
    passes = [single for timeline in trees for single in branches(timeline)]
    ratio = _speedup(model, batches_by_length(passes, 8), batches_by_length(trees, 1), repeat)
    return ratio, (
        f"one sequence for each visit and each of {orders} orders of its codes, in batches of 8 / one tree a patient, time of "
        f"forward and backward with code logits: histories with descriptions, {patients} patients with 2 to 6 visits of 10 to "
        f"15 codes, {len(passes)} sequences, {codes:,} codes; {_size(width, layers)}"
    )


def _size(width: int, layers: int) -> str:
    return f"Llama, d = {width:,}, {layers} layers"


def prefixes(timeline: Timeline) -> list[Timeline]:
    """A sequence of its own for each decision, up to the token where it is taken."""
    return [
        Timeline(
            *(timeline.input_ids[: at + 1], timeline.positions[: at + 1], [at], [visit], [given]),
            *(timeline.visits, timeline.histories),
        )
        for at, visit, given in zip(timeline.decisions, timeline.decision_visits, timeline.decision_given, strict=True)
    ]


def branches(tree: Timeline) -> list[Timeline]:
    """A sequence of its own for each branch, behind the part of the trunk that it sees."""
    singles = []
    for number, (begin, limit, end) in enumerate(tree.pieces[1:]):
        mine = [at for at, visit in enumerate(tree.decision_visits) if visit == number]
        singles.append(
            Timeline(
                tree.input_ids[:limit] + tree.input_ids[begin:end],
                tree.positions[:limit] + tree.positions[begin:end],
                [limit + tree.decisions[at] - begin for at in mine],
                [number] * len(mine),
                [tree.decision_given[at] for at in mine],
                tree.visits,
                tree.histories,
            )
        )
    return singles


def _speedup(model, slow: list[dict], fast: list[dict], repeat: int) -> float:
    model.train()
    losses = {}

    def step(name: str, batches: list[dict]):
        model.zero_grad()
        losses[name] = 0.0
        for batch in batches:
            loss = next_code_loss(model, batch)
            loss.backward()
            losses[name] += loss.item()

    times = best_of({"slow": lambda: step("slow", slow), "fast": lambda: step("fast", fast)}, repeat)
    if not math.isclose(losses["slow"], losses["fast"], rel_tol=1e-4):
        raise AssertionError(f"the two sides do not compute the same: {losses}")
    return times["slow"] / times["fast"]


def next_code_loss(model, batch: dict) -> torch.Tensor:
    """Cross-entropy of the code that is written next, EOV behind the last, summed over decisions."""
    output = model(**{name: batch[name] for name in FORWARD_INPUTS if name in batch})
    logits = torch.cat([output.code_logits, output.eov_logits[:, None]], dim=1)  # (P, C + 1)
    written = pad(batch["visit_codes"], (0, 1), value=-1)[batch["decision_visit"], batch["decision_given"]]  # (P,)
    return cross_entropy(logits, torch.where(written < 0, logits.shape[1] - 1, written), reduction="sum")
