"""Patients and how each ranker ranked their codes: what the sections of an evaluation measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mera_hf.data.samples import Sample


if TYPE_CHECKING:
    import numpy as np

BLOCK_PAIRS = 1_000_000  # pairs of patient and code at a time, where a ranker's sets may hold every code there is
BLOCK_PATIENTS = 512


class Ranking(NamedTuple):
    """One ranker's answer.

    Attributes:
        order (`np.ndarray` of shape (patients, K)): integer code indices, the best first.
        set_sizes (`np.ndarray` of shape (patients,), *optional*): number of codes above EOV.
        probabilities (`np.ndarray` of shape (patients, K), *optional*): P(code in the next visit), in the order of `order`.
    """

    order: np.ndarray
    set_sizes: np.ndarray | None = None
    probabilities: np.ndarray | None = None


class Pairs(NamedTuple):
    """Pairs of patient and code, two integer arrays of shape (pairs,), in the order of the patients."""

    patient: np.ndarray
    code: np.ndarray


@dataclass(frozen=True)
class RankedPatients:
    """The samples of a split with every ranker's rankings.

    Attributes:
        samples (`Sequence[Sample]`): the patients, each with true codes.
        codes (`Sequence[str]`): the candidate space.
        rankings (`dict[str, Ranking]`): one a ranker, `mera` among them, with a row a sample. They must have passed
            `evaluate_ranking`, which refuses malformed ones.
    """

    samples: Sequence[Sample]
    codes: Sequence[str]
    rankings: dict[str, Ranking]

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def true(self) -> Pairs:
        """Each patient's true codes, by code."""
        return self.pairs([sample.target for sample in self.samples])

    @cached_property
    def true_sizes(self) -> np.ndarray:
        """Number of true codes of each patient: (patients,)."""
        import numpy as np

        return np.bincount(self.true.patient, minlength=len(self))

    def pairs(self, code_lists: Sequence[Sequence[int]]) -> Pairs:
        """One list of codes a patient as distinct pairs, sorted."""
        import numpy as np

        patient = np.repeat(np.arange(len(code_lists)), [len(codes) for codes in code_lists])
        code = np.fromiter(chain.from_iterable(code_lists), np.int64, len(patient))
        return Pairs(*np.divmod(np.unique(patient * len(self.codes) + code), len(self.codes)))

    def places(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """A ranker's rankings inverted, in blocks: rows, and each code's place from 0 (rows, codes); K where a code is not
        ranked."""
        import numpy as np

        order = self.rankings[name].order
        place_in_row = np.arange(order.shape[1], dtype=np.int32)
        for start in range(0, len(self), BLOCK_PATIENTS):
            block = order[start : start + BLOCK_PATIENTS]
            places = np.full((len(block), len(self.codes)), order.shape[1], dtype=np.int32)
            places[np.arange(len(block))[:, None], block] = place_in_row
            yield slice(start, start + len(block)), places

    def true_places(self, name: str) -> np.ndarray:
        """The place of each pair of `true` in a ranker's ranking, from 0: (pairs,)."""
        import numpy as np

        found = np.empty(len(self.true.code), dtype=np.int32)
        for rows, places in self.places(name):
            first, last = np.searchsorted(self.true.patient, (rows.start, rows.stop))
            found[first:last] = places[self.true.patient[first:last] - rows.start, self.true.code[first:last]]
        return found

    def sizes(self, name: str) -> dict[str, np.ndarray]:
        """How many codes each patient is predicted to have, under the name of the F1 of that set: the true number, and what
        the ranker chose."""
        chosen = self.rankings[name].set_sizes
        return {"weighted_f1": self.true_sizes} | ({} if chosen is None else {"weighted_f1_eov": chosen})

    def predicted(self, name: str, sizes: np.ndarray) -> Iterator[Pairs]:
        """The first `sizes` (patients,) codes of each patient's ranking, in blocks of whole patients."""
        import numpy as np

        order, ends = self.rankings[name].order, np.cumsum(sizes)
        starts = np.unique(np.searchsorted(ends, np.arange(0, max(1, ends[-1]), BLOCK_PAIRS)))
        for start, stop in zip(starts, [*starts[1:], len(self)], strict=True):
            size = sizes[start:stop]  # (rows,)
            head = order[start:stop, : size.max()]
            yield Pairs(np.repeat(np.arange(start, stop), size), head[np.arange(head.shape[1]) < size[:, None]])


def are_among(pairs: Pairs, some: Pairs, n_codes: int) -> np.ndarray:
    """Whether each of `pairs` is one of the sorted pairs `some`: bool of shape (pairs,)."""
    import numpy as np

    if not len(pairs.patient):
        return np.zeros(0, dtype=bool)
    # Only the patients of the block, so that `isin` looks up a small table instead of sorting
    first, last = np.searchsorted(some.patient, (pairs.patient[0], pairs.patient[-1] + 1))
    keys = some.patient[first:last] * n_codes + some.code[first:last]
    return np.isin(pairs.patient * n_codes + pairs.code, keys)
