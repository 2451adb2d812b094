"""A patient's visits as one token sequence, with the positions where the model decides and what is known there.

    <profile> female, aged 70 to 79 <visit> c11 c12 <eov> <visit> c21 ... <eov> ... <visit> cT1 ... cTn <eov>

Every token before a code or an EOV is a decision position: one forward pass holds the decisions of every visit and of
every prefix of its codes (layout of huggingface.co/papers/2501.17326, section on intra-visit patterns, folded into one
pass by this project). At evaluation the codes of a visit are written in the order of the ICD tree, so that the order in which
they were recorded cannot change a ranking.

A timeline may also branch: the trunk is the history in whatever words, and every visit to predict has one branch or several
that go on from the end of its history with bare codes, each in an order of its own.

    <profile> ... <visit> c11 Diabetes c12 Fever <eov> <visit> c21 Hypertension c22 Asthma <eov>
                                                      |- <visit> c21 c22                        |- <visit> c31 c32 c33
                                                      `- <visit> c22 c21                        `- <visit> c33 c31 c32

An encoder reads in both directions, so that an encoder-decoder sees the timeline cut once for every visit that it writes:
what stands before the `<visit>` is the encoder's, and from there on the decoder's ([`collate_pairs`]).
"""

import itertools
import math
import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

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
_MOST_PHRASES = 20_000  # kept as token ids: of profiles and descriptions, not of a million notes


@dataclass
class Timeline:
    """One patient as token ids and decisions.

    Attributes:
        input_ids: token ids of the sequence.
        positions: position of each token; tokens may share one, see `MeraConfig.positions`.
        decisions: for each decision, the position of the token in whose hidden state it is taken.
        decision_visits: for each decision, the index into `visits` of the visit that is being written.
        decision_given: for each decision, how many codes of that visit stand before it.
        visits: the code indices of each visit, in the order in which they are written; of each branch where it branches.
        histories: for each visit with decisions, the codes before it and their features, see [`history_entries`].
        unread_visits: number of oldest visits that `max_length` cut from the sequence (not from the history term).
        branches: for each branch, the positions of its first token and of the first token of the trunk that it does not
            see. Branches follow the trunk and each other; a timeline without any is one sequence.
    """

    input_ids: list[int]
    positions: list[int]
    decisions: list[int]
    decision_visits: list[int]
    decision_given: list[int]
    visits: list[list[int]]
    histories: dict[int, tuple[list[int], list[list[float]]]]
    unread_visits: int = 0
    branches: list[tuple[int, int]] = field(default_factory=list)

    @property
    def pieces(self) -> list[tuple[int, int, int]]:
        """The trunk and each branch: position of the first token, end of the trunk that is seen, position of the end."""
        begins = [(0, 0), *self.branches, (len(self.input_ids), 0)]
        return [(begin, limit, end) for (begin, limit), (end, _) in itertools.pairwise(begins)]

    @property
    def reach(self) -> int:
        """Most tokens that a token sees, itself among them."""
        return max(limit + end - begin for begin, limit, end in self.pieces)


@dataclass
class Patient:
    """A patient as numbers, from which timelines are written.

    Attributes:
        head: token ids before the first visit: the profile.
        visits: the code indices of each visit, in the order in which they are to be written.
        tails: for each visit, the token ids of its text.
    """

    head: list[int]
    visits: list[list[int]]
    tails: list[list[int]]


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
        max_length (`int`, *optional*): longest history in tokens, that of the config without it, see [`MeraConfig`].

    What is read of a history does not depend on the visit that follows: head, visits and the mark of the next visit take at
    most `max_length` tokens, the oldest visits are left out until they do, and the codes of the visit to predict come on top.
    All visits of a timeline begin where the history of the last one does, so that an earlier one may see less of its own. Of
    a visit to predict that goes beyond the positions of the language model, the decisions out there are left out; the first
    one, which ranks, never is.

    Raises:
        `ValueError`: where the tokenizer lacks the code tokens, or holds them at other ids than the model expects; for a
            `max_length` below 1 or beyond the positions of the language model; when a patient is written, where not even the
            profile fits.
    """

    def __init__(self, config, tokenizer, max_length: int | None = None):
        check_code_tokens(config, tokenizer)
        self.config = config
        self.max_length = config.reading_length(max_length)
        self.position_limit = None if self.max_length is None else config.position_limit
        codes = config.codes
        self.code_index = {code: index for index, code in enumerate(codes)}
        self.vocabularies = [code.split(":")[0] for code in codes]  # ICD9CM, ICD10CM
        self.bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self.segments = self._segments()
        # Reading a field of a config costs more than all else that is done for a visit
        self.visit_mark, self.eov, self.with_text = config.visit_token_id, config.eov_token_id, config.use_visit_text
        self.shared_positions = config.positions == "visit"
        self.in_pairs = config.is_encoder_decoder

    def _segments(self) -> list[list[int]]:
        """The tokens of each code in a history."""
        start, text = self.config.code_token_start, self.config.history_text
        tokens = [[start + index] for index in range(len(self.code_index))]
        if text == "code":
            return tokens
        words = [self.words(description) for description in self.config.descriptions]
        return (
            [token + more for token, more in zip(tokens, words, strict=True)] if text == "code+description" else words
        )

    def words(self, text: str) -> list[int]:
        """Token ids of a phrase; phrases repeat across patients, so they are kept."""
        if text not in self._cache:
            if len(self._cache) == _MOST_PHRASES:
                self._cache.clear()  # of notes, each is seen once
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

    def read(self, patient: dict) -> Patient:
        """The numbers of a row of a visits dataset, with codes in tree order.

        Raises:
            `ValueError`: for a code that the model does not know.
        """
        visits = patient["visits"]
        head = self.bos + [self.config.profile_token_id]
        if self.config.use_profile:
            head = head + self.words(profile_text(patient.get("profile")))
        tails = [self.words(visit["text"]) if self.with_text and visit.get("text") else [] for visit in visits]
        return Patient(head, [self.indices(visit["codes"]) for visit in visits], tails)

    def encode(self, patient: dict | Patient, first_target: int = 1, shuffle: random.Random | None = None) -> Timeline:
        """Write a patient whose visits are all known, with the decisions of every visit from `first_target` on.

        Args:
            patient (`dict` or [`Patient`]): `profile` and `visits`, a row of a visits dataset, or what [`read`] made of it.
            first_target (`int`): index of the first visit whose codes are decisions; 0 takes the first visit as well.
            shuffle (`random.Random`, *optional*): draws the order of the codes in each visit; tree order without it.
        """
        return self._write(self._drawn(patient, shuffle), first_target, open_visit=False)

    def encode_history(self, patient: dict | Patient) -> Timeline:
        """Write a patient whose next visit is to be ranked: one decision, behind the mark that opens that visit."""
        patient = self._drawn(patient)
        return self._write(patient, len(patient.visits), open_visit=True)

    def encode_tree(
        self, patient: dict | Patient, first_target: int = 1, orders: int = 1, shuffle: random.Random | None = None
    ) -> Timeline:
        """Write a patient whose visits are all known as a trunk with branches, see above; decisions lie in branches.

        Args:
            patient, first_target, shuffle: as in [`encode`].
            orders (`int`): branches of each visit from `first_target` on. The first has the order of the trunk.
        """
        patient = self._drawn(patient, shuffle)
        trunk, visits = list(patient.head), patient.visits
        blocks = [self._block(codes, tail) for codes, tail in zip(visits, patient.tails, strict=True)]
        first = self._first_read(trunk, blocks[:-1])  # nothing follows the last visit, so that it has branches alone
        steps, limits = [0] + [1] * (len(trunk) - 1), {}
        for number in range(first, len(blocks)):
            limits[number] = len(trunk)
            if number < len(blocks) - 1:
                trunk = trunk + blocks[number][0]
                steps += blocks[number][1]

        timeline = Timeline(trunk, list(itertools.accumulate(steps)), [], [], [], [], {}, unread_visits=first)
        for number in range(max(first, first_target), len(blocks)):
            codes, limit = visits[number], limits[number]
            history = history_entries(visits[:number], self.vocabularies)
            for order in range(orders):
                if order and shuffle is not None:
                    codes = shuffle.sample(codes, len(codes))
                start = len(timeline.input_ids)
                count = len(self._within_positions(limit, range(1 + len(codes))))
                tokens = [self.visit_mark, *(self.config.code_token_start + code for code in codes)]
                timeline.input_ids += tokens[:count]
                steps = self._steps(count)
                timeline.positions += [timeline.positions[limit - 1] + step for step in itertools.accumulate(steps)]
                timeline.decisions += range(start, len(timeline.input_ids))
                timeline.decision_visits += [len(timeline.branches)] * count
                timeline.decision_given += range(count)
                timeline.histories[len(timeline.branches)] = history
                timeline.visits.append(codes)
                timeline.branches.append((start, limit))
        return timeline

    def _drawn(self, patient: dict | Patient, shuffle: random.Random | None = None) -> Patient:
        """A patient with the codes of each visit in a random order; in tree order without `shuffle`."""
        patient = patient if isinstance(patient, Patient) else self.read(patient)
        if shuffle is None:
            return patient
        return Patient(patient.head, [shuffle.sample(visit, len(visit)) for visit in patient.visits], patient.tails)

    def _steps(self, count: int) -> list[int]:
        """How far the position moves to each of the tokens that a visit begins with, its mark and its codes."""
        steps = [1] * count
        if self.shared_positions:
            steps[2:] = [0] * len(steps[2:])
        return steps

    def _block(self, codes: list[int], tail: list[int]) -> tuple[list[int], list[int], list[int]]:
        """The tokens of a visit, the step of the position to each, and where in them its decisions lie."""
        tokens, places = [self.visit_mark], []
        for index in codes:
            places.append(len(tokens) - 1)
            tokens += self.segments[index]
        places.append(len(tokens) - 1)
        steps = self._steps(len(tokens))
        tokens.append(self.eov)
        tokens += tail
        return tokens, steps + [1] * (len(tokens) - len(steps)), places

    def _write(self, patient: Patient, first_target: int, open_visit: bool) -> Timeline:
        head, visits = patient.head, patient.visits
        blocks = [self._block(codes, tail) for codes, tail in zip(visits, patient.tails, strict=True)]
        first = self._first_read(head, blocks if open_visit else blocks[:-1])

        timeline = Timeline(list(head), [], [], [], [], visits, {}, unread_visits=first)
        steps = [0] + [1] * (len(head) - 1)
        for number in range(first, len(blocks)):
            tokens, block_steps, places = blocks[number]
            if number >= first_target:
                start = len(timeline.input_ids)
                places = self._within_positions(start, places)
                timeline.decisions += [start + place for place in places]
                timeline.decision_visits += [number] * len(places)
                timeline.decision_given += range(len(places))
            timeline.input_ids += tokens
            steps += block_steps
        if open_visit:
            timeline.decisions.append(len(timeline.input_ids))
            timeline.decision_visits.append(len(blocks))
            timeline.decision_given.append(0)
            timeline.input_ids.append(self.visit_mark)
            steps.append(1)
        elif not self.in_pairs:  # whose encoder does not read the visit to predict
            timeline.input_ids, steps = timeline.input_ids[: self.position_limit], steps[: self.position_limit]
        timeline.positions = list(itertools.accumulate(steps))
        for number in dict.fromkeys(timeline.decision_visits):
            timeline.histories[number] = history_entries(visits[:number], self.vocabularies)
        return timeline

    def _first_read(self, head: list[int], history: list[tuple]) -> int:
        """Number of the first visit of a history, as [`_block`] writes its visits, that is read."""
        if self.max_length is None:
            return 0
        room, first = self.max_length - len(head) - 1, len(history)  # one for the mark of the next visit
        if room < 0:
            raise ValueError(
                f"`max_length` is {self.max_length}, but the profile of a patient takes {len(head) + 1} tokens with the marks "
                "around it; raise it, or shorten the profile."
            )
        while first > 0 and len(history[first - 1][0]) <= room:
            first -= 1
            room -= len(history[first][0])
        return first

    def _within_positions(self, start: int, places: Sequence[int]) -> list[int]:
        """The places of decisions in a visit whose mark stands at `start` that the language model has positions for."""
        if self.position_limit is None:
            return list(places)
        before = 1 if self.in_pairs else start  # a decoder begins with its start token
        return [place for place in places if before + place < self.position_limit]


def unread_text(visits: int) -> str:
    """A sentence on the visits of a history that were not read; nothing if all were."""
    which = "The oldest visit was" if visits == 1 else f"The oldest {visits} visits were"
    return f"{which} not read: the history is longer than this model reads." if visits else ""


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


def batches_by_length(
    rows: Iterable[int], lengths: Sequence[int], batch_size: int, batch_tokens: int | None = None
) -> list[list[int]]:
    """Cut rows, from the shortest to the longest, into batches with little padding.

    Args:
        rows: what is to be cut; rows of one length stay in the order in which they come.
        lengths: length in tokens of every row.
        batch_size: most rows of a batch.
        batch_tokens: most tokens of a batch when all its rows are padded to the longest; no limit without it. A row that is
            longer is a batch of its own.
    """
    batches: list[list[int]] = []
    for row in sorted(rows, key=lengths.__getitem__):
        full = not batches or len(batches[-1]) == batch_size
        if full or (batch_tokens is not None and lengths[row] * (len(batches[-1]) + 1) > batch_tokens):
            batches.append([])
        batches[-1].append(row)
    return batches


def collate_timelines(
    timelines: list[Timeline], pad_token_id: int, padding_side: str = "right", packed: bool = False
) -> dict:
    """Put timelines into a batch: one in a row, padded, or all in one row, `packed`.

    Axes: rows `B`, tokens `S`, decisions `P`, target visits (or branches) `V`, codes of a visit `M`, codes of a history `H`.

    Returns a `dict` of tensors, int64 unless stated:
        `input_ids`, `position_ids` (B, S); `attention_mask` (B, S), or (B, S, 3) with what each token sees, see
        `attention_mera.py`, where timelines share a row or branch;
        `decision_index` (P,) positions in the flattened (B * S) sequence; `decision_visit` (P,) rows of the target visit
        tables below; `decision_given` (P,) codes of the visit that stand before the decision;
        `visit_patient` (V,) index into `timelines`; `visit_codes` (V, M) code indices as written, -1 where there is none;
        `history_codes` (V, H), -1 where there is none; `history_values` (V, H, 7) float32.
    """
    # Few tensors, each made at once from a flat list: a small tensor costs as much as a patient
    lengths = [len(timeline.input_ids) for timeline in timelines]
    if packed:
        width, places = sum(lengths), [(0, left) for left in itertools.accumulate([0, *lengths[:-1]])]
        mask = torch.ones(1, width, dtype=torch.long)
    else:
        width = max(lengths)
        places = [(row, width - lengths[row] if padding_side == "left" else 0) for row in range(len(lengths))]
        mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()  # (B, S)
        mask = mask.flip(1) if padding_side == "left" else mask
    is_token = mask.bool()
    ids, positions = torch.full_like(mask, pad_token_id), torch.zeros_like(mask)
    ids[is_token] = _flat(timeline.input_ids for timeline in timelines)
    positions[is_token] = _flat(timeline.positions for timeline in timelines)
    if packed or any(timeline.branches for timeline in timelines):
        sees = torch.arange(width)[:, None].repeat(len(mask), 1, 3)  # (B, S, 3): padding sees itself
        for timeline, (row, left) in zip(timelines, places, strict=True):
            for begin, limit, end in timeline.pieces:
                sees[row, left + begin : left + end] = torch.tensor([left, left + limit, left + begin])
        mask = sees

    decision_index, decision_visit, decision_given = [], [], []
    visit_patient: list[int] = []
    visit_codes, histories = [], []
    for patient, (timeline, (row, left)) in enumerate(zip(timelines, places, strict=True)):
        start = row * width + left
        decision_index += [start + position for position in timeline.decisions]
        decision_given += timeline.decision_given
        visits = dict.fromkeys(timeline.decision_visits)
        table_row = dict(zip(visits, itertools.count(len(visit_patient)), strict=False))
        decision_visit += [table_row[visit] for visit in timeline.decision_visits]
        visit_patient += [patient] * len(visits)
        visit_codes += [timeline.visits[visit] if visit < len(timeline.visits) else [] for visit in visits]
        histories += [timeline.histories[visit] for visit in visits]
    history_codes = _padded([codes for codes, _ in histories])
    history_values = torch.zeros(*history_codes.shape, len(HISTORY_FEATURES))
    values = _flat((features for _, rows in histories for features in rows), torch.float)
    history_values[history_codes >= 0] = values.view(-1, len(HISTORY_FEATURES))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "decision_index": _flat([decision_index]),
        "decision_visit": _flat([decision_visit]),
        "decision_given": _flat([decision_given]),
        "visit_patient": _flat([visit_patient]),
        "visit_codes": _padded(visit_codes),
        "history_codes": history_codes,
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
        for _, pairs in visits:
            decisions = [place for _, place in pairs]
            start = decisions[0]  # the mark of the visit
            read.append(timeline.input_ids[:start])
            written.append([decoder_start_token_id, *timeline.input_ids[start : decisions[-1] + 1]])
            places.append([place - start + 1 for place in decisions])
    width = max(map(len, written))
    decision_index = [row * width + place for row, decisions in enumerate(places) for place in decisions]
    batch = collate_timelines(timelines, pad_token_id)
    del batch["position_ids"]
    return batch | {
        "input_ids": _padded(read, pad_token_id),
        "attention_mask": _padded([[1] * len(tokens) for tokens in read], 0),
        "decoder_input_ids": _padded(written, pad_token_id),
        "decision_index": _flat([decision_index]),
    }


def _flat(rows: Iterable[list], dtype: torch.dtype = torch.long) -> torch.Tensor:
    """The numbers of all lists in one row. An array reads Python numbers five times as fast as `torch.tensor` does."""
    numbers = array("q" if dtype == torch.long else "f", list(itertools.chain.from_iterable(rows)))
    return torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)


def _padded(rows: list[list[int]], filler: int = -1) -> torch.Tensor:
    """Lists of numbers as rows of a table as wide as the longest."""
    lengths = _flat([[len(row) for row in rows]])
    is_number = torch.arange(max(map(len, rows), default=0)) < lengths[:, None]
    return torch.full(is_number.shape, filler).masked_scatter(is_number, _flat(rows))


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
        **{f"<{code}>": index for index, code in enumerate(config.codes, start=config.code_token_start)},
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
    "Patient",
    "Timeline",
    "TimelineEncoder",
    "batches_by_length",
    "check_code_tokens",
    "collate_pairs",
    "collate_timelines",
    "history_entries",
    "profile_text",
    "unread_text",
]
