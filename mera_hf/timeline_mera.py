"""A patient's visits as one token sequence, with the positions where the model decides and what is known there.

    <profile> female, aged 70 to 79 <visit> c11 c12 <eov> <visit> c21 ... <eov> ... <visit> cT1 ... cTn <eov>

Every token before a code or an EOV is a decision position: one forward pass holds the decisions of every visit and of
every prefix of its codes (layout of huggingface.co/papers/2501.17326, section on intra-visit patterns, folded into one
pass by this project). At evaluation the codes of a visit are written in the order of the tree, so that the order in which
they were recorded cannot change a ranking.

An encoder reads in both directions, so that an encoder-decoder sees the timeline cut once for every visit that it writes:
what stands before the `<visit>` is the encoder's, and from there on the decoder's ([`collate_pairs`]).
"""

import itertools
import math
import random
from dataclasses import dataclass

import torch


HISTORY_FEATURES = (
    "in the last visit",
    "only in an earlier visit",
    "log(1 + visits that had it)",
    "share of the visits that had it",
    "log(visits since it was last seen)",
    "written in the vocabulary of the last visit",
    "in the history",
)


@dataclass
class Timeline:
    """One patient as token ids and decisions.

    Attributes:
        input_ids: token ids of the sequence.
        positions: position of each token; tokens may share one, see `MeraConfig.positions`.
        decisions: for each decision, the position of the token in whose hidden state it is taken.
        decision_visits: for each decision, the index into `visits` of the visit that is being written.
        decision_given: for each decision, how many codes of that visit stand before it.
        visits: the code indices of each visit, in the order in which they are written.
        histories: for each visit with decisions, the codes before it and their features, see [`history_entries`].
        dropped_visits: number of oldest visits that `max_length` cut from the sequence (not from the history term).
    """

    input_ids: list[int]
    positions: list[int]
    decisions: list[int]
    decision_visits: list[int]
    decision_given: list[int]
    visits: list[list[int]]
    histories: dict[int, tuple[list[int], list[list[float]]]]
    dropped_visits: int = 0


def profile_text(profile: dict | None) -> str:
    """Write a profile in words: `{"sex": "F", "age": 72.0, "race": None}` -> `female, aged 70 to 79`.

    Age is in years at the first visit and written by decade. What is unknown is left out.
    """
    profile = profile or {}
    parts = []
    if profile.get("sex"):
        parts.append({"F": "female", "M": "male"}.get(profile["sex"], profile["sex"].lower()))
    if profile.get("age") is not None:
        decade = int(profile["age"]) // 10 * 10
        parts.append("aged 90 and over" if decade >= 90 else f"aged {decade} to {decade + 9}")
    if profile.get("race"):
        parts.append(profile["race"].lower())
    return ", ".join(parts)


class TimelineEncoder:
    """Writes patients as timelines for one model and its tokenizer.

    Args:
        config (`MeraConfig`): names the codes, their tokens and how the history is written.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer that holds the code tokens.
        max_length (`int`, *optional*): longest sequence in tokens; the oldest visits are left out until it fits.

    Raises:
        `ValueError`: where the tokenizer lacks the code tokens, or holds them at other ids than the model expects.
    """

    def __init__(self, config, tokenizer, max_length: int | None = None):
        check_code_tokens(config, tokenizer)
        self.config = config
        self.max_length = max_length
        self.code_index = {code: index for index, code in enumerate(config.codes)}
        self.vocabularies = [code.split(":")[0] for code in config.codes]  # ICD9CM, ICD10CM
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self.segments = [self._segment(index) for index in range(config.num_codes)]

    def _segment(self, index: int) -> list[int]:
        token = [self.config.code_token_start + index]
        if self.config.history_text == "code":
            return token
        words = self.words(self.config.descriptions[index])
        return token + words if self.config.history_text == "code+description" else words

    def words(self, text: str) -> list[int]:
        """Token ids of a phrase; phrases repeat across patients, so they are kept."""
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._cache[text]

    def indices(self, codes: list[str]) -> list[int]:
        """Indices of the codes of one visit in tree order, each once.

        Raises:
            `ValueError`: for a code that the model does not know.
        """
        unknown = [code for code in codes if code not in self.code_index]
        if unknown:
            raise ValueError(
                f"code {unknown[0]} is not one of the {self.config.num_codes} codes of this model"
                f"{f' ({len(unknown)} such codes in one visit)' if len(unknown) > 1 else ''}; use a model whose "
                "candidate codes include it, or leave it out."
            )
        return sorted({self.code_index[code] for code in codes})

    def encode(self, patient: dict, first_target: int = 1, shuffle: random.Random | None = None) -> Timeline:
        """Write a patient whose visits are all known, with the decisions of every visit from `first_target` on.

        Args:
            patient (`dict`): `profile` and `visits`, a row of a visits dataset.
            first_target (`int`): index of the first visit whose codes are decisions; 0 takes the first visit as well.
            shuffle (`random.Random`, *optional*): draws the order of the codes in each visit; tree order without it.
        """
        visits = [self.indices(visit["codes"]) for visit in patient["visits"]]
        if shuffle is not None:
            visits = [shuffle.sample(visit, len(visit)) for visit in visits]
        return self._write(patient, visits, first_target, open_visit=False)

    def encode_history(self, patient: dict) -> Timeline:
        """Write a patient whose next visit is to be ranked: one decision, behind the mark that opens that visit."""
        visits = [self.indices(visit["codes"]) for visit in patient["visits"]]
        return self._write(patient, visits, len(visits), open_visit=True)

    def _write(self, patient: dict, visits: list[list[int]], first_target: int, open_visit: bool) -> Timeline:
        config = self.config
        head = self.bos + [config.profile_token_id]
        if config.use_profile:
            head = head + self.words(profile_text(patient.get("profile")))
        blocks = []  # per visit: its tokens, the step of the position before each, and where in them the decisions lie
        shared = config.positions == "visit"
        for visit, codes in zip(patient["visits"], visits, strict=True):
            tokens, places = [config.visit_token_id], []
            for index in codes:
                places.append(len(tokens) - 1)
                tokens = tokens + self.segments[index]
            places.append(len(tokens) - 1)
            steps = [1] * len(tokens)
            if shared:
                steps[2:] = [0] * len(steps[2:])
            tokens.append(config.eov_token_id)
            if config.use_visit_text and visit.get("text"):
                tokens = tokens + self.words(visit["text"])
            steps += [1] * (len(tokens) - len(steps))
            blocks.append((tokens, steps, places))
        tail = [config.visit_token_id] if open_visit else []
        first = self._first_visit_that_fits(len(head) + len(tail), [len(tokens) for tokens, _, _ in blocks])

        timeline = Timeline(list(head), [], [], [], [], visits, {}, dropped_visits=first)
        steps = [0] + [1] * (len(head) - 1)
        for number in range(first, len(blocks)):
            tokens, block_steps, places = blocks[number]
            if number >= first_target:
                start = len(timeline.input_ids)
                timeline.decisions += [start + place for place in places]
                timeline.decision_visits += [number] * len(places)
                timeline.decision_given += range(len(places))
            timeline.input_ids += tokens
            steps += block_steps
        if open_visit:
            timeline.decisions.append(len(timeline.input_ids))
            timeline.decision_visits.append(len(blocks))
            timeline.decision_given.append(0)
            timeline.input_ids += tail
            steps.append(1)
        timeline.positions = list(itertools.accumulate(steps))
        for number in dict.fromkeys(timeline.decision_visits):
            timeline.histories[number] = history_entries(visits[:number], self.vocabularies)
        return timeline

    def _first_visit_that_fits(self, fixed: int, lengths: list[int]) -> int:
        if self.max_length is None:
            return 0
        room, first = self.max_length - fixed, len(lengths)
        while first > 0 and lengths[first - 1] <= room:
            first -= 1
            room -= lengths[first]
        return first


def history_entries(visits: list[list[int]], vocabularies: list[str]) -> tuple[list[int], list[list[float]]]:
    """The codes of a history and their features f_c, in the order of [`HISTORY_FEATURES`] (this project's choice).

    Args:
        visits: code indices of the visits before the decision, oldest first.
        vocabularies: vocabulary of every code. Once a hospital has moved to ICD-10, ICD-9 codes do not return.

    Returns:
        the distinct code indices, ascending, and one feature row for each.

    Example:
        >>> codes, features = history_entries([[0, 1], [1]], ["ICD9CM", "ICD10CM"])
        >>> codes, features[0]
        ([0, 1], [0.0, 1.0, 0.6931471805599453, 0.5, 0.6931471805599453, 0.0, 1.0])
    """
    counts: dict[int, int] = {}
    last_seen: dict[int, int] = {}
    for number, visit in enumerate(visits):
        for code in visit:
            counts[code] = counts.get(code, 0) + 1
            last_seen[code] = number
    codes = sorted(counts)
    current = {vocabularies[code] for code in visits[-1]} if visits else set()
    features = []
    for code in codes:
        gap = len(visits) - last_seen[code]  # 1: in the last visit
        count = counts[code]
        share, now = count / len(visits), float(vocabularies[code] in current)
        features.append([float(gap == 1), float(gap > 1), math.log1p(count), share, math.log(gap), now, 1.0])
    return codes, features


def collate_timelines(timelines: list[Timeline], pad_token_id: int, padding_side: str = "right") -> dict:
    """Pad timelines into a batch.

    Axes: batch `B`, tokens `S`, decisions `P`, target visits `V`, codes of a visit `M`, codes of a history `H`.

    Returns a `dict` of tensors, int64 unless stated:
        `input_ids`, `attention_mask`, `position_ids` (B, S);
        `decision_index` (P,) positions in the flattened (B * S) sequence; `decision_visit` (P,) rows of the target visit
        tables below; `decision_given` (P,) codes of the visit that stand before the decision;
        `visit_patient` (V,) rows of the batch; `visit_codes` (V, M) code indices as written, -1 where there is none;
        `history_codes` (V, H), -1 where there is none; `history_values` (V, H, 7) float32.
    """
    width = max(len(timeline.input_ids) for timeline in timelines)
    ids, mask, positions = [], [], []
    decision_index, decision_visit, decision_given = [], [], []
    visit_patient, visit_codes, histories = [], [], []
    for row, timeline in enumerate(timelines):
        padding = width - len(timeline.input_ids)
        left = padding if padding_side == "left" else 0
        ids.append([pad_token_id] * left + timeline.input_ids + [pad_token_id] * (padding - left))
        positions.append([0] * left + timeline.positions + [0] * (padding - left))
        mask.append([0] * left + [1] * len(timeline.input_ids) + [0] * (padding - left))
        decision_index += [row * width + left + position for position in timeline.decisions]
        decision_given += timeline.decision_given
        table_row = {}
        for visit in timeline.decision_visits:
            if visit not in table_row:
                table_row[visit] = len(visit_patient)
                visit_patient.append(row)
                visit_codes.append(timeline.visits[visit] if visit < len(timeline.visits) else [])
                histories.append(timeline.histories[visit])
            decision_visit.append(table_row[visit])

    codes_width = max([len(codes) for codes in visit_codes], default=0)
    history_width = max([len(codes) for codes, _ in histories], default=0)
    history_values = torch.zeros(len(histories), history_width, len(HISTORY_FEATURES))
    for row, (codes, values) in enumerate(histories):
        if codes:
            history_values[row, : len(codes)] = torch.tensor(values)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "position_ids": torch.tensor(positions),
        "decision_index": torch.tensor(decision_index, dtype=torch.long),
        "decision_visit": torch.tensor(decision_visit, dtype=torch.long),
        "decision_given": torch.tensor(decision_given, dtype=torch.long),
        "visit_patient": torch.tensor(visit_patient, dtype=torch.long),
        "visit_codes": _padded(visit_codes, codes_width),
        "history_codes": _padded([codes for codes, _ in histories], history_width),
        "history_values": history_values,
    }


def collate_pairs(timelines: list[Timeline], pad_token_id: int, decoder_start_token_id: int) -> dict:
    """Pad timelines into a batch for an encoder-decoder, one row for each target visit: all decisions of a visit share it.

    The batch is that of [`collate_timelines`], row `v` being target visit `v`, except for
        `input_ids`, `attention_mask` (V, S): the timeline before the visit, nothing of which the visit can be told from;
        `decoder_input_ids` (V, T): the start token, then the visit from its mark to the last decision, padded on the right;
        `decision_index` (P,): positions in the flattened (V * T) tokens of the decoder;
        and there are no `position_ids`.
    """
    read, written, places = [], [], []
    for timeline in timelines:
        visits = itertools.groupby(
            zip(timeline.decision_visits, timeline.decisions, strict=True), lambda pair: pair[0]
        )
        for _, decisions in visits:
            decisions = [place for _, place in decisions]
            start = decisions[0]  # the mark of the visit
            read.append(timeline.input_ids[:start])
            written.append([decoder_start_token_id, *timeline.input_ids[start : decisions[-1] + 1]])
            places.append([place - start + 1 for place in decisions])
    longest, width = max(map(len, read)), max(map(len, written))
    decision_index = [row * width + place for row, decisions in enumerate(places) for place in decisions]
    batch = collate_timelines(timelines, pad_token_id)
    del batch["position_ids"]
    return batch | {
        "input_ids": _padded(read, longest, pad_token_id),
        "attention_mask": _padded([[1] * len(tokens) for tokens in read], longest, 0),
        "decoder_input_ids": _padded(written, width, pad_token_id),
        "decision_index": torch.tensor(decision_index, dtype=torch.long),
    }


def _padded(rows: list[list[int]], width: int, filler: int = -1) -> torch.Tensor:
    rows = [row + [filler] * (width - len(row)) for row in rows]
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), width)


def check_code_tokens(config, tokenizer) -> None:
    """Refuse a tokenizer that does not hold the model's code tokens where the model expects them.

    Raises:
        `ValueError`: naming the first token that is missing or lies elsewhere.
    """
    if config.code_token_start is None:
        raise ValueError(
            "the model has no code tokens yet; add them with `mera_hf.add_code_tokens(model, tokenizer, codes)`."
        )
    wanted = {
        **{f"<{code}>": config.code_token_start + index for index, code in enumerate(config.codes)},
        "<eov>": config.eov_token_id,
        "<visit>": config.visit_token_id,
        "<profile>": config.profile_token_id,
    }
    vocabulary = tokenizer.get_vocab()
    for token, index in wanted.items():
        if vocabulary.get(token) != index:
            found = f"has it at {vocabulary[token]}" if token in vocabulary else "does not have it"
            raise ValueError(
                f"`tokenizer` does not belong to this model: the model expects the code token {token} at id {index}, and the "
                f"tokenizer {found}. Load the tokenizer that was saved with the checkpoint."
            )


__all__ = [
    "HISTORY_FEATURES",
    "Timeline",
    "TimelineEncoder",
    "check_code_tokens",
    "collate_pairs",
    "collate_timelines",
    "history_entries",
    "profile_text",
]
