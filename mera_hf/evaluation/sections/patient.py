"""One patient for the report, chosen by a fixed rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Plot, VisitList
from mera_hf.data.samples import Sample
from mera_hf.evaluation import plots


if TYPE_CHECKING:
    from mera_hf.evaluation.rankings.ranked import ModelRanking


def example_patient(
    ranking: ModelRanking,
    samples: Sequence[Sample],
    codes: Sequence[str],
    descriptions: Sequence[str],
    top: int = 10,
) -> dict[str, Any]:
    """Choose a patient by a fixed rule, not by how well they look, and describe the ranking for the report.

    The rule: among the patients with at least three earlier visits and with both repeated and new true codes (all
    patients if there are none), the first whose recall@20 is the median.

    Args:
        ranking (`ModelRanking`): ranking of all candidate codes, so that every true code has a rank.
        samples (`Sequence[Sample]`): the rows' samples.
        codes (`Sequence[str]`): the candidate space.
        descriptions (`Sequence[str]`): descriptions of `codes`.
        top (`int`, defaults to 10): codes to show before the true codes that come later.

    Returns:
        `dict`: `profile`, `visits` (codes per earlier visit), `set_size`, `true_size`, `ranking` (the first `top`
        entries) and `missed` (later true codes); an entry has `rank` (from 1), `code`, `description`, `probability`,
        `true` and `repeated`. No identifier of the patient.
    """
    import numpy as np

    history = [sample.known for sample in samples]
    mixed = [
        row
        for row, sample in enumerate(samples)
        if len(sample.history) >= 3 and 0 < len(history[row].intersection(sample.target)) < len(sample.target)
    ] or list(range(len(samples)))
    recalls = [np.isin(samples[row].target, ranking.order[row, :20]).mean() for row in mixed]
    chosen = mixed[recalls.index(np.sort(recalls)[len(recalls) // 2])]
    sample = samples[chosen]
    entries = [
        {
            "rank": rank,
            "code": codes[code],
            "description": descriptions[code],
            "probability": float(probability),
            "true": code in sample.target,
            "repeated": code in history[chosen],
        }
        for rank, (code, probability) in enumerate(
            zip(ranking.order[chosen].tolist(), ranking.probabilities[chosen], strict=True), start=1
        )
    ]
    return {
        "profile": {key: sample.profile.get(key) for key in ("sex", "age")},
        "visits": [[codes[code] for code in visit] for visit in sample.history],
        "set_size": int(ranking.set_sizes[chosen]),
        "true_size": len(sample.target),
        "ranking": entries[:top],
        "missed": [entry for entry in entries[top:] if entry["true"]],
    }


LABEL, HEADING = "One patient", "One patient"
SHOWN_VISITS = 4


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page, for a report that has an example."""
    example = report.get("example")
    if not example:
        return []
    sex, age = example["profile"]["sex"], example["profile"]["age"]
    visits = example["visits"]
    lead = (
        "Not the best case: the first patient with the median recall@20 among those with three earlier visits or more "
        "and both repeated and new codes."
    )
    if sex or age is not None:
        lead += f" {({'F': 'A woman', 'M': 'A man'}).get(sex, 'A patient')}"
        lead += f", about {round(age)} at the first visit." if age is not None else "."
    many = len(visits) > SHOWN_VISITS
    lead += f" The last {SHOWN_VISITS} of {len(visits)} earlier visits:" if many else " The earlier visits:"
    shown = VisitList(visits[-SHOWN_VISITS:], max(len(visits) - SHOWN_VISITS, 0) + 1)
    return [Paragraph(lead), shown, _plot(example)]


def _plot(example: Mapping[str, Any]) -> Plot:
    first = "; ".join(
        f"{entry['code']} {entry['description']}, {100 * entry['probability']:.0f} %{', true' * entry['true']}"
        for entry in example["ranking"]
    )
    recorded = f"{example['true_size']} code{'s were' if example['true_size'] != 1 else ' was'} recorded"
    caption = f"The ranking for the next visit, in which {recorded}. Repeated: in an earlier visit."
    if example.get("reordered"):
        caption += (
            f" The first {example['reordered']} codes stand in the order of their worth for weighted F1: of two codes as "
            "probable, the rarer comes first."
        )
    return Plot(
        "patient",
        plots.patient_plot(example),
        f"Bar chart of one patient's ranking: {first}. EOV comes after rank {example['set_size']}.",
        caption,
    )
