"""Why a code stands where it stands: what its rank and probability would be without a part of what the model read.

A part is left out and the patient is ranked again, in the same forward pass as any patient (occlusion; this project's
choice, the paper explains no prediction). So every figure is exact: it is what [`MeraForDiagnosis.rank`] says of the patient
without that part. Parts are

- all visits, which leaves the profile alone, and each visit;
- each code of each visit, and each code that is in several visits, from all of them;
- the text of a visit, where the model reads it, and each of sex, age and race.

A visit whose only code is left out is left out whole: no model has seen a visit without codes in training. What several
parts do does not add up, since each is left out with all others in place.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from .timeline_mera import Patient, TimelineEncoder, profile_text


PROFILE_FIELDS = ("sex", "age", "race")
_COARSE_FIRST = ("chapter", "block", "category")  # a config that was saved has its levels in alphabetical order


@dataclass
class Effect:
    """
    What one part of the input does to one code.

    Attributes:
        kind (`str`): what is left out: `"history"` (all visits), `"visit"`, `"code"`, `"text"`, `"sex"`, `"age"`, `"race"`.
        visits (`list[int]`): the visits that it is left out of, counted from 1, the oldest first; none for the profile.
        code, description (`str`, *optional*): the code that is left out.
        probability (`float`): change of P(code in the next visit): with the part less without it.
        log_odds (`float`): change of the log-odds: with the part less without it.
        rank_without (`int`): rank of the explained code without the part.
        set_size_without (`int`): codes above EOV without the part.
    """

    kind: str
    visits: list[int]
    code: str | None
    description: str | None
    probability: float
    log_odds: float
    rank_without: int
    set_size_without: int


@dataclass
class TreeGroup:
    """
    A group of codes on the way from the root of the tree to a code.

    Several codes of a group may be in one visit, so that the sum of their probabilities is no probability. It is the number
    of codes of the group that the model expects in the next visit, however they occur together.

    Attributes:
        level (`str`): `"chapter"`, `"block"`, `"category"` ...
        name (`str`): code and description of the group.
        codes (`int`): codes of the model in the group.
        expected_codes (`float`): sum of their probabilities.
    """

    level: str
    name: str
    codes: int
    expected_codes: float


@dataclass
class RankedCode:
    """A code of the ranking: `code` and `description` (`str`), `rank` (`int`, from 1) and `probability` (`float`)."""

    code: str
    description: str
    rank: int
    probability: float


@dataclass
class ExplainedCode(RankedCode):
    """
    A code and what moved it.

    Attributes:
        log_odds (`float`): log-odds that the code is in the next visit.
        path (`list[TreeGroup]`): the groups that hold it, the coarsest first, but for one that is this code alone.
        siblings (`list[RankedCode]`): the other codes of its finest group that has others, best first; it beat those with
            a rank behind its own.
        effects (`list[Effect]`): one for each part: all visits, each visit and its codes, repeated codes, profile.
    """

    log_odds: float
    path: list[TreeGroup]
    siblings: list[RankedCode]
    effects: list[Effect]


@dataclass
class Explanation:
    """
    What moved some codes in the ranking of one patient.

    Attributes:
        visits (`list[list[str]]`): the codes of each visit in the order of the tree, each once.
        profile (`dict[str, str]`): sex, age and race in the words that the model read, where it read any.
        set_size (`int`): codes above EOV.
        expected_codes (`float`): number of codes that the model expects in the next visit, the sum of all probabilities.
        codes (`list[ExplainedCode]`): the explained codes.
        unread_visits (`int`): so many of the oldest visits were not read, see `MeraRanking`. Leaving them out changes the
            history term alone.
    """

    visits: list[list[str]]
    profile: dict[str, str]
    set_size: int
    expected_codes: float
    codes: list[ExplainedCode]
    unread_visits: int = 0

    def branches(self, code: ExplainedCode) -> list[list[Effect]]:
        """The effects on a code: each visit with its codes behind it, and what else is left out, the largest first."""
        visits: dict[int, list[Effect]] = {}
        others = []
        for effect in code.effects:
            if effect.kind == "visit":
                visits[effect.visits[0]] = [effect]
            elif effect.kind == "code" and len(effect.visits) == 1:
                # A visit's only code does what the visit does
                if len(self.visits[effect.visits[0] - 1]) > 1:
                    visits[effect.visits[0]].append(effect)
            elif effect.kind != "history":
                others.append([effect])
        branches = [[top, *sorted(codes, key=_size, reverse=True)] for top, *codes in (*visits.values(), *others)]
        return sorted(branches, key=lambda branch: max(map(_size, branch)), reverse=True)

    def to_dict(self) -> dict:
        """The explanation as JSON has it, fractions with six digits."""
        return _rounded(asdict(self))

    def to_text(self) -> str:
        """The explanation for the terminal, in lines of at most 100 columns; small effects are folded into one line."""
        return _Text(self).write()


@torch.no_grad()
def explain(
    model,
    patient: dict,
    tokenizer,
    codes: Sequence[str] | None = None,
    top_k: int = 3,
    batch_size: int = 64,
    max_length: int | None = None,
    progress=None,
    batch_tokens: int | None = 4096,
) -> Explanation:
    """
    Say what moved codes in the ranking of one patient, by leaving out each part of the history in turn.

    It takes one forward pass of a patient for each part that differs, about as many as there are visits and codes in them,
    in batches. In half precision, effects as small as its rounding mean nothing.

    Args:
        model (`MeraForDiagnosis`): also as its method, `model.explain(patient, tokenizer)`.
        patient (`dict`): `profile` and `visits` as in a row of a visits dataset; all visits are history, and there may be
            none.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of this checkpoint.
        codes (sequence of `str`, *optional*): codes to explain, such as `ICD9CM:428.0`; the first of the ranking without it.
        top_k (`int`, *optional*, defaults to 3): how many of the first are explained where `codes` is not given.
        batch_size (`int`, *optional*, defaults to 64): timelines in a forward pass.
        max_length (`int`, *optional*): longest history in tokens; that of the config without it, see [`MeraConfig`]. What is
            left out makes room, so that older visits may come into sight.
        progress (*optional*): called with an iterable of batches and returning it, such as `tqdm`.
        batch_tokens (`int`, *optional*, defaults to 4096): tokens in a forward pass, padding among them.

    Returns:
        [`Explanation`] with the codes in the order of `codes`, or of the ranking.

    Raises:
        `ValueError`: for a `top_k`, `batch_size` or `batch_tokens` below 1, an empty `codes`, a code that the model does not
            know, a foreign tokenizer, or a `max_length` that the model has no positions for or that not even the profile
            fits into.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size), ("batch_tokens", batch_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; it must be 1 or more.")
    if codes is not None and not codes:
        raise ValueError("`codes` is empty; name one code at least, or leave it out for the first of the ranking.")
    encoder = TimelineEncoder(model.config, tokenizer, max_length)
    unknown = [code for code in codes or () if code not in encoder.code_index]
    if unknown:
        raise ValueError(
            f"`codes`: {unknown[0]} is not one of the {len(encoder.code_index)} codes of this model; leave it out."
        )
    read = encoder.read(patient)
    profile, parts = _profile(model.config, patient), _visit_parts(read)
    parts += [_Part(field, [], None, encoder.read(_without_field(patient, field))) for field in profile]

    log_odds, ranks, set_sizes = _rank(model, [read], tokenizer, slice(None), max_length=max_length)
    log_odds, ranks = log_odds[0], ranks[0]  # (C,)
    if codes is None:
        chosen = ranks.argsort()[:top_k]  # (K,)
    else:
        chosen = torch.tensor([encoder.code_index[code] for code in dict.fromkeys(codes)])
    effects: list[list[Effect]] = [[] for _ in chosen]
    if parts:
        # Parts may leave the same behind, such as a visit and its only code: the model reads that once
        keys = [repr(part.rest) for part in parts]
        rests = {key: part.rest for key, part in zip(keys, parts, strict=True)}
        options = {"batch_size": batch_size, "max_length": max_length, "batch_tokens": batch_tokens}
        without = _rank(model, list(rests.values()), tokenizer, chosen, progress=progress, **options)
        rows = {key: row for row, key in enumerate(rests)}
        effects = _effects(parts, [rows[key] for key in keys], log_odds[chosen], *without, model.config)

    probabilities = log_odds.sigmoid()
    names, descriptions = model.config.codes, model.config.descriptions
    ranking = [
        RankedCode(*row) for row in zip(names, descriptions, ranks.tolist(), probabilities.tolist(), strict=True)
    ]
    explained = []
    for index, of_code in zip(chosen.tolist(), effects, strict=True):
        path, siblings = _place(model.config, ranking, index)
        explained.append(
            ExplainedCode(
                **vars(ranking[index]), log_odds=float(log_odds[index]), path=path, siblings=siblings, effects=of_code
            )
        )
    visits = [[names[code] for code in visit] for visit in read.visits]
    unread = encoder.encode_history(read).unread_visits
    return Explanation(visits, profile, int(set_sizes[0]), float(probabilities.sum()), explained, unread)


@dataclass
class _Part:
    """A part, named as in [`Effect`] with the index of its code, and the patient without it."""

    kind: str
    visits: list[int]
    code: int | None
    rest: Patient


def _visit_parts(read: Patient) -> list[_Part]:
    numbers = list(range(1, len(read.visits) + 1))
    parts = [_Part("history", numbers, None, _leave_out(read, numbers))] if numbers else []
    seen: dict[int, list[int]] = {}
    for number, codes in zip(numbers, read.visits, strict=True):
        parts.append(_Part("visit", [number], None, _leave_out(read, [number])))
        for code in codes:
            parts.append(_Part("code", [number], code, _leave_out(read, [number], code)))
            seen.setdefault(code, []).append(number)
        if read.tails[number - 1]:
            tails = [[] if at == number else tail for at, tail in enumerate(read.tails, start=1)]
            parts.append(_Part("text", [number], None, Patient(read.head, read.visits, tails)))
    for code, visits in sorted(seen.items()):
        if len(visits) > 1:
            parts.append(_Part("code", visits, code, _leave_out(read, visits, code)))
    return parts


def _leave_out(read: Patient, numbers: list[int], code: int | None = None) -> Patient:
    """A patient without some visits, or without a code in them; a visit that has no other goes with its text."""
    visits, tails = [], []
    for number, (codes, tail) in enumerate(zip(read.visits, read.tails, strict=True), start=1):
        if number in numbers:
            codes = [] if code is None else [other for other in codes if other != code]
            if not codes:
                continue
        visits.append(codes)
        tails.append(tail)
    return Patient(read.head, visits, tails)


def _profile(config, patient: dict) -> dict[str, str]:
    """What the model reads of sex, age and race."""
    profile = (patient.get("profile") or {}) if config.use_profile else {}
    words = {field: profile_text({field: profile.get(field)}) for field in PROFILE_FIELDS}
    return {field: text for field, text in words.items() if text}


def _without_field(patient: dict, field: str) -> dict:
    return {**patient, "profile": {**patient["profile"], field: None}}


def _rank(model, patients: list, tokenizer, codes, **options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-odds and ranks of `codes` (N, K), and set sizes (N,)."""
    rows, tables = [], []
    for batch_rows, output, batch in model.decisions(patients, tokenizer, **options):
        history = batch["history_codes"], batch["history_values"]
        ranking = model.decide(output, *history)
        ranks = ranking.order.argsort(-1) + 1  # (N, C)
        rows += batch_rows
        tables.append((model.log_odds(output, *history).cpu()[:, codes], ranks[:, codes], ranking.set_sizes))
    where = torch.tensor(rows).argsort()
    log_odds, ranks, set_sizes = (torch.cat(table)[where] for table in zip(*tables, strict=True))
    return log_odds, ranks, set_sizes


def _effects(parts, rows, log_odds, log_odds_without, ranks_without, set_sizes_without, config) -> list[list[Effect]]:
    """The effects of each of `K` codes, from log-odds (K,), those without a part (N, K), and the row of each part."""
    names, descriptions = config.codes, config.descriptions
    changes = log_odds - log_odds_without  # (N, K)
    of_probability = log_odds.sigmoid() - log_odds_without.sigmoid()
    return [
        [
            Effect(
                kind=part.kind,
                visits=part.visits,
                code=None if part.code is None else names[part.code],
                description=None if part.code is None else descriptions[part.code],
                probability=float(of_probability[row, column]),
                log_odds=float(changes[row, column]),
                rank_without=int(ranks_without[row, column]),
                set_size_without=int(set_sizes_without[row]),
            )
            for part, row in zip(parts, rows, strict=True)
        ]
        for column in range(len(log_odds))
    ]


def _place(config, ranking: list[RankedCode], index: int) -> tuple[list[TreeGroup], list[RankedCode]]:
    """The groups around a code, the coarsest first, and the other codes of the finest that has others."""
    own, around = ranking[index], []
    for level, groups in config.level_groups.items():
        if groups[index] >= 0:
            name = config.group_names[level][groups[index]]
            members = [code for code, group in zip(ranking, groups, strict=True) if group == groups[index]]
            if len(members) > 1 or name.split()[0] != own.code:
                expected = sum(code.probability for code in members)
                around.append((TreeGroup(level, name, len(members), expected), members))
    coarse = {level: place for place, level in enumerate(_COARSE_FIRST)}
    around.sort(key=lambda pair: (-pair[0].codes, coarse.get(pair[0].level, len(coarse)), pair[0].level))
    finest = next((members for _, members in reversed(around) if len(members) > 1), [])
    siblings = sorted((code for code in finest if code is not own), key=lambda code: code.rank)
    return [group for group, _ in around], siblings


def _rounded(value):
    """Numbers inside of lists and dicts with six digits."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 6) if isinstance(value, float) else value


# -- as text ------------------------------------------------------------------------------------------------------

_WIDTH = 100
_MOST_PARTS, _MOST_CODES, _MOST_SIBLINGS, _MOST_SIZES = 6, 3, 3, 3  # codes of one visit, siblings on one side
_SMALL = 0.1  # effects below this share of the largest are folded


class _Text:
    """Writes an [`Explanation`] in lines of at most `_WIDTH` columns."""

    def __init__(self, explanation: Explanation):
        self.explanation = explanation
        codes = [code.code for code in explanation.codes] + [code for visit in explanation.visits for code in visit]
        versions = {code.split(":")[0] for code in codes}
        self.prefix = f"{versions.pop()}:" if len(versions) == 1 else ""  # said once, above the text

    def write(self) -> str:
        lines = textwrap.wrap(
            "What moved these ranks: by how many percentage points a part of the history raises (+) or lowers (-) the "
            "probability. Each part was left out by itself; what several do does not add up.",
            _WIDTH,
        )
        for code in self.explanation.codes:
            lines += ["", *self.head(code), *self.effects(code), *self.tree(code)]
        lines += ["", *textwrap.wrap(self.set_sizes(), _WIDTH)]
        lines.append("This says what the model used, not what causes a disease.")
        return "\n".join(lines)

    def head(self, code: ExplainedCode) -> list[str]:
        inside = "in" if code.rank <= self.explanation.set_size else "not in"
        lines = [
            _fit(f"rank {code.rank}: ", self.name(code), f", {_percent(code.probability)}, {inside} the predicted set")
        ]
        for effect in code.effects:
            if effect.kind == "history":
                chance = code.probability - effect.probability
                lines.append(f"  without any visit: rank {effect.rank_without}, {_percent(chance)}")
        return lines

    def effects(self, code: ExplainedCode) -> list[str]:
        """The largest effects, each code below the visit that it is left out of."""
        branches = self.explanation.branches(code)
        effects = [effect for branch in branches for effect in branch]
        if not effects:
            return ["  no visit and no profile to leave out"]
        largest = max(map(_size, effects))
        digits = 1 if largest >= 0.005 else 3
        smallest = max(_SMALL * largest, 0.5 * 10 ** (-2 - digits))  # what is less reads 0
        shown = []
        for top, *codes in branches[:_MOST_PARTS]:
            large = [effect for effect in codes if _size(effect) >= smallest][:_MOST_CODES]
            if large or _size(top) >= smallest:
                shown += [(top, ""), *((effect, "  ") for effect in large)]
        lines = [self.effect(code, effect, digits, indent) for effect, indent in shown]
        folded = [effect for effect in effects if not any(effect is other for other, _ in shown)]
        if folded:
            most = max(map(_size, folded))
            lines.append(f"{'':10}parts not shown ({len(folded)}): {100 * most:.{digits}f} points or less each")
        return lines

    def effect(self, code: ExplainedCode, effect: Effect, digits: int, indent: str) -> str:
        without = [f"rank {effect.rank_without}"] if effect.rank_without != code.rank else []
        inside = code.rank <= self.explanation.set_size
        if inside != (effect.rank_without <= effect.set_size_without):
            without.append("not in the set" if inside else "in the set")
        end = f"; without it {', '.join(without)}" if without else ""
        visits = self.explanation.visits
        name = self.part(effect)
        if effect.kind == "visit":
            number = effect.visits[0]
            name += ", not read" if number <= self.explanation.unread_visits else ""
            codes = " ".join(code.removeprefix(self.prefix) for code in visits[number - 1])
            name += f", the last: {codes}" if number == len(visits) > 1 else f": {codes}"
        elif effect.kind == "code":
            name += f" {effect.description}"
            end = f", all {len(effect.visits)} times{end}" if len(effect.visits) > 1 else end
        elif effect.kind in PROFILE_FIELDS:
            name += f": {self.explanation.profile[effect.kind]}"
        return _fit(f"{100 * effect.probability:+8.{digits}f}  {indent}", name, end)

    def part(self, effect: Effect) -> str:
        """A part in a word or two; sex, age and race are words."""
        if effect.kind in ("visit", "text"):
            return f"{'text of ' if effect.kind == 'text' else ''}visit {effect.visits[0]}"
        return self.short(effect) if effect.kind == "code" else effect.kind

    def tree(self, code: ExplainedCode) -> list[str]:
        """Groups with the codes that are expected in them, and below the finest the best siblings on either side."""
        everything = f"{self.explanation.expected_codes:.2f}"
        lines = [
            f"  on the tree: codes expected at the next visit ({everything} in all), and the probabilities of codes"
        ]
        for depth, group in enumerate(code.path):
            name = group.name.removeprefix(self.prefix)
            lines.append(_fit(f"{group.expected_codes:8.2f}  {'  ' * depth}", name, ""))
        indent = "  " * len(code.path)
        ahead = [sibling for sibling in code.siblings if sibling.rank < code.rank]
        behind = code.siblings[len(ahead) :]

        digits = max(len(str(ranked.rank)) for ranked in (*ahead[:_MOST_SIBLINGS], code, *behind[:_MOST_SIBLINGS]))

        def line(ranked, mark):
            start = f"{_percent(ranked.probability):>8}  {indent}{mark} rank {ranked.rank:<{digits}} "
            return _fit(start, self.name(ranked), "")

        lines += [line(sibling, " ") for sibling in ahead[:_MOST_SIBLINGS]]
        if len(ahead) > _MOST_SIBLINGS:
            lines.append(f"{'':10}{indent}  {len(ahead) - _MOST_SIBLINGS} more ahead of it")
        lines.append(line(code, ">"))
        lines += [line(sibling, " ") for sibling in behind[:_MOST_SIBLINGS]]
        if len(behind) > _MOST_SIBLINGS:
            lines.append(f"{'':10}{indent}  {len(behind) - _MOST_SIBLINGS} more that it beat")
        return lines

    def set_sizes(self) -> str:
        """What moves EOV; the same for all codes."""
        size, changes = self.explanation.set_size, []
        for effect in self.explanation.codes[0].effects:
            # Of the history of one visit, and of a code in one visit, the visit says enough
            if effect.set_size_without != size and (effect.kind not in ("history", "code") or len(effect.visits) > 1):
                name = "any visit" if effect.kind == "history" else self.part(effect)
                changes.append((effect.set_size_without, name))
        changes.sort(key=lambda change: abs(change[0] - size), reverse=True)
        said = "".join(f"; {without:,} without {name}" for without, name in changes[:_MOST_SIZES])
        return f"Codes in the predicted set: {size:,}{said}."

    def short(self, code: RankedCode | Effect) -> str:
        assert code.code is not None  # asked of effects of a code alone
        return code.code.removeprefix(self.prefix)

    def name(self, code: RankedCode) -> str:
        return f"{self.short(code)} {code.description}"


def _percent(probability: float) -> str:
    return f"{probability:.1%}" if probability >= 0.0005 else "<0.1%"


def _size(effect: Effect) -> float:
    return abs(effect.probability)


def _fit(start: str, middle: str, end: str) -> str:
    """A line of at most `_WIDTH` columns, its middle cut where need be."""
    room = _WIDTH - len(start) - len(end)
    return start + (middle if len(middle) <= room else middle[: room - 3].rstrip(" ,") + "...") + end
