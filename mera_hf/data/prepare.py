"""From raw tables to the prepared dataset folder, and back from the folder to a `DatasetDict`."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.sources import SOURCES
from mera_hf.errors import InputError


if TYPE_CHECKING:
    import datasets
    import polars as pl

# Sources that the package carries, so that they need no `data_dir`.
BUNDLED = ("diabetes130", "desynpuf")
REPORT_FILE = "prepare.json"
CODES_FILE = "codes.json"


@dataclass
class PrepareReport:
    """What `prepare` did: the content of `prepare.json`.

    Attributes:
        source (`str`): name of the source, and `title`, `license`, `terms`, `citation`, `homepage` (`str`) of its
            data.
        credentialed (`bool`): whether the data, and what is made of them, may not be shared.
        agreement (`str` or `None`): the agreement under which credentialed data are handed out, if it is known.
        arguments (`dict`): the arguments that shaped the dataset.
        raw_files (`list[dict]`): `name`, `bytes` and `sha256` of each raw file.
        read (`dict[str, int]`): `patients`, `visits` and `code_rows` of the source.
        dropped (`dict[str, int]`): what is not in the dataset, in words, and how many.
        unknown_codes (`list[dict]`): each unknown spelling: `value`, `version`, `count`, `nearest`, `other`.
        cohort (`dict`): `patients`, `visits`, `codes` (distinct), `codes_per_visit`, `visits_per_patient`,
            `single_visit_patients` (those below `min_visits` that are kept in train), and `drg_severities` (visits
            whose DRG severity is known) where the source has them.
        splits (`dict[str, dict]`): `patients` and `visits` of each split.
        fingerprint (`str`): 16 hex digits of the sha256 of the rows in their splits, the same wherever they are
            prepared.
        changes (`list[str]`): when a folder was overwritten, what is not as it was; not written to `prepare.json`.
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
    unknown_codes: list[dict]
    cohort: dict
    splits: dict[str, dict]
    fingerprint: str
    changes: list[str]

    def to_dict(self) -> dict:
        """The content of `prepare.json`."""
        return {name: value for name, value in asdict(self).items() if name != "changes"}

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


def prepare(
    source: str,
    data_dir: str | os.PathLike | None = None,
    output_dir: str | os.PathLike | None = None,
    *,
    cohort: str = "default",
    split: str = "random",
    icd: str | None = None,
    min_visits: int = 2,
    keep_single_visit: bool = False,
    sample: int | None = None,
    seed: int | None = None,
    unknown: str | None = None,
    overwrite: bool = False,
) -> PrepareReport:
    """Prepare the dataset folder of a source: `README.md`, `data/*.parquet`, `codes.json`, `prepare.json`, the
    licence.

    The folder appears whole or not at all. `datasets.load_dataset(output_dir)` and [`load_prepared`] open it.

    Args:
        source (`str`): `"diabetes130"`, `"mimic3"`, `"mimic4"`, `"desynpuf"` or `"visits_csv"`.
        data_dir (path, *optional*): folder with the raw tables (for `visits_csv` also the table itself). diabetes130
            and desynpuf come with the package: without `data_dir` the bundled file is read.
        output_dir (path): the folder to write.
        cohort (`str`, defaults to `"default"`): `"default"` removes visits without codes; `"field"` is the cohort of
            CGL and Chet: a patient is dropped whole if an admission has no code, MIMIC-IV from 2013 on.
        split (`str`, defaults to `"random"`): `"random"` is 70/10/20 by hash of the patient; `"field"` is the
            transductive split of CGL and Chet, for mimic3 and mimic4 (there of 10,000 sampled patients).
        icd (`str`, *optional*): `"9"` or `"10"` maps all codes to that version by the General Equivalence Maps,
            `"keep"` leaves them. Defaults to `"9"` for `cohort="field"`, else to `"keep"`.
        min_visits (`int`, defaults to 2): patients with fewer visits are left out.
        keep_single_visit (`bool`, defaults to `False`): keep patients below `min_visits`, in train only.
        sample (`int`, *optional*): draw this many patients of the cohort (seed 6669).
        seed (`int`, *optional*): seed of the split. Defaults to 0, or to 6669 for `split="field"`.
        unknown (`str`, *optional*): `"error"` refuses a code that is in no tree, `"drop"` leaves it out and reports
            it. Defaults to `"error"` for `visits_csv`, whose owner can correct it, and to `"drop"` for the public
            sources.
        overwrite (`bool`, defaults to `False`): replace a folder that `prepare` wrote before, and say what changed.

    Returns:
        [`PrepareReport`].

    Raises:
        InputError: a bad argument, a bad raw file (naming file, row, value and fix), an empty cohort, or an
            `output_dir` that exists. Nothing is written then.
    """
    _check_arguments(source, data_dir, output_dir, cohort, split, icd, min_visits, keep_single_visit, sample, unknown)
    output = Path(output_dir)
    before = _check_output(output, data_dir, overwrite)

    import polars as pl
    from tqdm import tqdm

    from mera_hf.data.codes import map_codes, normalize_codes
    from mera_hf.data.cohort import FIELD_SEED, select_cohort
    from mera_hf.data.splits import FIELD_SAMPLE, FIELD_SIZES, SPLITS, field_split, random_split

    module = importlib.import_module(f"mera_hf.data.sources.{source}")
    icd = icd or ("9" if cohort == "field" else "keep")
    unknown = unknown or module.UNKNOWN
    if seed is None:
        seed = FIELD_SEED if split == "field" else 0
    if split == "field" and sample is None:
        sample = FIELD_SAMPLE[source]

    # One step a stage; `disable=None` keeps the bar out of files and pipes.
    with tqdm(total=5, desc=f"prepare {source}", unit="step", disable=None) as progress:
        records = module.read(None if data_dir is None else Path(data_dir))
        progress.update()
        codes, code_report, dropped = normalize_codes(records, unknown)
        if icd != "keep":
            codes, without = map_codes(codes, f"ICD{icd}CM")
            dropped |= without
        progress.update()
        rows, left_out = select_cohort(
            records, codes, rule=cohort, min_visits=min_visits, keep_single_visit=keep_single_visit, sample=sample
        )
        dropped = {what: int(count) for what, count in (left_out | dropped).items()}
        progress.update()
        if split == "field":
            names = field_split(rows, *FIELD_SIZES[source], seed)
        else:
            names = [
                "train" if single else random_split(patient, seed)
                for patient, single in rows.select("patient_id", "single").iter_rows()
            ]
        tables = {name: rows.filter(pl.Series(names) == name).drop("single") for name in SPLITS}
        if tables["train"].is_empty():
            raise InputError(
                f"All {rows.height} patients of the cohort fall into validation and test, and train is empty. "
                f"Prepare more patients, or set another `seed` than {seed}."
            )
        progress.update()

        vocabulary = _count_codes(rows, tables["train"])
        report = PrepareReport(
            source=source,
            title=records.origin.title,
            homepage=records.origin.homepage,
            license=records.origin.license_name or records.origin.license,
            terms=records.origin.terms,
            citation=records.origin.citation,
            credentialed=records.origin.credentialed,
            agreement=records.origin.agreement,
            arguments={
                "cohort": cohort,
                "split": split,
                "icd": icd,
                "min_visits": min_visits,
                "keep_single_visit": keep_single_visit,
                "sample": sample,
                "seed": seed,
                "unknown": unknown,
            },
            raw_files=[describe_file(path) for path in records.files],
            read={
                "patients": records.visits["patient_id"].n_unique(),
                "visits": records.visits.height,
                "code_rows": records.codes.height,
            },
            dropped=dropped,
            unknown_codes=code_report.rows(),
            cohort=_cohort_counts(rows, len(vocabulary)),
            splits={
                name: {"patients": table.height, "visits": int(table["visits"].list.len().sum())}
                for name, table in tables.items()
            },
            fingerprint=_fingerprint(tables),
            changes=[],
        )
        if before is not None:
            report.changes = _changes(before, report.to_dict())
        with whole_folder(output) as folder:
            _write(folder, report, records, tables, vocabulary)
        progress.update()
    return report


def _check_arguments(source, data_dir, output_dir, cohort, split, icd, min_visits, keep_single_visit, sample, unknown):
    def one_of(name, value, allowed):
        if value not in allowed:
            raise InputError(f"`{name}` is {value!r}. Choose one of {', '.join(map(str, allowed))}.")

    one_of("source", source, SOURCES)
    one_of("cohort", cohort, ("default", "field"))
    one_of("split", split, ("random", "field"))
    one_of("icd", icd, (None, "9", "10", "keep"))
    one_of("unknown", unknown, (None, "error", "drop"))
    if output_dir is None:
        raise InputError("`output_dir` is missing. Name the folder to write.")
    if data_dir is None and source not in BUNDLED:
        raise InputError(f"`data_dir` is missing. Name the folder that holds the raw tables of {source}.")
    if min_visits < 1:
        raise InputError(
            f"`min_visits` is {min_visits}. Set 1 or more; 2 is the least that can be predicted and tested."
        )
    if sample is not None and sample < 1:
        raise InputError(f"`sample` is {sample}. Set the number of patients to draw, 1 or more.")
    if split == "field":
        from mera_hf.data.splits import FIELD_SIZES

        if source not in FIELD_SIZES:
            raise InputError(
                f"split='field' is defined for {' and '.join(FIELD_SIZES)}, not for {source}. Use split='random'."
            )
        if keep_single_visit:
            raise InputError(
                "split='field' has a fixed train set, so `keep_single_visit` cannot add to it. Set one of the two."
            )


def _check_output(output: Path, data_dir, overwrite: bool) -> dict | None:
    """The report of the folder that is about to be replaced, `None` if there is none; refuse what may not be
    replaced."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not (output / REPORT_FILE).is_file():
        raise InputError(
            f"`output_dir` {str(output)!r} exists and `mera prepare` did not write it, so that it is never "
            f"overwritten. Choose another folder."
        )
    before = read_report(output)
    if not overwrite:
        changed = "; ".join(check_raw_files(output, data_dir))
        raise InputError(
            f"`output_dir` {str(output)!r} holds {before['source']} as prepared earlier"
            f"{f' ({changed})' if changed else ''}. Choose another folder, or replace it: overwrite=True "
            "(--overwrite)."
        )
    return before


def describe_file(path: Path) -> dict:
    """`name`, `bytes` and `sha256` of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _changes(before: dict, after: dict) -> list[str]:
    """What differs between two reports, in words."""
    old, new = ({file["name"]: file["sha256"] for file in report["raw_files"]} for report in (before, after))
    changes = [] if before["source"] == after["source"] else [f"source: {before['source']} -> {after['source']}"]
    changes += [f"raw file {name} changed since" for name in old if name in new and old[name] != new[name]]
    changes += [f"raw file {name} is not there any more" for name in old if name not in new]
    changes += [f"raw file {name} is new" for name in new if name not in old]
    changes += [
        f"{name}: {before['arguments'].get(name)} -> {value}"
        for name, value in after["arguments"].items()
        if before["arguments"].get(name) != value
    ]
    return changes


def check_raw_files(folder: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> list[str]:
    """Say which raw files of a prepared folder have changed since it was prepared.

    Args:
        folder (path): a folder that [`prepare`] wrote.
        data_dir (path, *optional*): where the raw files are now; the package's own where it is left out.

    Returns:
        `list[str]`: a sentence such as "raw file admissions.csv changed since" for each; empty if all are as they
        were.

    Raises:
        InputError: `folder` is not a prepared folder.
    """
    report = read_report(folder)
    root = Path(__file__).parent / "bundled" / report["source"] if data_dir is None else Path(data_dir)
    now = []
    for file in report["raw_files"]:
        for path in (root, root / file["name"], root / "hosp" / file["name"]):
            if path.is_file() and path.name == file["name"]:
                now.append(describe_file(path))
                break
    return _changes(report, report | {"raw_files": now})


def _count_codes(rows: pl.DataFrame, train: pl.DataFrame) -> list[dict]:
    """The candidate space: every code of the cohort in sort order, with its patients and visits in train."""
    import polars as pl

    from mera_hf.icd import describe, sort_codes

    def long(frame: pl.DataFrame) -> pl.DataFrame:
        visits = frame.select("patient_id", "visits").explode("visits")
        return visits.select("patient_id", pl.col("visits").struct.field("codes").alias("code")).explode("code")

    counts = {
        code: (patients, visits)
        for code, patients, visits in long(train)
        .group_by("code")
        .agg(pl.col("patient_id").n_unique().alias("patients"), pl.len().alias("visits"))
        .iter_rows()
    }
    vocabulary = []
    for code in sort_codes(long(rows)["code"].unique().to_list()):
        patients, visits = counts.get(code, (0, 0))
        vocabulary.append({"code": code, "description": describe(code), "patients": patients, "visits": visits})
    return vocabulary


def _cohort_counts(rows: pl.DataFrame, codes: int) -> dict:
    import polars as pl

    visits = int(rows["visits"].list.len().sum())
    fields = rows.select(pl.col("visits").explode()).unnest("visits")
    per_visit = fields["codes"].list.len().mean()
    counts = {
        "patients": rows.height,
        "visits": visits,
        "codes": codes,
        "codes_per_visit": round(per_visit, 4),
        "visits_per_patient": round(visits / rows.height, 4),
        "single_visit_patients": int(rows["single"].sum()),
    }
    if "drg_severity" in fields.columns:
        counts["drg_severities"] = fields["drg_severity"].count()
    return counts


def _fingerprint(tables: dict[str, pl.DataFrame]) -> str:
    import polars as pl

    digest = hashlib.sha256()
    for name, table in tables.items():
        for line in table.select(pl.struct(pl.all()).struct.json_encode()).to_series():
            digest.update(f"{name}\t{line}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A temporary sibling that takes the place of `output` when all is written, and leaves nothing behind if not."""
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        folder = temporary / "new"
        folder.mkdir()
        yield folder
        if output.exists():
            output.rename(temporary / "old")
        try:
            folder.rename(output)
        except OSError:
            if (temporary / "old").exists():
                (temporary / "old").rename(output)
            raise
    finally:
        shutil.rmtree(temporary)


def _write(
    folder: Path, report: PrepareReport, records, tables: dict[str, pl.DataFrame], vocabulary: list[dict]
) -> None:
    import pyarrow.parquet as pq
    from datasets import Dataset

    from mera_hf.data.card import dataset_card
    from mera_hf.data.schema import DRG_VISITS_FEATURES, VISITS_FEATURES, check_visits
    from mera_hf.data.splits import check_disjoint

    check_disjoint({name: table["patient_id"].to_list() for name, table in tables.items()})
    features = DRG_VISITS_FEATURES if "drg_severities" in report.cohort else VISITS_FEATURES
    (folder / "data").mkdir()
    for name, table in tables.items():
        # Parquet carries the schema's own types, so that every reader sees the same features.
        arrow = table.to_arrow().cast(features.arrow_schema)
        check_visits(Dataset(arrow))
        pq.write_table(arrow, folder / "data" / f"{name}.parquet", compression="zstd")
    lines = ",\n".join(json.dumps(code, ensure_ascii=False) for code in vocabulary)
    (folder / CODES_FILE).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (folder / REPORT_FILE).write_text(
        json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "README.md").write_text(dataset_card(report, records.origin), encoding="utf-8")
    if records.license_file is not None:
        shutil.copyfile(records.license_file, folder / "LICENSE")


def read_report(folder: str | os.PathLike) -> dict:
    """The `prepare.json` of a prepared folder.

    Raises:
        InputError: `folder` is not a folder that [`prepare`] wrote.
    """
    path = Path(folder) / REPORT_FILE
    if not path.is_file():
        raise InputError(
            f"{str(folder)!r} is not a prepared dataset: it has no {REPORT_FILE}. Write one with `mera prepare`."
        )
    return _read_json(path)


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}. Prepare the dataset again (--overwrite).") from error


def load_codes(folder: str | os.PathLike) -> list[dict]:
    """The candidate space of a prepared folder: `{"code", "description", "patients", "visits"}` in sort order.

    The counts are those of the train split.

    Raises:
        InputError: `folder` is not a folder that [`prepare`] wrote, or has no codes.
    """
    read_report(folder)
    codes = _read_json(Path(folder) / CODES_FILE)
    if not codes:
        raise InputError(f"{str(Path(folder) / CODES_FILE)!r} has no codes. Prepare the dataset again (--overwrite).")
    return codes


def load_prepared(folder: str | os.PathLike) -> datasets.DatasetDict:
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
            raise InputError(
                f"{str(path)!r} cannot be read: {error}. Prepare the dataset again (--overwrite)."
            ) from error
        try:
            check_visits(splits[name])
        except InputError as error:
            raise InputError(f"{str(path)!r}: {error}") from error
    check_disjoint({name: list(dataset["patient_id"]) for name, dataset in splits.items()})
    if not len(splits["train"]):
        raise InputError(f"{str(folder)!r} has no patients in train. Prepare the dataset again with more patients.")
    return splits
