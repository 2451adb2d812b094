"""From raw tables to the prepared dataset folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm import tqdm

from mera_hf.data.card import dataset_card
from mera_hf.data.codes import map_codes, normalize_codes
from mera_hf.data.cohort import FIELD_ICD, FIELD_SEED, select_cohort
from mera_hf.data.prepared import CODES_FILE, REPORT_FILE, PrepareReport, read_report
from mera_hf.data.schema import DRG_VISITS_FEATURES, VISITS_FEATURES, check_visits
from mera_hf.data.sources import BUNDLED, SOURCES, source_module
from mera_hf.data.sources.records import Records
from mera_hf.data.splits import FIELD_SAMPLE, FIELD_SIZES, SPLITS, check_disjoint, field_split, random_split
from mera_hf.errors import InputError
from mera_hf.files import describe_file, json_text, whole_folder
from mera_hf.icd import NUMBERS, describe, sort_codes


_OF_DRAWN = ("world", "patients")  # for sources that are drawn, not read


@dataclass(frozen=True)
class Choices:
    """The arguments of [`prepare`] that shape the dataset; they check themselves.

    Raises:
        InputError: naming the argument, its value and the fix.
    """

    source: str
    cohort: str
    split: str
    icd: str
    min_visits: int
    keep_single_visit: bool
    sample: int | None
    seed: int
    unknown: str
    world: str | None
    patients: int | None

    def __post_init__(self):
        _one_of("source", self.source, SOURCES)
        _one_of("cohort", self.cohort, ("default", "field"))
        _one_of("split", self.split, ("random", "field"))
        _one_of("icd", self.icd, (None, *NUMBERS, "keep"))
        _one_of("unknown", self.unknown, (None, "error", "drop"))
        if self.min_visits < 1:
            raise InputError(
                f"`min_visits` is {self.min_visits}. Set 1 or more; 2 is the least that can be predicted and tested."
            )
        if self.sample is not None and self.sample < 1:
            raise InputError(f"`sample` is {self.sample}. Set the number of patients to draw, 1 or more.")
        if self.split == "field" and self.source not in FIELD_SIZES:
            raise InputError(
                f"split='field' is defined for {' and '.join(FIELD_SIZES)}, not for {self.source}. Use split='random'."
            )
        if self.split == "field" and self.keep_single_visit:
            raise InputError(
                "split='field' has a fixed train set, so `keep_single_visit` cannot add to it. Set one of the two."
            )
        drawn = SOURCES[self.source].drawn is not None
        if drawn and self.world is None:
            raise InputError(
                f"`world` is missing. Name what is planted in the {self.source}, see `mera prepare --help`."
            )
        for name in _OF_DRAWN:
            if not drawn and (value := getattr(self, name)) is not None:
                raise InputError(f"`{name}` is {value!r}, and {self.source} is read, not drawn. Leave it out.")

    def to_dict(self) -> dict:
        """The `arguments` of `prepare.json`: all but the source, and what its source does not take."""
        left_out = {"source"} if SOURCES[self.source].drawn else {"source", *_OF_DRAWN}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def _one_of(name: str, value: str, allowed: Collection[str | None]) -> None:
    if value not in allowed:
        raise InputError(f"`{name}` is {value!r}. Choose one of {', '.join(map(str, allowed))}.")


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
    world: str | None = None,
    patients: int | None = None,
    overwrite: bool = False,
) -> PrepareReport:
    """Prepare the dataset folder of a source: `README.md`, `data/*.parquet`, `codes.json`, `prepare.json`, the
    licence.

    The folder appears whole or not at all. `datasets.load_dataset(output_dir)` and [`~mera_hf.load_prepared`] open it.

    Args:
        source (`str`): `"diabetes130"`, `"mimic3"`, `"mimic4"`, `"desynpuf"`, `"visits_csv"` or `"worlds"`.
        data_dir (path, *optional*): folder with the raw tables (for `visits_csv` also the table itself). diabetes130
            and desynpuf come with the package: without `data_dir` the bundled file is read. worlds has none.
        output_dir (path): the folder to write.
        cohort (`str`, defaults to `"default"`): `"default"` removes visits without codes; `"field"` is the cohort of
            CGL and Chet: a patient is dropped entirely if an admission has no code; MIMIC-IV from 2013 on.
        split (`str`, defaults to `"random"`): `"random"` is 70/10/20 by hash of the patient; `"field"` is the
            transductive split of CGL and Chet, for mimic3 and mimic4 (for mimic4, of 10,000 sampled patients).
        icd (`str`, *optional*): `"9"` or `"10"` maps all codes to that version by the General Equivalence Maps (see
            [`~mera_hf.icd.gem_map`]), `"keep"` leaves them. Defaults to `"9"` for `cohort="field"`, else to `"keep"`.
        min_visits (`int`, defaults to 2): patients with fewer visits are left out.
        keep_single_visit (`bool`, defaults to `False`): keep patients below `min_visits`, in train only.
        sample (`int`, *optional*): draw this many patients of the cohort (seed 6669).
        seed (`int`, *optional*): seed of the split, and of worlds. Defaults to 0, or to 6669 for `split="field"`.
        unknown (`str`, *optional*): `"error"` refuses a code that is in no tree, `"drop"` leaves it out and reports
            it. Defaults to `"error"` for `visits_csv`, whose owner can correct it, and to `"drop"` for the public
            sources.
        world (`str`, *optional*): for worlds alone, what is planted: `"sizes"`, `"siblings"`, `"meaning"`, `"order"` or
            `"nothing"`, see `mera_hf.data.worlds`.
        patients (`int`, *optional*): for worlds alone, how many patients to draw. Defaults to 4,000.
        overwrite (`bool`, defaults to `False`): replace a folder that `prepare` wrote before, and say what changed.

    Returns:
        [`PrepareReport`].

    Raises:
        InputError: a bad argument, a bad raw file (naming file, row, value and fix), an empty cohort, or an
            `output_dir` that exists. Nothing is written then.
    """
    if icd is None:
        icd = FIELD_ICD if cohort == "field" else "keep"
    if sample is None and split == "field":
        sample = FIELD_SAMPLE.get(source)
    if seed is None:
        seed = FIELD_SEED if split == "field" else 0
    _one_of("source", source, SOURCES)
    about = SOURCES[source]
    if unknown is None:
        unknown = about.unknown
    if patients is None:
        patients = about.drawn
    choices = Choices(
        source, cohort, split, icd, min_visits, keep_single_visit, sample, seed, unknown, world, patients
    )
    if output_dir is None:
        raise InputError("`output_dir` is missing. Name the folder to write.")
    if data_dir is None and source not in BUNDLED and not about.drawn:
        raise InputError(f"`data_dir` is missing. Name the folder that holds the raw tables of {source}.")
    output = Path(output_dir)
    before = _check_output(output, data_dir, overwrite)

    # One step per stage; `disable=None` keeps the bar out of files and pipes.
    with tqdm(total=5, desc=f"prepare {source}", unit="step", disable=None) as progress:
        options = {"world": world, "patients": patients, "seed": seed} if about.drawn else {}
        records = source_module(source).read(None if data_dir is None else Path(data_dir), **options)
        progress.update()
        codes, unknown_codes, dropped = normalize_codes(records, choices.unknown)
        added = 0
        if choices.icd != "keep":
            codes, added, unmapped = map_codes(codes, NUMBERS[choices.icd])
            dropped |= unmapped
        progress.update()
        rows, left_out = select_cohort(
            records,
            codes,
            rule=choices.cohort,
            min_visits=choices.min_visits,
            keep_single_visit=choices.keep_single_visit,
            sample=choices.sample,
        )
        code_rows = None if choices.icd == "keep" else _code_rows(records, codes, rows, added, dropped)
        dropped = {what: int(count) for what, count in (left_out | dropped).items()}
        progress.update()
        tables = _split(rows, choices)
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
            arguments=choices.to_dict(),
            raw_files=[describe_file(path) for path in records.files],
            read={
                "patients": records.visits["patient_id"].n_unique(),
                "visits": records.visits.height,
                "code_rows": records.codes.height,
            },
            dropped=dropped,
            code_rows=code_rows,
            unknown_codes=unknown_codes,
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


def _check_output(output: Path, data_dir, overwrite: bool) -> dict | None:
    """The report of the folder that is about to be replaced, `None` if there is none; raise if it may not be
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
        data_dir (path, *optional*): where the raw files are now; defaults to the package's own.

    Returns:
        `list[str]`: a sentence such as "raw file admissions.csv changed since" for each; empty if none
        has changed.

    Raises:
        InputError: `folder` is not a prepared folder.
    """
    report = read_report(folder)
    root = BUNDLED.get(report["source"]) if data_dir is None else Path(data_dir)
    now: list[dict] = []
    for file in report["raw_files"]:
        places = () if root is None else (root, root / file["name"], root / "hosp" / file["name"])
        now += [describe_file(path) for path in places if path.is_file() and path.name == file["name"]][:1]
    return _changes(report, report | {"raw_files": now})


def _split(rows: pl.DataFrame, choices: Choices) -> dict[str, pl.DataFrame]:
    """The rows of each split.

    Raises:
        InputError: no patient is in train.
    """
    if choices.split == "field":
        names = field_split(rows, *FIELD_SIZES[choices.source], choices.seed)
    else:
        names = [
            "train" if single else random_split(patient, choices.seed)
            for patient, single in rows.select("patient_id", "single").iter_rows()
        ]
    tables = {name: rows.filter(pl.Series(names) == name).drop("single") for name in SPLITS}
    if tables["train"].is_empty():
        raise InputError(
            f"All {rows.height} patients of the cohort fall into validation and test, and train is empty. "
            f"Prepare more patients, or set another `seed` than {choices.seed}."
        )
    return tables


def _count_codes(rows: pl.DataFrame, train: pl.DataFrame) -> list[dict]:
    """The candidate space: every code of the cohort in sort order, with its patients and visits in train."""

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


def _code_rows(
    records: Records, codes: pl.DataFrame, rows: pl.DataFrame, added: int, dropped: dict[str, int]
) -> dict[str, int]:
    """The `code_rows` of [`PrepareReport`]: from the records to the mapped `codes`, of which the cohort's `rows` hold some;
    `dropped` is what normalising and mapping dropped."""
    used = int(rows.select(pl.col("visits").explode().struct.field("codes").list.len().sum()).item())
    return {
        "read": records.codes.height,
        **{what: -count for what, count in dropped.items()},
        "codes added by combinations": added,
        "codes left out with their visits": used - codes.height,
        "used": used,
    }


def _cohort_counts(rows: pl.DataFrame, codes: int) -> dict:
    visits = int(rows["visits"].list.len().sum())
    fields = rows.select(pl.col("visits").explode()).unnest("visits")
    per_visit = fields["codes"].list.len().sum() / visits
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
    digest = hashlib.sha256()
    for name, table in tables.items():
        for line in table.select(pl.struct(pl.all()).struct.json_encode()).to_series():
            digest.update(f"{name}\t{line}\n".encode())
    return digest.hexdigest()[:16]


def _write(
    folder: Path, report: PrepareReport, records: Records, tables: dict[str, pl.DataFrame], vocabulary: list[dict]
) -> None:
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
    (folder / REPORT_FILE).write_text(json_text(report.to_dict()), encoding="utf-8")
    (folder / "README.md").write_text(dataset_card(report, records.origin), encoding="utf-8")
    if records.license_file is not None:
        shutil.copyfile(records.license_file, folder / "LICENSE")
