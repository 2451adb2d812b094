"""The prepared dataset folder, as every other module reads it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample, prediction_samples
from mera_hf.errors import InputError
from mera_hf.files import read_json


if TYPE_CHECKING:
    from datasets import DatasetDict

REPORT_FILE = "prepare.json"
CODES_FILE = "codes.json"
AGAIN = "Prepare the dataset again (--overwrite)."


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared dataset: opened and checked once, then passed on. Make one with [`Prepared.open`].

    Attributes:
        folder (`Path`): where it was read.
        splits (`datasets.DatasetDict`): `train`, `validation` and `test`, see [`load_prepared`].
        entries (`list[dict]`): the content of `codes.json`, `{"code", "description", "patients", "visits"}` of each code
            of the candidate space in sort order, with counts of the train split.
        report (`dict`): the content of `prepare.json`, see [`PrepareReport`].
    """

    folder: Path
    splits: DatasetDict
    entries: list[dict]
    report: dict
    _samples: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> Prepared:
        """Read and check a folder.

        Raises:
            [`~mera_hf.errors.InputError`]: as [`load_prepared`], or if there are no codes.
        """
        splits, path = load_prepared(folder), Path(folder) / CODES_FILE
        if not (entries := read_json(path, AGAIN)):
            raise InputError(f"{str(path)!r} has no codes. {AGAIN}")
        return cls(Path(folder), splits, entries, read_report(folder))

    @cached_property
    def codes(self) -> list[str]:
        """The candidate space, in sort order."""
        return [entry["code"] for entry in self.entries]

    def samples(self, split: str, target: str = "last", codes: Sequence[str] | None = None) -> list[Sample]:
        """The prediction samples of a split, made on the first call and kept.

        Args:
            split (`str`): `train`, `validation` or `test`.
            target (`str`, defaults to `"last"`): see [`~mera_hf.data.samples.prediction_samples`].
            codes (`Sequence[str]`, *optional*): the codes of a model; defaults to those of the dataset.

        Raises:
            [`~mera_hf.errors.InputError`]: for another split, and as `prediction_samples`.
        """
        if split not in self.splits:
            raise InputError(f"`split` is {split!r}; choose one of {', '.join(self.splits)}.")
        codes = tuple(self.codes if codes is None else codes)
        key = split, target, codes
        if key not in self._samples:
            self._samples[key] = prediction_samples(self.splits[split], codes, target)
        return self._samples[key]

    def train_visits(self, codes: Sequence[str]) -> list[int]:
        """How many visits of train patients contain each code; 0 for a code that is not in the dataset."""
        visits = {entry["code"]: entry["visits"] for entry in self.entries}
        return [visits.get(code, 0) for code in codes]


def load_prepared(folder: str | os.PathLike) -> DatasetDict:
    """Open a prepared folder and check it: `train`, `validation` and `test`, each with `VISITS_FEATURES`, or
    `DRG_VISITS_FEATURES` where the source has DRG severities.

    The rows are read into memory and never copied into a cache, where patient data would outlive the folder.

    Raises:
        InputError: not a prepared folder, a missing or broken file, rows that break the schema, a patient in two
            splits, an empty train split.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset, DatasetDict

    from mera_hf.data.schema import check_visits
    from mera_hf.data.splits import SPLITS, check_disjoint

    read_report(folder)
    splits = DatasetDict()
    for name in SPLITS:
        path = Path(folder) / "data" / f"{name}.parquet"
        try:
            # One file, not a folder of partitions: `ParquetFile` takes no column from the path.
            splits[name] = Dataset(pq.ParquetFile(path).read())
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{str(path)!r} cannot be read: {error}. {AGAIN}") from error
        try:
            check_visits(splits[name])
        except InputError as error:
            raise InputError(f"{str(path)!r}: {error}") from error
    check_disjoint({name: list(dataset["patient_id"]) for name, dataset in splits.items()})
    if not len(splits["train"]):
        raise InputError(f"{str(folder)!r} has no patients in train. Prepare the dataset again with more patients.")
    return splits


def read_report(folder: str | os.PathLike) -> dict:
    """The `prepare.json` of a prepared folder, see [`PrepareReport`].

    Raises:
        InputError: `folder` is not a prepared folder.
    """
    path = Path(folder) / REPORT_FILE
    if not path.is_file():
        raise InputError(
            f"{str(folder)!r} is not a prepared dataset: it has no {REPORT_FILE}. Write one with `mera prepare`."
        )
    return read_json(path, AGAIN)


@dataclass
class PrepareReport:
    """What `prepare` did: the content of `prepare.json`.

    Attributes:
        source (`str`): name of the source, then `title`, `license`, `terms`, `citation`, `homepage` (`str`) of its
            data.
        credentialed (`bool`): whether the data, and anything derived from them, must not be shared.
        agreement (`str` or `None`): the agreement under which credentialed data are released, if known.
        arguments (`dict`): the arguments that shaped the dataset.
        raw_files (`list[dict]`): `name`, `bytes` and `sha256` of each raw file.
        read (`dict[str, int]`): `patients`, `visits` and `code_rows` of the source.
        dropped (`dict[str, int]`): what is not in the dataset, in words, and how many.
        code_rows (`dict[str, int]` or `None`): where codes were mapped to one version, the code rows that were `read`;
            in words what took rows away, negative, and what added some; and their sum, the rows `used`. Not written
            where codes were kept.
        unknown_codes (`list[dict]`): each unknown spelling: `value`, `version`, `count`, `nearest`, `other`.
        cohort (`dict`): `patients`, `visits`, `codes` (distinct), `codes_per_visit`, `visits_per_patient`,
            `single_visit_patients` (those below `min_visits` that are kept in train), and `drg_severities` (visits
            whose DRG severity is known) where the source has them.
        splits (`dict[str, dict]`): `patients` and `visits` of each split.
        fingerprint (`str`): 16 hex digits of the sha256 of the rows in their splits, the same wherever they are
            prepared.
        changes (`list[str]`): when a folder was overwritten, what changed; not written to `prepare.json`.
    """

    source: str
    title: str
    homepage: str | None
    license: str
    terms: str
    citation: str
    credentialed: bool
    agreement: str | None
    arguments: dict
    raw_files: list[dict]
    read: dict[str, int]
    dropped: dict[str, int]
    code_rows: dict[str, int] | None
    unknown_codes: list[dict]
    cohort: dict
    splits: dict[str, dict]
    fingerprint: str
    changes: list[str]

    def to_dict(self) -> dict:
        """The content of `prepare.json`."""
        left_out = {"changes"} if self.code_rows else {"changes", "code_rows"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def table(self) -> str:
        """The report as a short table of plain text, for the terminal."""
        cohort = self.cohort
        lines = [f"{self.source}: {self.title}", ""]
        lines += [f"  {'read':<44}{self.read['patients']:>9,} patients {self.read['visits']:>9,} visits"]
        lines += [f"  {'cohort':<44}{cohort['patients']:>9,} patients {cohort['visits']:>9,} visits"]
        for name, counts in self.splits.items():
            lines += [f"    {name:<42}{counts['patients']:>9,} patients {counts['visits']:>9,} visits"]
        if cohort["single_visit_patients"]:
            lines += [
                f"    {'of train, kept below the least visits':<42}{cohort['single_visit_patients']:>9,} patients"
            ]
        lines += [f"  {'distinct codes':<44}{cohort['codes']:>9,}"]
        lines += [f"  {'codes per visit':<44}{cohort['codes_per_visit']:>9.2f}"]
        lines += [f"  {'visits per patient':<44}{cohort['visits_per_patient']:>9.2f}"]
        if "drg_severities" in cohort:
            lines += [f"  {'visits with a known DRG severity':<44}{cohort['drg_severities']:>9,}"]
        dropped = {what: count for what, count in self.dropped.items() if count}
        if dropped:
            lines += ["", "  left out"]
            lines += [f"    {what:<42}{count:>9,}" for what, count in dropped.items()]
        if self.code_rows:
            lines += ["", "  code rows"]
            lines += [f"    {what:<42}{count:>9,}" for what, count in self.code_rows.items()]
        if self.unknown_codes:
            lines += ["", "  unknown codes (rows, nearest valid prefix)"]
            lines += [
                f"    {row['value']:<12}{row['count']:>6,}  {row['nearest'] or 'none'}"
                for row in self.unknown_codes[:10]
            ]
            if len(self.unknown_codes) > 10:
                lines += [f"    ... and {len(self.unknown_codes) - 10} more spellings, in {REPORT_FILE}"]
        if self.changes:
            lines += ["", "  changed since the folder was last prepared"]
            lines += [f"    {change}" for change in self.changes]
        return "\n".join(lines)
