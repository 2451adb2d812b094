"""What a model knows of codes that were held out of the questions: whether it memorizes pairs, or learns what codes mean.

All of it is this project's choice. The paper asks only about codes that were memorized.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mera_hf.data.memorizing import Pair, memorizing_pairs
from mera_hf.evaluation.figures import Value, format_figure, over_seeds
from mera_hf.evaluation.sections.strata import FREQUENCIES, binned
from mera_hf.training.memorization_trainer import PairCollator, PairDataset, answers


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

HELD_OUT_SHARE = 0.2
DIRECTIONS = ("code_to_definition", "definition_to_code")
KINDS = {  # which codes are asked about, and how
    "seen": "seen codes, words trained on",
    "unseen": "seen codes, other words",
    "held_out": "held-out codes, words trained on",
}
EVERY, MOST_VISITS = "all", "> 100"
VISITS = (EVERY, *FREQUENCIES, MOST_VISITS)  # training visits with the code
AXES = ("question", "codes", "visits")  # of the groups
MEASURES = ("exact_match", "token_f1", "place")
Item = tuple[list[int], list[int]]  # question and answer


def draw_codes(codes: Sequence[str], seed: int) -> list[str]:
    """The codes that are held out with a seed, in the order of `codes`: a fifth of them, one at least."""
    drawn = set(random.Random(seed).sample(sorted(codes), max(1, round(HELD_OUT_SHARE * len(codes)))))
    return [code for code in codes if code in drawn]


def encoder_decoder_like(architecture: Mapping[str, Any]) -> dict | None:
    """The architecture of a T5 as wide as a decoder, with its number of heads and layers; encoder and decoder have that
    many layers each. It has no dropout, which in T5 acts everywhere. `None` if it is an encoder-decoder already.

    Args:
        architecture (`Mapping`): `from_scratch` of a recipe, `model_type` and fields of its config.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(**architecture)
    if config.is_encoder_decoder:
        return None
    width, heads = config.hidden_size, config.num_attention_heads
    return {
        "model_type": "t5",
        "d_model": width,
        "d_kv": width // heads,
        "d_ff": getattr(config, "intermediate_size", None) or 4 * width,
        "num_layers": config.num_hidden_layers,
        "num_heads": heads,
        "dropout_rate": 0.0,
    }


def token_f1(said: Sequence[int], wanted: Sequence[int]) -> float:
    """F1 of the tokens of an answer, as SQuAD counts words (Rajpurkar et al. 2016).

    A token counts as often as both have it, wherever it stands: with `common` the sum over tokens of the smaller of the
    two counts, precision is `common / len(said)`, recall is `common / len(wanted)`, and F1 is their harmonic mean; 0 if
    they have nothing in common. Without the end of sequence, and nothing is normalised: tokens of the model stand for words.

    Args:
        said (`Sequence[int]`): token ids of the answer; may be empty.
        wanted (`Sequence[int]`): token ids of the expected answer, one at least.
    """
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def places(scores: Tensor, right: Tensor) -> Tensor:
    """The place of the right code, from 1: one more than there are higher scores, and half of those that are equal.

    Args:
        scores: shape `(Q, C)`.
        right: the right code of each question, int64 of shape `(Q,)`.

    Returns:
        shape `(Q,)`, float64.
    """
    mine = scores.gather(1, right[:, None])  # (Q, 1)
    above, equal = (scores > mine).sum(1), (scores == mine).sum(1) - 1
    return 1 + above.double() + equal.double() / 2


@torch.no_grad()
def code_scores(model: MeraForDiagnosis, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> Tensor:
    """Logits of all codes as the first token of the answer, in the order of `config.codes`: float32 of shape `(Q, C)`.

    An answer that is a code is this token and the end of sequence, so that nothing else decides which code is likeliest.
    """
    config = model.config
    batch = PairCollator(tokenizer.pad_token_id or 0, config.decoder_start_token_id)(list(items))
    labels = batch.pop("labels")  # (Q, S)
    first = (labels != -100).int().argmax(1)  # (Q,)
    if not config.is_encoder_decoder:
        first = first - 1  # a token is predicted at the position before it
    index = torch.arange(len(labels)) * labels.shape[1] + first
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    logits = model(**inputs, vocabulary_index=index.to(model.device)).vocabulary_logits
    assert logits is not None and config.code_token_start is not None
    return logits[:, config.code_token_start :][:, : config.num_codes].float().cpu()


def measure_knowledge(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[str],
    visits: Sequence[int],
    batch_size: int = 256,
) -> list[dict]:
    """Ask a model for the definition of every code and for the code of every definition, and count by group of codes.

    Args:
        model (`MeraForDiagnosis`): a model that memorized, in evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        held_out (`Sequence[str]`): the codes that it was not asked about.
        visits (`Sequence[int]`): training visits with each code of `config.codes`.
        batch_size (`int`, *optional*, defaults to 256): questions at a time.

    Returns:
        one `dict` per question of [`DIRECTIONS`], kind of codes in [`KINDS`], and number of training visits (`"all"`,
        `"<= 5"`, `"6-20"` ...; those without a code are left out): `question`, `codes`, `visits`, `count` (codes), and means
        over these: `exact_match` (right to the last token), [`token_f1`] and, of codes, `place` (see [`places`]; among all
        codes, by [`code_scores`]).
    """
    codes, left_out = model.config.codes, set(held_out)
    number = {code: index for index, code in enumerate(codes)}
    names, bins = binned(visits, FREQUENCIES, MOST_VISITS)
    trained_on = [pair for pair in memorizing_pairs(codes, groups=False) if pair.wording == 0]
    asked = {
        "seen": [pair for pair in trained_on if pair.code not in left_out],
        "unseen": [pair for pair in memorizing_pairs(codes, True, groups=False) if pair.code not in left_out],
        "held_out": [pair for pair in trained_on if pair.code in left_out],
    }
    groups = []
    for question in DIRECTIONS:
        for kind, pairs in asked.items():
            pairs = [pair for pair in pairs if pair.task == question]
            found = _ask(model, tokenizer, pairs, number, batch_size, f"{question}, {kind}")
            bin_of = bins[[number[pair.code] for pair in pairs]]
            for name, chosen in [(EVERY, bin_of >= 0), *((name, bin_of == i) for i, name in enumerate(names))]:
                if chosen.any():
                    means = {measure: float(values[chosen].mean()) for measure, values in found.items()}
                    which = dict(zip(AXES, (question, kind, name), strict=True))
                    groups.append(which | {"count": int(chosen.sum())} | means)
    return groups


def _ask(model, tokenizer, pairs: list[Pair], number: dict[str, int], batch_size: int, what: str) -> dict:
    """The measures of each pair, shape `(len(pairs),)` each. Answers may be as long as the longest expected one."""
    items: list[Item] = PairDataset(pairs, tokenizer).items
    most = max((len(answer) for _, answer in items), default=0)
    order = sorted(range(len(items)), key=lambda row: len(items[row][0]))
    of_codes = bool(pairs) and pairs[0].task == "definition_to_code"
    found = {measure: np.zeros(len(items)) for measure in MEASURES[: 2 + of_codes]}
    for start in tqdm(range(0, len(order), batch_size), desc=what, unit="batch"):
        rows = order[start : start + batch_size]
        said = answers(model, tokenizer, [items[row][0] for row in rows], most)
        for row, tokens in zip(rows, said, strict=True):
            wanted, end = items[row][1][:-1], items[row][1][-1]
            ends = end in tokens
            tokens = tokens[: tokens.index(end)] if ends else tokens
            found["exact_match"][row] = ends and tokens == wanted
            found["token_f1"][row] = token_f1(tokens, wanted)
        if of_codes:
            scores = code_scores(model, tokenizer, [items[row] for row in rows])
            found["place"][rows] = places(scores, torch.tensor([number[pairs[row].code] for row in rows])).numpy()
    return found


def over_runs(runs: Mapping[str, Sequence[Mapping]]) -> dict:
    """The part of an experiment that tells what held-out codes cost, over seeds.

    Args:
        runs (`Mapping`): name of a model to its runs, from `finish_held_out`.

    Returns:
        `share` of the codes that are held out, number of `codes`, and `models`: for each its `name`, `title`, `parameters` and
        `groups` as in [`measure_knowledge`], each figure over the seeds that have the group.
    """
    models = []
    for name, of in runs.items():
        groups = []
        for key in itertools.product(DIRECTIONS, KINDS, VISITS):
            found = [group for run in of for group in run["groups"] if tuple(group[axis] for axis in AXES) == key]
            if found:
                shown = [measure for measure in ("count", *MEASURES) if measure in found[0]]
                figures = {measure: over_seeds([group[measure] for group in found]) for measure in shown}
                groups.append(dict(zip(AXES, key, strict=True)) | figures)
        kind = of[0]["model"]
        title = f"{'encoder-decoder' if kind['is_encoder_decoder'] else 'decoder'} ({kind['model_type']})"
        models.append({"name": name, "title": title, "parameters": kind["parameters"], "groups": groups})
    codes = next(iter(runs.values()))[0]["codes"]
    return {"share": HELD_OUT_SHARE, "codes": codes, "models": models}


def knowledge_of(model: Mapping, question: str, codes: str, visits: str = EVERY) -> dict:
    """The group of a model of [`over_runs`] with these names; empty if no code is in it."""
    key = (question, codes, visits)
    return next((group for group in model["groups"] if tuple(group[axis] for axis in AXES) == key), {})


def place_text(place: Value | None) -> str:
    """A mean place as tables show it, `12.3`, or `12.3 ± 0.4` over seeds."""
    return format_figure("mean_set_size", place)  # a number of codes
