"""What the model read in a patient, and the ranking under any cut: moving the cut runs no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch

    from mera_hf.modeling_mera import MeraForDiagnosis, MeraOutput

_SHOWN = 50  # codes on the scale of the cut, if the set may reach that far


@dataclass(frozen=True)
class ChosenCut:
    """
    Where the set ends.

    Attributes:
        value (`float`, *optional*): a code is in the set if its value is above; defaults to the fitted value of EOV.
        coverage (`float`, *optional*): a set of this known coverage instead, such as 0.9.
        coverage_of (`str`): of the `"codes"` of a visit or of whole `"visits"`.
    """

    value: float | None = None
    coverage: float | None = None
    coverage_of: str = "codes"


@dataclass(frozen=True)
class CodeRow:
    """A code of the ranking; `value` is what the cut compares."""

    rank: int
    code: str
    description: str
    probability: float
    value: float


@dataclass(frozen=True)
class CutRanking:
    """
    A ranking under a cut.

    Attributes:
        rows (`list[CodeRow]`): the first codes, best first.
        size (`int`): codes in the set; `rows` may hold fewer.
        eov_size (`int`): codes in the set at the fitted value of EOV.
        cut (`ChosenCut`): where the set ends.
        value (`float`): the value that the cut is at, or EOV's where the set has a known coverage.
        unread_visits (`int`): oldest visits that the model did not read, as the history is longer than it reads.
    """

    rows: list[CodeRow]
    size: int
    eov_size: int
    cut: ChosenCut
    value: float
    unread_visits: int


@dataclass(frozen=True)
class Reading:
    """
    One patient and the result of one forward pass.

    Attributes:
        row (`dict`): the patient as the model read it.
        output (`MeraOutput`): logits at one decision.
        history (`tuple[torch.Tensor, torch.Tensor]`): codes of the history and their features, as `decide` takes them.
        unread_visits (`int`): oldest visits that the model did not read.
    """

    row: dict
    output: MeraOutput
    history: tuple[torch.Tensor, torch.Tensor]
    unread_visits: int


def read(model: MeraForDiagnosis, tokenizer, row: dict) -> Reading:
    """Run the model on a patient (`dict`, a row of a visits dataset)."""
    ((_, output, batch),) = model.decisions([row], tokenizer)
    history = (batch["history_codes"], batch["history_values"])
    return Reading(row, output, history, int(batch["unread_visits"]))


def ranked(model: MeraForDiagnosis, reading: Reading, cut: ChosenCut, top_k: int) -> CutRanking:
    """The first `top_k` codes of a patient and the set that the cut makes."""
    import torch

    with torch.no_grad():
        options: dict[str, Any] = {"coverage": cut.coverage, "coverage_of": cut.coverage_of, "eov_value": cut.value}
        ranking = model.decide(reading.output, *reading.history, **options)
        eov_size = model.decide(reading.output, *reading.history, top_k=1).set_sizes[0]
        order = ranking.order[0]
        probabilities = torch.empty_like(ranking.probabilities).scatter_(1, ranking.order, ranking.probabilities)
        values = model.cut_values(reading.output, probabilities.to(model.device))[0]
    codes, descriptions = model.config.codes, model.config.descriptions
    assert descriptions is not None
    rows = [
        CodeRow(rank, codes[index], descriptions[index], float(probabilities[0, index]), float(values[index]))
        for rank, index in enumerate(order[:top_k].tolist(), start=1)
    ]
    value = model.eov_cut if cut.value is None else cut.value
    return CutRanking(rows, int(ranking.set_sizes[0]), int(eov_size), cut, value, reading.unread_visits)


@dataclass(frozen=True)
class Scale:
    """
    The scale on which the cut is moved.

    Attributes:
        low, high, step (`float`): its ends, and the step of one key press.
        eov (`float`): the fitted value.
        value (`float`): where the cut is.
        rows (`list[CodeRow]`): the codes that the cut can put in or out of the set.
        unit (`str`): what the value of a code is: its `"logit"` above EOV's, its `"probability"`, or its `"worth"`.
        depth (`int`): the set is taken from this many first codes; 0 means all.
    """

    low: float
    high: float
    step: float
    eov: float
    value: float
    rows: list[CodeRow]
    unit: str
    depth: int


def scale(model: MeraForDiagnosis, reading: Reading, cut: ChosenCut) -> Scale:
    """The scale of a patient: it holds the codes at the head of the ranking, EOV and the cut."""
    head, config = model.ranking_head, model.config
    rows = ranked(model, reading, ChosenCut(), min(config.rerank_depth or _SHOWN, config.num_codes)).rows
    eov = model.eov_cut
    value = eov if cut.value is None else cut.value
    values = [row.value for row in rows] + [eov, value]
    plain = bool((head.value_weight == 1).all() and (head.value_threshold == 0).all())
    unit = "logit" if config.eov_offset is not None else "probability" if plain else "worth"
    # A little margin, so that the first code can be left out and the last one taken in
    room = 0.04 * (max(values) - min(values))
    low = 0.0 if unit == "probability" else min(values) - room
    high = max(values) + room
    return Scale(low, high, (high - low) / 200, eov, value, rows, unit, config.rerank_depth)
