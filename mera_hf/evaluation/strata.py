"""Metrics inside strata: by how often the true code is seen in training, by repetition, chapter, history and profile.

Every stratification (this project's choice of bounds) gives each pair of patient and code one stratum at most, and a stratum
keeps the pairs inside it, of the true codes and of the predicted ones alike:

- `recall@k`: mean over the patients with a true code in the stratum of the share of these codes among the first k of the
  whole ranking; `repeated_recall@k` and `new_recall@k` are its two parts, by the whole history.
- `occurred@k`, `not_occurred@k`: of all true codes in the stratum, the share among the first k that was, or was not, in the
  history. Times `true_codes` they are counts of hits, which add up over the strata to those of the whole.
- `weighted_f1`, `weighted_f1_eov`: F1 of the pairs inside the stratum, with the sets cut from the whole ranking before: the
  first |y| codes with |y| the number of all true codes of the patient, and the set that the ranker chose. Weighted by
  `true_codes`, they add up to those of the whole where the stratum follows from the code.

| stratification | strata |
|---|---|
| `training_frequency` | visits of the training patients that hold the code, predicted visits or not: <= 5, 6-20, 21-100, > 100, and < 100, which overlaps the others |
| `repeated_last_visit`, `repeated_history` | the code was in the last visit, in any earlier visit: `repeated`, or `new` |
| `chapter` | of the code, in the tree |
| `earlier_visits`, `visit_size` | visits in the history, true codes of the patient |
| `age`, `sex`, `race` | of the profile, age at the first visit; left out where no patient has it, `unknown` where some lack it |

A stratum with fewer than 10 patients is listed with `"patients": "< 10"` and not measured; one without any is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mera_hf.evaluation.ranked_patients import Pairs, RankedPatients, are_among
from mera_hf.icd import code_tree


if TYPE_CHECKING:
    import numpy as np

FEWEST_PATIENTS = 10
KS = (10, 20)
RESAMPLES = 1000
BLOCK_RESAMPLES = 100
# An untrained EOV may give every code to every patient. Weighing such sets anew a thousand times takes hours and says
# nothing, so that F1 of sets that hold more pairs than this has no interval.
MOST_PAIRS = 5_000_000
TOO_SMALL = f"< {FEWEST_PATIENTS}"

FREQUENCIES = {"<= 5": 5, "6-20": 20, "21-100": 100}  # the last value of each stratum
EARLIER_VISITS = {"1": 1, "2": 2, "3-5": 5}
VISIT_SIZES = {"1": 1, "2": 2, "3-5": 5, "6-10": 10, "11-20": 20}
# Bounds of decades, as the model reads an age and as some sources know it
AGES = {"under 20": 19, "20-39": 39, "40-49": 49, "50-59": 59, "60-69": 69, "70-79": 79}
SEXES = {"F": "female", "M": "male"}
UNKNOWN = "unknown"


class Stratification(NamedTuple):
    """One way to tell pairs of patient and code apart.

    Attributes:
        name (`str`): its name in `metrics.json`.
        strata (`Sequence[str]`): names of its strata.
        number (`Callable[[Pairs], np.ndarray]`): the stratum of each pair, (pairs,) int; -1 for none.
    """

    name: str
    strata: Sequence[str]
    number: Callable[[Pairs], np.ndarray]


def stratifications(patients: RankedPatients, train_visits: Sequence[int]) -> list[Stratification]:
    """All stratifications of the module's table.

    Args:
        patients (`RankedPatients`): those to be measured.
        train_visits (`Sequence[int]`): for each candidate code the visits of training patients that hold it.
    """
    import numpy as np

    n_codes, samples = len(patients.codes), patients.samples
    train_visits = np.asarray(train_visits)
    last = patients.pairs([sample.history[-1] for sample in samples])
    history = patients.pairs([[code for visit in sample.history for code in visit] for sample in samples])
    trees = [code_tree(code) for code in patients.codes]
    chapters = [tree.ancestor(code, "chapter") for tree, code in zip(trees, patients.codes, strict=True)]
    titles = [f"{chapter} {tree.description(chapter)}" for tree, chapter in zip(trees, chapters, strict=True)]
    return [
        by_code("training_frequency", *binned(train_visits, FREQUENCIES, "> 100")),
        by_code("training_frequency", ["< 100"], np.where(train_visits < 100, 0, -1)),
        Stratification("repeated_last_visit", ["repeated", "new"], lambda pairs: ~are_among(pairs, last, n_codes)),
        Stratification("repeated_history", ["repeated", "new"], lambda pairs: ~are_among(pairs, history, n_codes)),
        by_code("chapter", *named(titles)),
        by_patient("earlier_visits", *binned([len(sample.history) for sample in samples], EARLIER_VISITS, "6+")),
        *profile_stratifications(patients),
        by_patient("visit_size", *binned(patients.true_sizes, VISIT_SIZES, "21+")),
    ]


def profile_stratifications(patients: RankedPatients) -> list[Stratification]:
    """Age, sex and race: those of them that some profile has."""
    import numpy as np

    profiles = [sample.profile or {} for sample in patients.samples]
    found = []
    ages = np.array([np.nan if profile.get("age") is None else profile["age"] for profile in profiles], dtype=float)
    if not np.isnan(ages).all():
        strata, numbers = binned(np.floor(ages), AGES, "80 and over")
        numbers[np.isnan(ages)] = len(strata)
        found.append(by_patient("age", [*strata, UNKNOWN], numbers))
    for name in ("sex", "race"):
        values = [profile.get(name) for profile in profiles]
        if any(values):
            found.append(by_patient(name, *named([SEXES.get(value, value) or UNKNOWN for value in values])))
    return found


def binned(values: Sequence[float], ends: dict[str, int], rest: str) -> tuple[list[str], np.ndarray]:
    """Names of the bins and the bin of each value: the first whose last value is not below it, `rest` above all."""
    import numpy as np

    return [*ends, rest], np.searchsorted(list(ends.values()), values)


def named(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Distinct names in order of first appearance, `unknown` last, and the number of each value's."""
    import numpy as np

    names = sorted(dict.fromkeys(values), key=lambda name: name == UNKNOWN)
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[value] for value in values])


def by_patient(name: str, strata: Sequence[str], numbers: np.ndarray) -> Stratification:
    """The stratum follows from the patient: `numbers` (patients,)."""
    return Stratification(name, strata, lambda pairs: numbers[pairs.patient])


def by_code(name: str, strata: Sequence[str], numbers: np.ndarray) -> Stratification:
    """The stratum follows from the code: `numbers` (codes,)."""
    return Stratification(name, strata, lambda pairs: numbers[pairs.code])


class Tally:
    """Counts of one ranker inside the strata of several stratifications; `strata` below are those of all of them in a row.

    Args:
        patients (`RankedPatients`): the patients.
        name (`str`): the ranker.
        stratifications (`Sequence[Stratification]`): the strata.
        ks (`Sequence[int]`): of recall@k; those above the length of the rankings are left out.
        history (`Pairs`, *optional*): what each patient had before, which splits recall in two; without it, it is not split.
    """

    def __init__(
        self,
        patients: RankedPatients,
        name: str,
        stratifications: Sequence[Stratification],
        ks: Sequence[int] = KS,
        history: Pairs | None = None,
    ):
        import numpy as np

        self.patients, self.name, self.stratifications = patients, name, stratifications
        self.ks = [k for k in ks if k <= patients.rankings[name].order.shape[1]]
        self.labels = [(each.name, stratum) for each in stratifications for stratum in each.strata]
        self.offsets = np.cumsum([0, *(len(each.strata) for each in stratifications)])[:-1]
        true = patients.true
        self.places = patients.true_places(name)  # (pairs,)
        self.repeated = None if history is None else are_among(true, history, len(patients.codes))
        # Each true pair once for each stratification that it is in
        self.stratum, self.pair = self.members(true)
        self.sizes = self._per_patient(np.ones(len(true.code), dtype=bool))  # (strata, patients) true codes

    def members(self, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Memberships of pairs in strata: number of the stratum and index of the pair, both (memberships,)."""
        import numpy as np

        numbers = np.stack([each.number(pairs) for each in self.stratifications])  # (stratifications, pairs)
        which, pair = np.nonzero(numbers >= 0)
        return numbers[which, pair] + self.offsets[which], pair

    def _per_patient(self, chosen: np.ndarray) -> np.ndarray:
        """How many of the `chosen` (pairs,) true pairs each patient has in each stratum: (strata, patients)."""
        import numpy as np

        kept = chosen[self.pair]
        n = len(self.patients)
        cell = self.stratum[kept] * n + self.patients.true.patient[self.pair[kept]]
        return np.bincount(cell, minlength=len(self.labels) * n).reshape(-1, n)

    def _cells(self, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """The cell `stratum * codes + code` of each membership of pairs, and the patient of each."""
        stratum, pair = self.members(pairs)
        return stratum * len(self.patients.codes) + pairs.code[pair], pairs.patient[pair]

    def figures(self) -> dict[str, np.ndarray]:
        """The metrics of the module's text: name to (strata,) float, NaN in a stratum without true codes."""
        import numpy as np

        sizes, hits = self.sizes, {}
        for k in self.ks:
            found = self.places < k  # (pairs,)
            hits["recall", "", k] = found
            if self.repeated is not None:
                hits["repeated_recall", "occurred", k] = found & self.repeated
                hits["new_recall", "not_occurred", k] = found & ~self.repeated
        figures = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for (name, pooled, k), found in hits.items():
                counts = self._per_patient(found)
                shares = np.divide(counts, sizes, out=np.zeros(sizes.shape), where=sizes > 0)
                figures[f"{name}@{k}"] = shares.sum(1) / (sizes > 0).sum(1)
                if pooled:
                    figures[f"{pooled}@{k}"] = counts.sum(1) / sizes.sum(1)
            shape = (len(self.labels), len(self.patients.codes))

            def count(cells):
                return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

            support = count(self._cells(self.patients.true)[0])
            for name, size in self.patients.sizes(self.name).items():
                found = self.places < size[self.patients.true.patient]
                correct = count(self._cells(Pairs(*(each[found] for each in self.patients.true)))[0])
                predicted = np.zeros(shape, dtype=np.int64)
                for pairs in self.patients.predicted(self.name, size):
                    predicted += count(self._cells(pairs)[0])
                figures[name] = (f1(correct, predicted, support) * support).sum(1) / support.sum(1)
        return figures

    def resampled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """`recall@k` and the weighted F1s of patients drawn anew.

        Args:
            weights (`np.ndarray` of shape (patients, draws)): how often each patient is drawn.

        Returns:
            name to (strata, draws) float, NaN where no patient of a stratum is drawn. `weighted_f1_eov` is missing where the
            sets hold more than 5 million codes.
        """
        import numpy as np
        from scipy.sparse import csr_array

        true, n = self.patients.true, len(self.patients)
        inside = self.sizes > 0  # (strata, patients)
        recalls = {}
        for k in self.ks:
            counts = self._per_patient(self.places < k)
            recalls[f"recall@{k}"] = np.divide(counts, self.sizes, out=np.zeros(inside.shape), where=inside)
        # One column for each code and stratum where it is true: F1 has no weight in the others
        cells, holder = self._cells(true)
        columns, number = np.unique(cells, return_inverse=True)
        column_of = np.full(len(self.labels) * len(self.patients.codes), -1)
        column_of[columns] = np.arange(len(columns))

        def matrix(column, patient):  # (columns, patients) 0/1
            kept = column >= 0
            return csr_array((np.ones(kept.sum()), (column[kept], patient[kept])), shape=(len(columns), n))

        support = matrix(number, holder)
        sets = {}
        for name, size in self.patients.sizes(self.name).items():
            if size.sum() > MOST_PAIRS:
                continue
            correct = (self.places < size[true.patient])[self.pair]  # (memberships,), in the order of `number`
            parts = [self._cells(pairs) for pairs in self.patients.predicted(self.name, size)]
            cells, patient = (np.concatenate(each) for each in zip(*parts, strict=True))
            sets[name] = matrix(number[correct], holder[correct]), matrix(column_of[cells], patient)
        pooling = csr_array(
            (np.ones(len(columns)), (columns // len(self.patients.codes), np.arange(len(columns)))),
            shape=(len(self.labels), len(columns)),
        )
        draws = {name: [] for name in [*recalls, *sets]}
        for start in range(0, weights.shape[1], BLOCK_RESAMPLES):
            block = np.ascontiguousarray(weights[:, start : start + BLOCK_RESAMPLES], dtype=float)  # (patients, block)
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn = inside @ block  # (strata, block)
                for name, shares in recalls.items():
                    draws[name].append(shares @ block / drawn)
                true_counts = support @ block  # (columns, block)
                for name, (correct, predicted) in sets.items():
                    weighted = f1(correct @ block, predicted @ block, true_counts) * true_counts
                    draws[name].append(pooling @ weighted / (pooling @ true_counts))
        return {name: np.concatenate(blocks, axis=1) for name, blocks in draws.items()}


def f1(correct: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """F1 from counts; 0 where nothing is true or predicted."""
    import numpy as np

    return 2 * correct / np.maximum(predicted + support, 1)


def draw_patients(n: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap over patients: how often each of `n` is drawn in each of `resamples`, (n, resamples) float32."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(resamples)], 1).astype("f4")


def interval(draws: np.ndarray, level: float = 0.95) -> list[float]:
    """Percentile interval `[low, high]` of draws, leaving out those in which a stratum has no patient."""
    import numpy as np

    return [float(end) for end in np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])]


def measure_strata(
    patients: RankedPatients, train_visits: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """The section `strata` of `metrics.json`.

    Args:
        patients (`RankedPatients`): the patients and the rankers, `mera` among them.
        train_visits (`Sequence[int]`): for each candidate code the visits of training patients that hold it.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): of the bootstrap over patients, for `mera`.

    Returns:
        `dict`: `{stratification: {stratum: {"patients", "true_codes", "rankers": {name: {metric: x}},
        "intervals": {"mera": {metric: [low, high]}}}}}`, or `{"patients": "< 10"}` for a stratum that is too small.
    """
    from tqdm import tqdm

    every = stratifications(patients, train_visits)
    history = patients.pairs([[code for visit in each.history for code in visit] for each in patients.samples])
    figures = {}
    for name in tqdm(patients.rankings, desc="strata", unit="ranker", leave=False):
        tally = Tally(patients, name, every, history=history)
        figures[name] = tally.figures()
        if name == "mera":
            labels, sizes = tally.labels, tally.sizes
            draws = tally.resampled(draw_patients(len(patients), resamples, seed))
    section = {each.name: {} for each in every}
    for i, (stratification, stratum) in enumerate(labels):
        count = int((sizes[i] > 0).sum())
        if 0 < count < FEWEST_PATIENTS:
            section[stratification][stratum] = {"patients": TOO_SMALL}
        elif count:
            section[stratification][stratum] = {
                "patients": count,
                "true_codes": int(sizes[i].sum()),
                "rankers": {
                    name: {metric: float(values[i]) for metric, values in found.items()}
                    for name, found in figures.items()
                },
                "intervals": {"mera": {metric: interval(values[i]) for metric, values in draws.items()}},
            }
    return section
