"""Worlds with a known truth: small synthetic cohorts in which one part of a method has something to find, and a control.

All worlds draw their visits by the same steps, and each but the control plants one rule in one step. So a part that gains
nothing in its own world is broken or too weak, and a part that gains in the control is wrong. All of it is this project's
choice.

A patient has 2 visits and a geometric number more (mean 1), 8 at most, 100 days apart: times tell nothing, and neither does
the profile, which is empty. The codes are 4,000 billable ICD-10-CM codes, drawn from the seed, of four kinds; no code is of
two kinds. "Any" means each with equal chance, drawn anew for every visit. A visit has:

- Two family codes. A family is one of 40 categories whose 3 to 5 children are all billable. A patient has two families for
  life, and a visit any child of each.
- Two codes of a quartet, one of 20 times four codes a, a', b, b'. A patient has one quartet for life, and a visit any of a
  and a', and any of b and b'.
- Two codes of places. A place is one of 28, a part of the body and its side, and has 4 frequent and 20 rare codes whose
  descriptions have its two words ("left" and "knee") and no other part or side. A patient has one place for life, and a visit
  any frequent code of it, and any rare code of any place.
- n background codes, of about 3,100, the r-th of which is as common as 1 / r (Zipf). Each of the n is, with chance 0.6, any
  background code that the patient had in an earlier visit, where one is left, and otherwise one that the patient had not,
  drawn by how common it is. No code comes twice in a visit. n is 6 exp(0.6 z), rounded, at least 1 and at most 30, with z
  standard normal.

That makes 13 codes a visit on average, of which the patient had about half before. A rare code comes about 5 times among 1,000
patients.

The worlds:

- `nothing`, the control, is as above.
- `sizes`: z = sqrt(0.9) s + sqrt(0.1) e, with one s for each patient and one e for each visit, both standard normal. The sizes
  of the earlier visits tell how many codes come, and not which.
- `siblings`: the child of a family is the next after that of the visit before, in the order of the tree, the first after the
  last. Copying the history is wrong each time.
- `meaning`: the rare code is of the patient's own place. Who reads the descriptions knows its company without having seen it;
  the tree hides it, since a category holds many places.
- `order`: a comes with b, and a' with b'. Within a visit one tells the other; the history leaves each at one half.

The worlds of one seed share their codes and every draw: patient 17 of `order` differs from patient 17 of `nothing` in b and b'
alone. A patient does not depend on how many are drawn.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import binom

from mera_hf.errors import InputError
from mera_hf.icd import ICD10CM, IcdTree, sort_codes


WORLDS = {
    "nothing": "Nothing is planted: the control of the other worlds.",
    "sizes": "Planted: the sizes of the earlier visits tell that of the next.",
    "siblings": "Planted: in some categories each visit has the child after that of the visit before.",
    "meaning": "Planted: a rare code keeps the company of the frequent codes whose descriptions share its words.",
    "order": "Planted: in some pairs of codes each comes with the other, and the history tells neither.",
}

CODES = 4_000
FAMILIES, CHILDREN, LASTING = 40, (3, 5), 2  # categories, least and most children, families of a patient
QUARTETS = 20
SIDES = ("left", "right")
PARTS = (
    *("shoulder", "arm", "elbow", "forearm", "wrist", "hand", "finger"),
    *("hip", "thigh", "leg", "knee", "ankle", "foot", "toe"),
)
PLACES = tuple(product(SIDES, PARTS))
FREQUENT, RARE = 4, 20  # codes of a place
FIXED = LASTING + 4  # codes of a visit beside the background: one of each family, two of the quartet, two of the place
REPEAT = 0.6
MIDDLE, SPREAD, MOST = 6, 0.6, 30  # of the number of background codes
LASTING_SIZE = 0.9  # share of the variance of z that is the patient's, in `sizes`

_NUMBERS = np.arange(1, MOST + 1)
# The standard normal s in `sizes`, as equally spaced points with their weights.
_POINTS = np.linspace(-5, 5, 201)
_WEIGHTS = np.exp(-(_POINTS**2) / 2) / np.exp(-(_POINTS**2) / 2).sum()


class World:
    """One world: its codes, its patients, and what the truth lets one know of the next visit.

    Args:
        name (`str`): one of `WORLDS`.
        seed (`int`, defaults to 0): of the codes and of the patients, 0 or more.

    Attributes:
        codes (`list[str]`): the 4,000 codes, `ICD10CM:E11.65`, in the order of the tree. The other attributes hold indices
            into it, int64.
        families (`list[NDArray]`): the children of each family, in the order of the tree.
        quartets (`NDArray` of shape (20, 4)): a, a', b, b'.
        frequent (`NDArray` of shape (28, 4)) and rare (`NDArray` of shape (28, 20)): the codes of each of `PLACES`.
        background (`NDArray` of shape (B,)): the others, most common first.

    Example:

        >>> world = World("sizes")
        >>> *history, last = world.patient(0)
        >>> world.expected_size(history), world.probabilities(history).argsort()[::-1][:20]

    Raises:
        InputError: no such world, a negative seed.
    """

    def __init__(self, name: str, seed: int = 0):
        if name not in WORLDS:
            raise InputError(f"`world` is {name!r}. Choose one of {', '.join(WORLDS)}.")
        if seed < 0:
            raise InputError(f"`seed` is {seed}. Set 0 or more.")
        self.name, self.seed = name, seed
        families, quartets, frequent, rare, background = _choose_codes(seed)
        self.codes = sort_codes([*_flat(families), *_flat(quartets), *_flat(frequent), *_flat(rare), *background])
        self._index = {code: index for index, code in enumerate(self.codes)}
        self.families = [self._indices(family) for family in families]
        self.quartets = np.array([self._indices(quartet) for quartet in quartets])
        self.frequent = np.array([self._indices(codes) for codes in frequent])
        self.rare = np.array([self._indices(codes) for codes in rare])
        self.background = self._indices(background)
        self._weights = 1 / np.arange(1, len(background) + 1)  # (B,)
        self._lasting_size = LASTING_SIZE if name == "sizes" else 0.0

    def _indices(self, codes: Iterable[str]) -> NDArray[np.int64]:
        try:
            return np.array([self._index[code] for code in codes], dtype=np.int64)
        except KeyError as error:
            raise InputError(
                f"{error.args[0]} is not a code of the world {self.name!r} with seed {self.seed}. Take the name and the "
                "seed with which the visits were drawn."
            ) from error

    def patient(self, number: int) -> list[list[str]]:
        """The visits of one patient, each a list of codes in the order of the tree.

        Args:
            number (`int`): which patient, 0 or more.
        """
        # Every world makes every draw, so that the worlds of a seed differ in what is planted alone.
        draw = np.random.default_rng([self.seed, number + 1])
        visits = 2 + min(draw.geometric(0.5) - 1, 6)
        z = np.sqrt(self._lasting_size) * draw.standard_normal()
        z = z + np.sqrt(1 - self._lasting_size) * draw.standard_normal(visits)  # (visits,)
        numbers = np.clip(np.rint(MIDDLE * np.exp(SPREAD * z)), 1, MOST).astype(int)

        written: list[list[int]] = [[] for _ in range(visits)]
        for family in draw.choice(FAMILIES, LASTING, replace=False):
            children = self.families[family]
            chosen = draw.integers(len(children), size=visits)
            if self.name == "siblings":
                chosen = (chosen[0] + np.arange(visits)) % len(children)
            for visit, child in zip(written, children[chosen], strict=True):
                visit.append(child)

        quartet = self.quartets[draw.integers(QUARTETS)]
        first, second = draw.integers(2, size=(2, visits))
        place = draw.integers(len(PLACES))
        frequent = self.frequent[place, draw.integers(FREQUENT, size=visits)]
        places, which = draw.integers(len(PLACES), size=visits), draw.integers(RARE, size=visits)
        if self.name == "order":
            second = first
        if self.name == "meaning":
            places[:] = place
        rare = self.rare[places, which]
        for visit, *codes in zip(written, quartet[first], quartet[2 + second], frequent, rare, strict=True):
            visit += codes

        had = np.zeros(len(self.background), dtype=bool)  # (B,)
        for visit, count in zip(written, numbers, strict=True):
            repeats = min((draw.random(MOST) < REPEAT)[:count].sum(), had.sum())
            # Exponential clocks: the first to ring are a draw without replacement by weight.
            chance, prevalence = draw.random(had.size), draw.exponential(size=had.size) / self._weights
            again = np.where(had, chance, np.inf).argpartition(repeats)[:repeats]
            new = np.where(had, np.inf, prevalence).argpartition(count - repeats)[: count - repeats]
            visit += [*self.background[again], *self.background[new]]
            had[new] = True
        return [[self.codes[index] for index in sorted(visit)] for visit in written]

    @cached_property
    def _number_given_size(self) -> NDArray[np.float64]:
        """Chance of each number of background codes where the patient's s is each of `_POINTS`: (points, numbers)."""
        edges = np.log((_NUMBERS[1:] - 0.5) / MIDDLE) / SPREAD  # z between two numbers
        edges = np.concatenate([[-np.inf], edges, [np.inf]])
        below = ndtr((edges - np.sqrt(self._lasting_size) * _POINTS[:, None]) / np.sqrt(1 - self._lasting_size))
        return np.diff(below)

    def _numbers(self, history: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Chance of each number of background codes of the next visit: (numbers,)."""
        seen = np.array([len(visit) - FIXED for visit in history])
        if len(wrong := seen[(seen < 1) | (seen > MOST)]):
            raise InputError(
                f"`history` has a visit of {wrong[0] + FIXED} codes; a world has {FIXED + 1} to {FIXED + MOST} a visit."
            )
        weights = _WEIGHTS * self._number_given_size[:, seen - 1].prod(axis=1)  # (points,)
        return weights @ self._number_given_size / weights.sum()

    def expected_size(self, history: Sequence[Sequence[str]]) -> float:
        """The number of codes to expect of the next visit: the best guess in squared error, by Bayes.

        In every world but `sizes` it does not depend on the history.

        Args:
            history (sequence of sequences of `str`): the codes of the earlier visits, whole and in order of time.

        Raises:
            InputError: a visit has more or fewer codes than a world draws.
        """
        return FIXED + float(self._numbers(history) @ _NUMBERS)

    def probabilities(self, history: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """The chance of each code to be in the next visit: no ranker of the history can do better than by these.

        Exact for families, quartets, places and repeated background codes. New background codes are in exact order, and
        their chances those of a Poisson draw with the expected number of codes; the sum over all codes is
        `expected_size`.

        Args:
            history (sequence of sequences of `str`): the codes of the earlier visits, whole and in order of time.

        Returns:
            `NDArray` of shape (4000,), float64, in the order of `codes`.

        Raises:
            InputError: `history` is empty, or not of this world.
        """
        if not history:
            raise InputError("`history` has no visit. Give the codes of one visit or more.")
        last = np.zeros(len(self.codes), dtype=bool)
        last[self._indices(history[-1])] = True
        chances = np.zeros(len(self.codes))
        for family in self.families:
            for child in last[family].nonzero()[0]:
                if self.name == "siblings":
                    chances[family[(child + 1) % len(family)]] = 1
                else:
                    chances[family] = 1 / len(family)
        chances[self.quartets[last[self.quartets].any(axis=1)]] = 0.5
        place = last[self.frequent].any(axis=1)
        chances[self.frequent[place]] = 1 / FREQUENT
        likely = self.rare[place] if self.name == "meaning" else self.rare
        chances[likely] = 1 / likely.size

        numbers = self._numbers(history)
        had = np.isin(self.background, self._indices(_flat(history)))  # (B,)
        count = np.arange(MOST + 1)
        repeats = numbers @ (binom.pmf(count, _NUMBERS[:, None], REPEAT) @ np.minimum(count, had.sum()))
        new = numbers @ _NUMBERS - repeats
        chances[self.background[had]] = repeats / had.sum()
        weights = self._weights[~had]
        # How long the clocks ran, if so many are to ring
        time = brentq(lambda time: -np.expm1(-weights * time).sum() - new, 0, 1e6)
        chances[self.background[~had]] = -np.expm1(-weights * time)
        return chances


def _flat(groups: Iterable[Iterable[str]]) -> list[str]:
    return [code for group in groups for code in group]


@cache
def _choose_codes(seed: int) -> tuple[list, list, list, list, list[str]]:
    """The codes of a world: families, quartets, frequent and rare codes of each place, background.

    The tree must not tell what the words tell: codes of a place come from categories that hold three parts of the body or
    more, left and right, and no category has both frequent and rare codes of one place. No other code names one of these
    parts.
    """
    draw, tree = np.random.default_rng([seed, 0]), IcdTree.load(ICD10CM.name)
    of_places: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    plain: dict[str, list[str]] = defaultdict(list)  # by category, as `of_places`
    for code in tree.codes(billable=True):
        words = {*re.findall("[a-z]+", tree.description(code).lower())}
        sides, parts = words.intersection(SIDES), words.intersection(PARTS)
        category = tree.ancestor(code, "category")
        assert category is not None  # a code is a category or below one
        if not parts:
            plain[category].append(code)
        elif len(sides) == len(parts) == 1:
            of_places[category][sides.pop(), parts.pop()].append(code)

    frequent, rare = [], []
    mixed = [codes for codes in of_places.values() if len({part for _, part in codes}) >= 3]
    for place in PLACES:
        # At most 6 of a category, so that a place is not one injury in all its variants
        groups = [_some(draw, codes[place], 6) for codes in mixed if place in codes]
        groups = [groups[at] for at in draw.permutation(len(groups))]
        frequent.append([group[0] for group in groups[:FREQUENT]])
        rare.append(_some(draw, _flat(groups[FREQUENT:]), RARE))

    least, most = CHILDREN
    candidates = [
        category
        for category, codes in plain.items()
        if least <= len(codes) <= most and list(tree.children(category)) == codes
    ]
    categories = _some(draw, candidates, FAMILIES)
    families = [plain.pop(category) for category in categories]
    # At most 4 of a category: else most codes would be injuries and their causes
    others = _some(draw, _flat(_some(draw, codes, 4) for codes in plain.values()))
    quartets = [others[4 * number : 4 * number + 4] for number in range(QUARTETS)]
    taken = sum(map(len, families)) + len(PLACES) * (FREQUENT + RARE)
    return families, quartets, frequent, rare, others[4 * QUARTETS : CODES - taken]


def _some(draw: np.random.Generator, items: Sequence[str], count: int | None = None) -> list[str]:
    """At most `count` of the items (all by default), in an order drawn at random."""
    return [items[at] for at in draw.permutation(len(items))[:count]]
