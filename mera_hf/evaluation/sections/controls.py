"""Controls: runs that must do worse if the ranker has learned what it claims, and what it means if they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Note, Paragraph, Row, Table, Terms
from mera_hf.data.samples import Sample
from mera_hf.errors import InputError
from mera_hf.evaluation.bootstrap import mean_interval
from mera_hf.evaluation.figures import (
    AS_WELL,
    TITLES,
    Value,
    columns_of,
    format_figure,
    heading_of,
    mean_of,
    tied,
    title_of,
)
from mera_hf.evaluation.metrics import KS
from mera_hf.evaluation.tally import tally_ranking


if TYPE_CHECKING:
    import numpy as np

    from mera_hf.evaluation.rankings.ranked import Ranking


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        title (`str`): its row in a table.
        change (`str`): what was done, as the beginning of a sentence.
        meaning (`str`): what it means if the control does as well.
        loss (`str`): what it means if it does worse.
    """

    title: str
    change: str
    meaning: str
    loss: str


# The first two are measured at evaluation, `copy_history` is a reference ranker, the others are separate trainings
CONTROLS = {
    name: Control(TITLES[name], *texts)
    for name, texts in {
        "shuffled_history": (
            "Shown another patient's history instead of their own",
            "The ranking hardly depends on the history: it has not learned what patients' pasts tell.",
            "What it loses, it had from the patient's own history.",
        ),
        "shuffled_profile": (
            "Told another patient's sex, age and race instead of their own",
            "The ranking hardly depends on the profile: leaving it out would cost nothing here.",
            "What it loses, it had from the patient's own profile.",
        ),
        "copy_history": (
            "Repeating the codes of earlier visits, the commonest codes after them",
            "The model adds nothing to copying.",
            "What is above that, copying cannot find.",
        ),
        "shuffled_hierarchy": (
            "Trained with the codes dealt out at random in the tree",
            "Which codes share a group says nothing here: the tree is not what helps, if anything does.",
            "What it loses, it had from the groups of the tree.",
        ),
        "random_rows": (
            "Trained with code tokens that start at random",
            "What the descriptions say of the codes brings nothing here.",
            "What it loses, it had from where the code tokens start.",
        ),
        "description_rows": (
            "Trained with code tokens that start as the mean of their description's words",
            "The base model's own words are as good a start as the one it is compared with.",
            "What it loses, the other start knows of the codes and the base model's words do not.",
        ),
        "encoder_rows": (
            "Trained with code tokens that start as a sentence encoder's embedding of the description",
            "A sentence encoder knows no more of the codes than the start it is compared with.",
            "What it loses, the other start knows of the codes and a sentence encoder does not.",
        ),
        "shuffled_rows": (
            "Trained with the rows of the code tokens dealt out at random among the codes",
            "It is the spread of the rows that helps, not what the descriptions say.",
            "What it loses, it had from each code having the row of its own description.",
        ),
        "without_memorizing": (
            "Trained without memorizing first",
            "Memorizing what the codes mean brings nothing to the ranking here.",
            "What it loses, it had from memorizing what the codes mean.",
        ),
        "with_memorizing": (
            "Trained from the memorized checkpoint",
            "Memorizing what the codes mean brings nothing to the ranking here.",
            "Memorizing first costs that much here.",
        ),
    }.items()
}


def shuffled_histories(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Give each sample the history of another one, including its texts; profile and target stay.

    The permutation is one cycle through all samples in a random order, so that nobody keeps their own history.

    Raises:
        [`~mera_hf.errors.InputError`]: with fewer than two samples.
    """
    return [replace(sample, history=giver.history, texts=giver.texts) for sample, giver in _with_others(samples, seed)]


def shuffled_profiles(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Give each sample the profile of another one, by the permutation of [`shuffled_histories`]; all else stays.

    Raises:
        [`~mera_hf.errors.InputError`]: with fewer than two samples.
    """
    return [replace(sample, profile=giver.profile) for sample, giver in _with_others(samples, seed)]


def _with_others(samples: Sequence[Sample], seed: int) -> list[tuple[Sample, Sample]]:
    import numpy as np

    if len(samples) < 2:
        raise InputError(f"A control that shuffles patients needs two samples or more, not {len(samples)}.")
    cycle = np.random.default_rng(seed).permutation(len(samples))
    giver_of = dict(zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True))
    return [(sample, samples[giver_of[row]]) for row, sample in enumerate(samples)]


def evaluation_controls(
    rank: Callable[[Sequence[Sample], str], Ranking],
    order: np.ndarray,
    samples: Sequence[Sample],
    ks: Sequence[int] = KS,
    seed: int = 0,
    use_profile: bool = False,
) -> dict[str, dict]:
    """Metrics of a ranker that was shown other patients' histories, or told their profiles (this project's choice).

    Without the right histories, a ranker knows nothing of the patient: figures should be near the prevalence ranker's.

    Args:
        rank (`Callable`):
            Function of samples and a progress bar title that returns the ranking.
        order (`np.ndarray` of shape (patients, K)):
            The ranker's own ranking of the samples.
        samples (`Sequence[Sample]`):
            The samples that the ranker was measured on, one per patient. Repeated and new codes are still told apart
            by each patient's own history, so the two parts of recall are comparable with the ranker's row.
        ks (`Sequence[int]`), seed (`int`): k of the metrics, and seed of the permutation.
        use_profile (`bool`, defaults to `False`):
            Whether the ranker reads the profile.

    Returns:
        `dict[str, dict]`: the sections `controls` and `drops` of `metrics.json`; both empty with fewer than two samples.
    """
    shuffles = {"shuffled_history": shuffled_histories}
    if use_profile and any(value is not None for sample in samples for value in sample.profile.values()):
        shuffles["shuffled_profile"] = shuffled_profiles
    if len(samples) < 2:
        return {"controls": {}, "drops": {}}
    own = tally_ranking(order, None, samples, ks).values
    controls, drops = {}, {}
    for name, shuffle in shuffles.items():
        control = rank(shuffle(samples, seed), name.replace("_", " "))
        tally = tally_ranking(control.order, control.set_sizes, samples, ks)
        controls[name] = tally.measure()
        drops[name] = {
            metric: mean_interval(own[metric] - tally.values[metric]) for metric in map("recall@{}".format, ks)
        }
    return {"controls": controls, "drops": drops}


def control_sentence(
    name: str,
    own: Value,
    control: Value,
    interval: Sequence[float] | None = None,
    metric: str = "recall@20",
) -> str:
    """What a control says, in plain words.

    A difference below one point counts as none. A larger one whose interval contains 0 may be chance: undecided.

    Args:
        name (`str`): one of [`CONTROLS`].
        own (`float` or `dict`): the figure without the change; a fraction or a spread.
        control (`float` or `dict`): the control's figure.
        interval (`Sequence[float]`, *optional*): `[low, high]` of `own - control`, the same patients on both sides.
        metric (`str`, defaults to `"recall@20"`): what was measured.

    Raises:
        [`~mera_hf.errors.InputError`]: for a name that is not a control.
    """
    if name not in CONTROLS:
        raise InputError(f"`name` is {name!r}; choose one of {', '.join(CONTROLS)}.")
    words, drop = CONTROLS[name], mean_of(own) - mean_of(control)
    low, high = interval or (drop, drop)
    text = f"{words.change}: {metric} of {format_figure(metric, control)} % instead of {format_figure(metric, own)} %"
    if interval:
        text += f" (a difference of {-100 * high:+.1f} to {-100 * low:+.1f} points, 95 % interval over patients)"
    if abs(drop) < AS_WELL:
        return f"{text}, which is as well. {words.meaning}"
    if low <= 0 <= high:
        return f"{text}. These patients are too few to say whether it does as well."
    return f"{text}. {words.loss if drop > 0 else 'The control does better.'}"


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """[`control_sentence`] for the recall@20 of each control in a `metrics.json`."""
    rankers, drops, metric = metrics["rankers"], metrics.get("drops", {}), "recall@20"
    found = []
    for name, figures in metrics["controls"].items():
        if metric in figures and metric in rankers["mera"]:
            interval = drops.get(name, {}).get(metric)
            text = control_sentence(name, rankers["mera"][metric], figures[metric], interval, metric)
            if name == "shuffled_history" and "prevalence" in rankers:
                known = format_figure(metric, rankers["prevalence"][metric])
                text += f" Ranking by prevalence alone gives {known} %."
            found.append(text)
    return found


LABEL, HEADING = "Controls", "Controls: what MERA should lose"


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    metrics = report["metrics"]
    if not metrics["controls"] or "mera" not in metrics["rankers"]:
        return []
    told = [Paragraph(tied(sentence)) for sentence in sentences(metrics)]
    known = meanings(metrics)
    shown: list[Block] = [Note(told)] if told else []
    shown.append(table(metrics))
    if known:
        shown += [Paragraph("What it would mean if a control did as well as MERA:"), Terms(known)]
    return shown


def meanings(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each control, with what it would mean if it did as well."""
    return [(title_of(name), CONTROLS[name].meaning) for name in metrics["controls"] if name in CONTROLS]


def table(metrics: Mapping[str, Any]) -> Table:
    """Each control beside MERA."""
    rankers = {"mera": metrics["rankers"]["mera"]} | metrics["controls"]
    columns = columns_of(
        rankers.values(), ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "new_recall@20")
    )
    rows = [
        Row(title_of(name), [format_figure(c, figures.get(c)) for c in columns], kind="mera" * (name == "mera"))
        for name, figures in rankers.items()
    ]
    return Table("MERA and its controls, percent", ["run", *map(heading_of, columns)], rows)
