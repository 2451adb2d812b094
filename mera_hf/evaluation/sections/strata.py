"""Metrics inside strata: by training frequency of the code, repetition, chapter, history and profile.

A stratum keeps the pairs of patient and code that fall inside it, both true and predicted ones:

- `recall@k`: over the patients with a true code in the stratum, the mean share of these codes among the first k of the
  whole ranking; `repeated_recall@k` and `new_recall@k` are its two parts, by the whole history.
- `occurred@k`, `not_occurred@k`: of all true codes in the stratum, the share among the first k that was, or was not, in the
  history. Multiplied by `true_codes` they are counts of hits, which add up over the strata to the overall counts.
- `weighted_f1`, `weighted_f1_eov`: F1 of the pairs inside the stratum, with sets cut from the whole ranking
  beforehand: the first |y| codes, where |y| counts all true codes of the patient, and the set that the ranker chose.
  Weighted by `true_codes`, they add up to the overall figures if the stratum follows from the code.

The stratifications, with bounds of this project's choice except for training frequency (the paper's open question):

- `training_frequency`: visits of the training patients that hold the code, whether or not they are predicted: <= 5, 6-20,
  21-100, > 100, and < 100, which overlaps the others.
- `repeated_last_visit`, `repeated_history`: `repeated` if the code was in the last visit, or in any earlier visit; else `new`.
- `chapter`: the code's chapter in the tree.
- `earlier_visits`, `visit_size`: visits in the history, true codes of the patient.
- `age`, `sex`, `race`: from the profile (age at first visit); left out if no patient has it, `unknown` for those without it.

A stratum with fewer than 10 patients is listed with `"patients": "< 10"` and not measured; one without any is left out.
If it is the only such stratum, its count can be worked out from the others and the total.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mera_hf.blocks import Block, Card, Details, Grid, Paragraph, Plot, Row, Table
from mera_hf.evaluation import plots
from mera_hf.evaluation.bootstrap import BLOCK_RESAMPLES, RESAMPLES, all_draws, interval
from mera_hf.evaluation.figures import (
    COLUMNS,
    FEWEST_PATIENTS,
    MORE_COLUMNS,
    TOO_FEW,
    count_text,
    format_figure,
    heading_of,
    mean_of,
    percent,
    plain_name,
    title_of,
    with_interval,
)
from mera_hf.evaluation.rankings.ranked import Pairs, RankedPatients, are_among
from mera_hf.icd import code_tree


if TYPE_CHECKING:
    import numpy as np

KS = (10, 20)
# An untrained EOV may give every code to every patient. Reweighting such sets a thousand times takes hours and
# says nothing, so F1 of sets with more pairs than this has no interval.
MOST_PAIRS = 5_000_000

FREQUENCIES = {"<= 5": 5, "6-20": 20, "21-100": 100}  # the last value of each stratum
EARLIER_VISITS = {"1": 1, "2": 2, "3-5": 5}
VISIT_SIZES = {"1": 1, "2": 2, "3-5": 5, "6-10": 10, "11-20": 20}
# Bounds of decades, as the model reads an age and as some sources know it
AGES = {"under 20": 19, "20-39": 39, "40-49": 49, "50-59": 59, "60-69": 69, "70-79": 79}
SEXES = {"F": "female", "M": "male"}
UNKNOWN = "unknown"


class Stratification(NamedTuple):
    """One way to divide pairs of patient and code.

    Attributes:
        name (`str`): its name in `metrics.json`.
        strata (`Sequence[str]`): names of its strata.
        number (`Callable[[Pairs], np.ndarray]`): the stratum of each pair, (pairs,) int; -1 for none.
    """

    name: str
    strata: Sequence[str]
    number: Callable[[Pairs], np.ndarray]


def stratifications(patients: RankedPatients) -> list[Stratification]:
    """All stratifications in the module docstring."""
    import numpy as np

    n_codes, samples = len(patients.codes), patients.samples
    train_visits = np.asarray(patients.train_visits)
    last = patients.pairs([sample.history[-1] for sample in samples])
    trees = [code_tree(code) for code in patients.codes]
    chapters = [tree.ancestor(code, "chapter") for tree, code in zip(trees, patients.codes, strict=True)]
    titles = [
        f"{node} {tree.description(node)}" for tree, node in zip(trees, chapters, strict=True) if node
    ]  # all have one
    return [
        by_code("training_frequency", *binned(train_visits, FREQUENCIES, "> 100")),
        by_code("training_frequency", ["< 100"], np.where(train_visits < 100, 0, -1)),
        Stratification("repeated_last_visit", ["repeated", "new"], lambda pairs: ~are_among(pairs, last, n_codes)),
        Stratification(
            "repeated_history", ["repeated", "new"], lambda pairs: ~are_among(pairs, patients.history, n_codes)
        ),
        by_code("chapter", *named(titles)),
        by_patient("earlier_visits", *binned([len(sample.history) for sample in samples], EARLIER_VISITS, "6+")),
        *profile_stratifications(patients),
        by_patient("visit_size", *binned(patients.true_sizes, VISIT_SIZES, "21+")),
    ]


def profile_stratifications(patients: RankedPatients) -> list[Stratification]:
    """Age, sex and race, as far as any profile has them."""
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
            found.append(by_patient(name, *named([SEXES.get(value, value) if value else UNKNOWN for value in values])))
    return found


def binned(values: Sequence[float] | np.ndarray, ends: dict[str, int], rest: str) -> tuple[list[str], np.ndarray]:
    """Names of the bins and the bin of each value: the first whose last value is not below it, else `rest`."""
    import numpy as np

    return [*ends, rest], np.searchsorted(list(ends.values()), values)


def named(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Distinct names in order of first appearance, `unknown` last, and the index of each value's name."""
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


class Strata:
    """The patients divided into the strata of several stratifications, to measure any ranker in all of them.

    Args:
        patients (`RankedPatients`): the patients.
        stratifications (`Sequence[Stratification]`): the strata.
        ks (`Sequence[int]`): of recall@k.

    Attributes:
        labels (`list[tuple[str, str]]`): stratification and name of each stratum; the axis `strata` below.
        sizes (`np.ndarray` of shape (strata, patients)): number of true codes of each patient in each stratum.
    """

    def __init__(self, patients: RankedPatients, stratifications: Sequence[Stratification], ks: Sequence[int] = KS):
        import numpy as np

        self.patients, self.stratifications, self.ks = patients, stratifications, ks
        self.labels = [(each.name, stratum) for each in stratifications for stratum in each.strata]
        true, n, n_codes = patients.true, len(patients), len(patients.codes)
        self.repeated = are_among(true, patients.history, n_codes)  # (true pairs,)
        # A true pair is a member of one stratum of each stratification, or of none
        cells, pairs = zip(*self._cells(true), strict=True)
        self.cell, self.pair = np.concatenate(cells), np.concatenate(pairs)  # (members,)
        self.member_patient = true.patient[self.pair]
        self.member_row = self.cell // n_codes * n + self.member_patient  # its place in (strata, patients)
        self.sizes = self._per_patient(np.ones(len(true.code), dtype=bool))

    def _cells(self, pairs: Pairs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each stratification the members of its strata: `stratum * codes + code`, and the index of the pair."""
        import numpy as np

        first = 0
        for each in self.stratifications:
            number = each.number(pairs)  # (pairs,)
            cell = (number + first) * len(self.patients.codes) + pairs.code
            kept = np.flatnonzero(number >= 0)
            yield (cell, kept) if len(kept) == len(cell) else (cell[kept], kept)
            first += len(each.strata)

    def _per_patient(self, chosen: np.ndarray) -> np.ndarray:
        """How many of the `chosen` (true pairs,) each patient has in each stratum: (strata, patients)."""
        import numpy as np

        shape = len(self.labels), len(self.patients)
        rows = self.member_row[chosen[self.pair]]
        return np.bincount(rows, minlength=shape[0] * shape[1]).reshape(shape)

    def _per_code(self, cells: np.ndarray) -> np.ndarray:
        """How many members each code has in each stratum: (strata, codes)."""
        import numpy as np

        shape = len(self.labels), len(self.patients.codes)
        return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)

    def figures(self, name: str) -> dict[str, np.ndarray]:
        """The metrics in the module docstring for one ranker: metric to (strata,) float, NaN without true codes."""
        import numpy as np

        places, inside = self.patients.true_places[name], self.sizes > 0
        figures = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            for k in self._ks(name):
                found = places < k  # (true pairs,)
                parts = {"": found, "repeated_": found & self.repeated, "new_": found & ~self.repeated}
                for part, hits in parts.items():
                    counts = self._per_patient(hits)
                    figures[f"{part}recall@{k}"] = (counts / np.maximum(self.sizes, 1)).sum(1) / inside.sum(1)
                    if part:
                        pooled = "occurred" if part == "repeated_" else "not_occurred"
                        figures[f"{pooled}@{k}"] = counts.sum(1) / self.sizes.sum(1)
            support = self._per_code(self.cell)
            for metric, size in self.patients.sizes(name).items():
                correct = self._per_code(self.cell[self._hits(places, size)])
                predicted = np.zeros_like(support)
                for pairs in self.patients.predicted(name, size):
                    for cells, _ in self._cells(pairs):
                        predicted += self._per_code(cells)
                figures[metric] = (f1(correct, predicted, support) * support).sum(1) / support.sum(1)
        return figures

    def _ks(self, name: str) -> list[int]:
        return [k for k in self.ks if k <= self.patients.rankings[name].order.shape[1]]

    def _hits(self, places: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Which members are among the first `size` (patients,) of their patient's ranking: (members,) bool."""
        return places[self.pair] < size[self.member_patient]

    def resampled(self, name: str, weights: np.ndarray) -> dict[str, np.ndarray]:
        """`recall@k` and the weighted F1s of one ranker for resampled patients.

        Args:
            name (`str`): the ranker.
            weights (`np.ndarray` of shape (patients, draws)): how often each patient is drawn, float32 or float64; the
                result has the same dtype.

        Returns:
            metric to (strata, draws), NaN where no patient of a stratum is drawn. `weighted_f1_eov` is missing if the
            sets hold more than 5 million codes.
        """
        import numpy as np
        from scipy.sparse import csr_array

        n, n_codes = len(self.patients), len(self.patients.codes)
        places, kind = self.patients.true_places[name], weights.dtype
        inside = csr_array(self.sizes > 0, dtype=kind)  # (strata, patients)
        recalls = {
            f"recall@{k}": csr_array(self._per_patient(places < k) / np.maximum(self.sizes, 1), dtype=kind)
            for k in self._ks(name)
        }
        # One column for each stratum and each code that is true in it: F1 gives other codes no weight
        columns, member_column = np.unique(self.cell, return_inverse=True)
        column_of = np.full(len(self.labels) * n_codes, -1)
        column_of[columns] = np.arange(len(columns))

        def matrix(column, patient):
            return csr_array((np.ones(len(column), kind), (column, patient)), shape=(len(columns), n))

        support = matrix(member_column, self.member_patient)
        sets = {}
        for metric, size in self.patients.sizes(name).items():
            if size.sum() > MOST_PAIRS:
                continue
            hit = self._hits(places, size)
            parts = []
            for pairs in self.patients.predicted(name, size):
                for cells, pair in self._cells(pairs):
                    column = column_of[cells]
                    parts.append((column[column >= 0], pairs.patient[pair[column >= 0]]))
            predicted = matrix(*(np.concatenate(each) for each in zip(*parts, strict=True)))
            sets[metric] = matrix(member_column[hit], self.member_patient[hit]), predicted
        stratum_of = csr_array(
            (np.ones(len(columns), kind), (columns // n_codes, np.arange(len(columns)))),
            shape=(len(self.labels), len(columns)),
        )
        draws: dict[str, list[np.ndarray]] = {metric: [] for metric in [*recalls, *sets]}
        for start in range(0, weights.shape[1], BLOCK_RESAMPLES):
            block = np.ascontiguousarray(weights[:, start : start + BLOCK_RESAMPLES])  # (patients, block)
            with np.errstate(invalid="ignore", divide="ignore"):
                for metric, shares in recalls.items():
                    draws[metric].append(shares @ block / (inside @ block))
                true_counts = support @ block  # (columns, block)
                for metric, (correct, predicted) in sets.items():
                    weighted = f1(correct @ block, predicted @ block, true_counts) * true_counts
                    draws[metric].append(stratum_of @ weighted / (stratum_of @ true_counts))
        return {metric: np.concatenate(blocks, axis=1) for metric, blocks in draws.items()}


def f1(correct: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """F1 from counts; 0 if nothing is true or predicted."""
    import numpy as np

    return 2 * correct / np.maximum(predicted + support, 1)


def measure(patients: RankedPatients, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """The section `strata` of `metrics.json`.

    Args:
        patients (`RankedPatients`): the patients and the rankers, `mera` among them.
        resamples (`int`, defaults to 1000), seed (`int`, defaults to 0): of the bootstrap over patients, for `mera`.

    Returns:
        `dict`: `{stratification: {stratum: {"patients", "true_codes", "rankers": {name: {metric: x}},
        "intervals": {"mera": {metric: [low, high]}}}}}`, or `{"patients": "< 10"}` for a stratum that is too small.
    """
    from tqdm import tqdm

    strata = Strata(patients, stratifications(patients))
    figures = {
        name: strata.figures(name) for name in tqdm(patients.rankings, desc="strata", unit="ranker", leave=False)
    }
    draws = strata.resampled("mera", all_draws(len(patients), resamples, seed))
    section: dict[str, Any] = {stratification: {} for stratification, _ in strata.labels}
    for i, (stratification, stratum) in enumerate(strata.labels):
        count = int((strata.sizes[i] > 0).sum())
        if 0 < count < FEWEST_PATIENTS:
            section[stratification][stratum] = {"patients": TOO_FEW}
        elif count:
            section[stratification][stratum] = {
                "patients": count,
                "true_codes": int(strata.sizes[i].sum()),
                "rankers": {
                    name: {metric: float(values[i]) for metric, values in found.items()}
                    for name, found in figures.items()
                },
                "intervals": {
                    "mera": {
                        metric: interval(float(figures["mera"][metric][i]), values[i], 0)
                        for metric, values in draws.items()
                    }
                },
            }
    return section


LABEL, HEADING = "Groups of patients and codes", "Groups of patients and codes"
COUNTS = ("patients", "true_codes")
# Headings, and what a stratum holds, in words for readers who do not know the field.
STRATIFICATIONS = {
    "training_frequency": ("How often the code was seen in training", "True codes by their number in training."),
    "repeated_last_visit": (
        "Repeated from the last visit, or new",
        "True codes by whether the visit before the target already had them.",
    ),
    "repeated_history": ("Repeated from any visit, or new", "True codes by whether any earlier visit had them."),
    "chapter": ("ICD chapter", "True codes by their chapter of the ICD."),
    "earlier_visits": ("Earlier visits", "Patients by how many visits came before the target."),
    "age": ("Age", "Patients by age group."),
    "sex": ("Sex", "Patients by recorded sex."),
    "race": ("Race", "Patients by recorded race, where it is known."),
    "visit_size": ("Size of the target visit", "Patients by how many codes the target visit has."),
}


def has_figures(strata: Mapping[str, Mapping]) -> bool:
    """Whether MERA was measured in at least one stratum."""
    return any(entry.get("rankers", {}).get("mera") for entry in strata.values())


def main_metric(strata: Mapping[str, Mapping]) -> str:
    """The metric that a stratification's plot shows: recall@20, or the first that MERA has."""
    metrics = [metric for entry in strata.values() for metric in entry.get("rankers", {}).get("mera", {})]
    return "recall@20" if "recall@20" in metrics else metrics[0]


def shown_rankers(metrics: Mapping) -> list[str]:
    """The rankers in the plots: MERA, copying, and the best other reference by recall@20 over all patients."""
    others = {
        name: mean_of(figures["recall@20"])
        for name, figures in metrics["rankers"].items()
        if name not in ("mera", "copy_history")
    }
    best = [max(others, key=lambda name: others[name])] if others else []
    return ["mera", *(["copy_history"] if "copy_history" in metrics["rankers"] else []), *best]


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page: one card per stratification, one grid row high for every seven strata."""
    metrics = report["metrics"]
    cards = [
        Card(
            heading_and_meaning(name)[0],
            [
                Paragraph(heading_and_meaning(name)[1], "muted"),
                _plot(name, strata, shown_rankers(metrics)),
                Details("The figures as a table", tables(strata, list(metrics["rankers"]))),
            ],
            -(-len(strata) // 7),
        )
        for name, strata in metrics.get("strata", {}).items()
        if has_figures(strata)
    ]
    lead = (
        "The same ranking, measured within groups. The line through MERA's dot is its 95 % interval: where lines "
        "overlap widely, do not read a difference into the dots. Groups with fewer than 10 patients are not measured."
    )
    return [Paragraph(lead), Grid(cards)] if cards else []


def heading_and_meaning(stratification: str) -> tuple[str, str]:
    """What a stratification is called, and what it distinguishes."""
    return STRATIFICATIONS.get(stratification, (plain_name(stratification).capitalize(), ""))


def _plot(name: str, strata: Mapping[str, Mapping], rankers: list[str]) -> Plot:
    metric = main_metric(strata)
    strata = {plain_name(stratum): entry for stratum, entry in strata.items()}
    told = "; ".join(
        f"{stratum}: "
        + (
            ", ".join(
                f"{title_of(ranker)} {format_figure(metric, entry['rankers'][ranker][metric])}"
                for ranker in rankers
                if metric in entry.get("rankers", {}).get(ranker, {})
            )
            or "too few to measure"
        )
        for stratum, entry in strata.items()
    )
    heading = STRATIFICATIONS.get(name, (plain_name(name),))[0]
    return Plot(
        f"strata_{name}",
        plots.strata_plot(strata, metric, heading_of(metric), rankers),
        f"Dot plot of {heading_of(metric)} in percent. {heading}. {told}.",
    )


def tables(strata: Mapping[str, Mapping], rankers: list[str]) -> list[Table]:
    """MERA beside the rankers in the stratification's main metric, and MERA in its other metrics."""
    metric = main_metric(strata)
    names = [name for name in rankers if any(metric in _figures(entry, name) for entry in strata.values())]
    counts = [key for key in ("patients", "true_codes") if any(key in entry for entry in strata.values())]
    rows = []
    for stratum, entry in strata.items():
        numbers = [count_text(entry.get(key)) for key in counts]
        if not _figures(entry, "mera"):
            rows.append(Row(plain_name(stratum), [*numbers, "too few", *["–"] * (len(names) - 1)]))
            continue
        values = [_figures(entry, name).get(metric) for name in names]
        best = max(mean_of(value) for value in values if value is not None)
        texts = [with_interval(metric, values[0], _interval(entry, metric))]
        texts += [format_figure(metric, value) for value in values[1:]]
        marks = [len(names) > 1 and value is not None and mean_of(value) == best for value in values]
        rows.append(Row(plain_name(stratum), [*numbers, *texts], [False] * len(counts) + marks))
    headings = ["stratum", *(key.replace("_", " ") for key in counts), *map(title_of, names)]
    interval_note = (
        ", MERA with its 95 % interval" if any(_interval(entry, metric) for entry in strata.values()) else ""
    )
    tables = [Table(f"{heading_of(metric)} in percent{interval_note}", headings, rows)]
    others = [
        other
        for other in {**COLUMNS, **MORE_COLUMNS}
        if other != metric and any(other in _figures(entry, "mera") for entry in strata.values())
    ]
    if others:
        rows = [
            Row(plain_name(stratum), [format_figure(other, _figures(entry, "mera").get(other)) for other in others])
            for stratum, entry in strata.items()
        ]
        tables.append(Table("MERA in other measures, percent", ["stratum", *map(heading_of, others)], rows))
    return tables


def _figures(entry: Mapping, ranker: str) -> Mapping:
    return entry.get("rankers", {}).get(ranker, {})


def _interval(entry: Mapping, metric: str) -> list[float] | None:
    return entry.get("intervals", {}).get("mera", {}).get(metric)


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """R@20 by training frequency, and of repeated and new codes."""
    parts = []
    for stratification, stratum, words in (
        ("training_frequency", "<= 5", "seen 5 times or less in training"),
        ("training_frequency", "> 100", "seen more than 100 times"),
        ("repeated_history", "repeated", "repeated from the history"),
        ("repeated_history", "new", "new to the patient"),
    ):
        entry = metrics.get("strata", {}).get(stratification, {}).get(stratum, {})
        recall = _figures(entry, "mera").get("recall@20")
        if recall is not None:
            parts.append(f"{words} {percent(recall)} %")
    return [f"MERA's R@20 of codes {', '.join(parts)}."] if parts else []
