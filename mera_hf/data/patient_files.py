"""Patients in Parquet files, however many: checked row by row, and read shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.prepared import REPORT_FILE
from mera_hf.data.schema import VISITS_FEATURES
from mera_hf.data.splits import SPLITS
from mera_hf.errors import InputError


if TYPE_CHECKING:
    import pyarrow as pa

SHARD_ROWS = 8192
COLUMNS = ("patient_id", "profile", "visits")


@dataclass(frozen=True)
class Shard:
    """`rows` patients of the file `path`, from row `start` on; it is shard `number` of all."""

    number: int
    path: Path
    start: int
    rows: int

    @property
    def part(self) -> str:
        """Name of the file that its rankings go to."""
        return f"part-{self.number:05d}.parquet"


def input_files(dataset: str | Path, split: str | None = None) -> list[Path]:
    """The Parquet files of a data set: a file, those of a folder sorted by name, or a split of a prepared folder.

    Raises:
        [`~mera_hf.errors.InputError`]: if there is none, or `split` is given without a prepared folder.
    """
    path = Path(dataset)
    if (path / REPORT_FILE).is_file():
        split = split or "test"
        if split not in SPLITS:
            raise InputError(f"`split` is {split!r}; choose one of {', '.join(SPLITS)}.")
        return [path / "data" / f"{split}.parquet"]
    if split is not None:
        raise InputError(f"`split` is {split!r}, and {str(path)!r} is not a prepared dataset, which has splits.")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"`dataset` {str(path)!r} does not exist; name a Parquet file or a folder of them.")
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise InputError(f"`dataset` {str(path)!r} holds no .parquet file; name a Parquet file or a folder of them.")
    return files


def _open_file(path: Path):
    """A Parquet file whose columns are those of the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A small buffer and nothing read ahead, so that no row group is held in memory whole
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{str(path)!r} cannot be read as Parquet: {error}") from error
    wanted, found = VISITS_FEATURES.arrow_schema, file.schema_arrow
    for name in COLUMNS:
        if name not in found.names:
            raise InputError(
                f"{path.name} has no column `{name}` (it has {', '.join(found.names)}). A row is a patient with "
                f"{', '.join(COLUMNS)}, as `mera prepare` writes them."
            )
        fault = _type_fault(name, found.field(name).type, wanted.field(name).type)
        if fault:
            raise InputError(f"{path.name}: {fault}. Write the column as `mera prepare` does.")
    return file


def _type_fault(name: str, found: pa.DataType, wanted: pa.DataType) -> str | None:
    """What is wrong with the type of a column, in words. Any width, null for a column without values, and extra fields
    (such as `drg_severity`, which nothing here reads) are allowed."""
    from pyarrow import types

    if types.is_null(found):
        return None
    if types.is_struct(wanted) and types.is_struct(found):
        for child in wanted:
            index = found.get_field_index(child.name)
            if index < 0:
                return f"`{name}` has no field `{child.name}`"
            fault = _type_fault(f"{name}.{child.name}", found.field(index).type, child.type)
            if fault:
                return fault
        return None
    if types.is_list(wanted) and (types.is_list(found) or types.is_large_list(found)):
        return _type_fault(name, found.value_type, wanted.value_type)
    text = types.is_string(wanted) and (types.is_string(found) or types.is_large_string(found))
    number = types.is_floating(wanted) and (types.is_floating(found) or types.is_integer(found))
    return None if text or number else f"`{name}` has the type {found}, not {wanted}"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    file = _open_file(path)
    try:
        yield from file.iter_batches(SHARD_ROWS, columns=list(COLUMNS), use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def check_rows(path: Path, codes: list[str]) -> dict[str, int]:
    """Check every row of a file.

    Args:
        path (`Path`): a Parquet file.
        codes (`list[str]`): the codes that may occur.

    Returns:
        `dict[str, int]`: how many `patients` there are, and how many of them are `without_visits`.

    Raises:
        [`~mera_hf.errors.InputError`]: for a file that cannot be read, a column that is missing or has another type, or a row
            with a fault. The message names the row (the first is row 0) but nothing about the patient.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.array(codes, pa.string())
    patients = without = 0

    def refuse(faults: pa.Array, rows: pa.Array | None, what: str) -> None:
        """`faults` are flags; `rows` holds the row of each flag in the batch; if `None`, flag i is row i."""
        if pc.any(faults).as_py():
            first = pc.index(faults, True).as_py()
            row = patients + (first if rows is None else rows[first].as_py())
            raise InputError(f"{path.name}, row {row} (the first is row 0): {what}")

    for batch in _batches(path):
        identifiers, profiles, histories = (batch.column(name) for name in COLUMNS)
        refuse(pc.is_null(identifiers), None, "`patient_id` is empty. Give every patient an identifier.")
        if not pa.types.is_null(profiles.type):
            age = pc.cast(pc.struct_field(profiles, "age"), pa.float64())
            within = pc.and_(pc.greater_equal(age, 0), pc.less_equal(age, 130))  # false for NaN
            refuse(
                pc.invert(within.fill_null(True)),
                None,
                "`profile.age` is not between 0 and 130. Write the age in years, or null where it is unknown.",
            )
        if pa.types.is_null(histories.type):
            without += batch.num_rows
        else:
            without += pc.sum(pc.equal(pc.list_value_length(histories).fill_null(0), 0)).as_py() or 0
            visits, rows = pc.list_flatten(histories), pc.list_parent_indices(histories)
            lists = pc.struct_field(visits, "codes")
            refuse(
                pc.equal(pc.list_value_length(lists).fill_null(0), 0),
                rows,
                "a visit has no codes. Leave the visit out, or add its codes.",
            )
            refuse(
                pc.invert(pc.is_in(pc.cast(pc.list_flatten(lists), pa.string()), known)),
                rows.take(pc.list_parent_indices(lists)),
                f"a visit has a code that is not one of the {len(codes):,} codes of this model. Write codes as "
                "`ICD9CM:250.23`, leave out those that are not in the model's `config.json`, or use a model that knows "
                "them.",
            )
        patients += batch.num_rows
    return {"patients": patients, "without_visits": without}


def cut_shards(files: Iterable[Path], rows: Iterable[int]) -> list[Shard]:
    """Cut some files, with the given numbers of rows, into shards."""
    shards: list[Shard] = []
    for path, count in zip(files, rows, strict=True):
        for start in range(0, count, SHARD_ROWS):
            shards.append(Shard(len(shards), path, start, min(SHARD_ROWS, count - start)))
    return shards


def read_shards(shards: Iterable[Shard]) -> Iterator[tuple[Shard, list[dict]]]:
    """The patients of some shards, one shard at a time; `shards` in the order of their files and rows.

    Raises:
        [`~mera_hf.errors.InputError`]: where the rows of a file have changed since the shards were cut.
    """
    wanted: dict[Path, dict[int, Shard]] = {}
    for shard in shards:
        wanted.setdefault(shard.path, {})[shard.start] = shard
    for path, by_start in wanted.items():
        start = 0
        for batch in _batches(path):
            if start in by_start and by_start[start].rows == batch.num_rows:
                rows = batch.to_pylist()
                for row in rows:
                    row["visits"] = row["visits"] or []
                yield by_start.pop(start), rows
            start += batch.num_rows
            if not by_start:
                break
        if by_start:
            raise InputError(f"{str(path)!r} has changed since it was checked; start again.")
