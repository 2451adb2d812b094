"""One ranker's ranking with its cut, and patients with every ranker's rankings: what an evaluation measures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mera_hf.data.samples import Sample


if TYPE_CHECKING:
    import numpy as np

BLOCK_PAIRS = 1_000_000  # pairs of patient and code at a time, as a ranker's sets may hold all codes
BLOCK_PATIENTS = 512


@dataclass(frozen=True)
class Cut:
    """Where rankings end as sets.

    Attributes:
        sizes (`np.ndarray` of shape (patients,), int): size of each patient's set, which is the head of the ranking.
        by (`str`): what sets the cut: `"EOV"`, `"threshold"` (fitted on validation) or `"file"` (another program).
    """

    sizes: np.ndarray
    by: str


@dataclass(frozen=True)
class Ranking:
    """One ranker's complete answer for some patients.

    Attributes:
        order (`np.ndarray` of shape (patients, K)): integer code indices, the best first.
        cut (`Cut`, *optional*): where the sets end; a ranker may have none.
        probabilities (`np.ndarray` of shape (patients, K), *optional*): P(code in the next visit), in the order of `order`.
        scores (`np.ndarray` of shape (patients, K), *optional*): of a ranker without probabilities, what it ranks by, in the
            order of `order`; comparable between patients.
    """

    order: np.ndarray
    cut: Cut | None = None
    probabilities: np.ndarray | None = None
    scores: np.ndarray | None = field(default=None, kw_only=True)

    @property
    def set_sizes(self) -> np.ndarray | None:
        """Number of codes in each patient's set, if there is a cut."""
        return None if self.cut is None else self.cut.sizes

    def as_trained(self) -> Ranking:
        """The ranking as training left it, beside a threshold; a ranker that nothing was fitted to afterwards gives itself."""
        return self


@dataclass(frozen=True)
class ModelRanking(Ranking):
    """MERA's answer, with the logits behind its probabilities and its cut.

    Attributes:
        logits (`np.ndarray` of shape (patients, K)): code logits, in the order of `order`.
        eov_logits (`np.ndarray` of shape (patients,)): logit of EOV.
        unread_visits (`np.ndarray` of shape (patients,), int): oldest visits that were not read, see `MeraRanking`.
    """

    cut: Cut = field()  # required here, optional in the base class
    probabilities: np.ndarray = field()
    logits: np.ndarray
    eov_logits: np.ndarray
    unread_visits: np.ndarray

    @property
    def set_sizes(self) -> np.ndarray:
        """Number of codes in each patient's set."""
        return self.cut.sizes

    def as_trained(self) -> Ranking:
        """In the order of the logits, with the shares of the softmax as probabilities, cut at EOV's own logit."""
        import numpy as np

        by_logit = np.argsort(-self.logits, axis=1, kind="stable")
        order, shares = (np.take_along_axis(each, by_logit, axis=1) for each in (self.order, self.shares()))
        return Ranking(order, Cut((self.margins() > 0).sum(axis=1), "EOV"), shares)

    def margins(self) -> np.ndarray:
        """Code logit minus EOV logit, (patients, K)."""
        return self.logits - self.eov_logits[:, None]

    def shares(self) -> np.ndarray:
        """The softmax over codes, (patients, K)."""
        import torch

        return torch.softmax(torch.from_numpy(self.logits), -1).numpy()


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
        rankings (`dict[str, Ranking]`): one per ranker, including `mera`, with one row per sample. They must have
            passed `evaluate_ranking`, which refuses malformed ones.
        train_visits (`Sequence[int]`, *optional*): for each candidate code, how many training visits hold it.
        validation (`RankedPatients`, *optional*): the validation patients, with the same rankers.
    """

    samples: Sequence[Sample]
    codes: Sequence[str]
    rankings: dict[str, Ranking]
    train_visits: Sequence[int] = ()
    validation: RankedPatients | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def true(self) -> Pairs:
        """Each patient's true codes, sorted by code."""
        return self.pairs([sample.target for sample in self.samples])

    @cached_property
    def history(self) -> Pairs:
        """The codes of each patient's earlier visits."""
        return self.pairs([sample.known for sample in self.samples])

    @cached_property
    def true_sizes(self) -> np.ndarray:
        """Number of true codes of each patient: (patients,)."""
        import numpy as np

        return np.bincount(self.true.patient, minlength=len(self))

    def pairs(self, code_lists: Sequence[Collection[int]]) -> Pairs:
        """One list of codes per patient as distinct pairs, sorted."""
        import numpy as np

        patient = np.repeat(np.arange(len(code_lists)), [len(codes) for codes in code_lists])
        code = np.fromiter(chain.from_iterable(code_lists), np.int64, len(patient))
        return Pairs(*np.divmod(np.unique(patient * len(self.codes) + code), len(self.codes)))

    def blocks(self) -> Iterator[slice]:
        """Rows in blocks of patients, such that one entry for each patient and code fits into a few MB."""
        for start in range(0, len(self), BLOCK_PATIENTS):
            yield slice(start, min(start + BLOCK_PATIENTS, len(self)))

    def places(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """A ranker's rankings inverted, in blocks: rows, and each code's place from 0 (rows, codes), or K if it is not
        ranked."""
        import numpy as np

        order = self.rankings[name].order
        place_in_row = np.arange(order.shape[1], dtype=np.int32)
        for rows in self.blocks():
            block = order[rows]
            places = np.full((len(block), len(self.codes)), order.shape[1], dtype=np.int32)
            np.put_along_axis(places, block, place_in_row[None], axis=1)
            yield rows, places

    @cached_property
    def true_places(self) -> dict[str, np.ndarray]:
        """For each ranker, the place of each pair of `true` in its ranking, from 0: (pairs,) int32."""
        import numpy as np

        found = {name: np.empty(len(self.true.code), dtype=np.int32) for name in self.rankings}
        for name, of_ranker in found.items():
            for rows, places in self.places(name):
                first, last = np.searchsorted(self.true.patient, (rows.start, rows.stop))
                here = self.true.patient[first:last] - rows.start, self.true.code[first:last]
                of_ranker[first:last] = places[here]
        return found

    def sizes(self, name: str) -> dict[str, np.ndarray]:
        """The size of each patient's predicted set, (patients,), under the name of its F1: the true number, and what
        the ranker chose. Chosen sets that on average hold more than half of all candidate codes are left out: a ranker
        that predicts nearly every code for nearly every patient has not chosen."""
        chosen = self.rankings[name].set_sizes
        if chosen is None or chosen.mean() > len(self.codes) / 2:
            return {"weighted_f1": self.true_sizes}
        return {"weighted_f1": self.true_sizes, "weighted_f1_eov": chosen}

    def heads(self, name: str, sizes: np.ndarray, rows: slice) -> Pairs:
        """The first `sizes` (patients,) codes in the rankings of the patients `rows`."""
        import numpy as np

        size = sizes[rows]
        first = self.rankings[name].order[rows, : size.max()]  # (rows, largest set)
        patient = np.repeat(np.arange(rows.start, rows.stop), size)
        return Pairs(patient, first[np.arange(first.shape[1]) < size[:, None]])

    def predicted(self, name: str, sizes: np.ndarray) -> Iterator[Pairs]:
        """[`heads`] of all patients, in blocks of a million pairs, or of a single patient."""
        import numpy as np

        ends = np.cumsum(sizes)
        starts = np.unique(np.searchsorted(ends, np.arange(0, max(1, ends[-1]), BLOCK_PAIRS)))
        for start, stop in zip(starts, [*starts[1:], len(self)], strict=True):
            yield self.heads(name, sizes, slice(start, stop))


def by_code(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values in the order of a ranking of all codes, put into that of the codes: (patients, codes), float32."""
    import numpy as np

    table = np.empty(values.shape, dtype=np.float32)
    np.put_along_axis(table, order, values.astype(np.float32), axis=1)
    return table


def are_among(pairs: Pairs, some: Pairs, n_codes: int) -> np.ndarray:
    """Whether each of `pairs` is one of the sorted pairs `some`: bool of shape (pairs,)."""
    import numpy as np

    keys, wanted = (each.patient * n_codes + each.code for each in (some, pairs))
    if not len(keys):
        return np.zeros(len(wanted), dtype=bool)
    return keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
