"""What every source returns, and the few reading steps that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from mera_hf.errors import InputError


if TYPE_CHECKING:
    from polars._typing import PolarsDataType


@dataclass(frozen=True)
class Origin:
    """Where the data come from and under which terms, for the card of the prepared dataset.

    Args:
        title (`str`): name of the data.
        homepage (`str` or `None`): where to get them.
        license (`str`): licence as the Hugging Face Hub names it; `"other"` where it has no name for it.
        license_name (`str` or `None`): the licence's own name, where `license` is not what people call it.
        terms (`str`): the terms in a sentence or two, privacy included.
        citation (`str`): what to cite.
        credentialed (`bool`): whether the data, and anything derived from them, must not be shared.
    """

    title: str
    homepage: str | None
    license: str
    license_name: str | None
    terms: str
    citation: str
    credentialed: bool = False

    @property
    def agreement(self) -> str | None:
        """The agreement under which credentialed data are released, if known."""
        return self.license_name if self.credentialed else None


@dataclass
class Records:
    """The raw records of a source, before codes are normalised and a cohort is chosen.

    Args:
        patients (`pl.DataFrame`): `patient_id`, `sex` ("F", "M" or null), `age` (years at first visit,
            `Float32`), `race`.
        visits (`pl.DataFrame`): `visit` (0, 1, ... in order of patient, then time), `patient_id`, `time`, `text`, and
            where the source has them `year` (estimated calendar year) and `drg_severity` (`Int8`, 1 to 4, null where it
            is not known).
        codes (`pl.DataFrame`): `visit`, `version` (`ICD9CM` or `ICD10CM`), `raw` (as spelled in the file), `file`
            (index into `files`) and `row` (the row in that file, as `read_table` counts), in the order of the source.
        files (`list[Path]`): the raw files that were read.
        origin (`Origin`): where the data come from.
        license_file (`Path` or `None`): the licence that travels with the data.
        dropped (`dict[str, int]`): what could not be used while reading, in words, and how many.
    """

    patients: pl.DataFrame
    visits: pl.DataFrame
    codes: pl.DataFrame
    files: list[Path]
    origin: Origin
    license_file: Path | None = None
    dropped: dict[str, int] = field(default_factory=dict)


def find_table(folder: Path, *names: str) -> Path:
    """Find a table by name in a folder, in upper or lower case, as `.csv` or `.csv.gz` (`.csv` wins if both are
    there).

    Raises:
        InputError: the folder does not exist, or holds none of `names`.
    """
    if not folder.is_dir():
        raise InputError(f"`data_dir` {str(folder)!r} is not a folder. Name the folder that holds {names[0]}.csv.")
    if (found := look_for_table(folder, *names)) is not None:
        return found
    raise InputError(
        f"The folder {str(folder)!r} has no {' or '.join(f'{name}.csv' for name in names)} (nor .csv.gz). "
        f"Put the table there, or point `data_dir` at the folder that has it."
    )


def look_for_table(folder: Path, *names: str) -> Path | None:
    """As [`find_table`], but `None` if the folder has no such table."""
    present = {path.name.lower(): path for path in sorted(folder.iterdir())}
    for name in names:
        for suffix in (".csv", ".csv.gz"):
            if (found := present.get(name.lower() + suffix)) is not None:
                return found
    return None


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pl.DataFrame:
    """Read columns of a delimited or Parquet file as text, so that no code loses a leading zero.

    Args:
        path (`Path`): a `.csv`, `.tsv` or `.txt` file (tab between the columns in the last two), plain or `.gz`, or
            `.parquet`.
        required (`Sequence[str]`): columns that must be there, in lower case; the file may write them in any case.
        optional (`Sequence[str]`): columns that are read if they are there.

    Returns:
        `pl.DataFrame`: the columns under their lower-case names, stripped, empty cells null, and `row`: the row in the
        file (the first line of a text file, its header, is row 1; the first row of a Parquet file is row 1).

    Raises:
        InputError: the file is missing or broken, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{str(path)!r} is not a file. Check the path.")
    parquet = path.suffix.lower() == ".parquet"
    tab = any(path.name.lower().endswith(ending) for ending in (".tsv", ".tsv.gz", ".txt", ".txt.gz"))
    try:
        # All columns, although few are wanted: only then is a row with too many cells noticed.
        frame = (
            pl.read_parquet(path) if parquet else pl.read_csv(path, infer_schema=False, separator="\t" if tab else ",")
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        # Polars may quote the broken cell after a backtick, which is patient data.
        reason = str(error).partition("\n")[0].partition("`")[0].strip()
        raise InputError(
            f"{path.name} cannot be read as a table: {reason}. Check that it is complete, in UTF-8, and that every "
            f"row has the header's columns."
        ) from error
    # The file's first line may begin with a byte order mark, which Excel writes.
    present = {name.strip().lstrip("\ufeff").lower(): name for name in frame.columns}
    missing = [name for name in required if name not in present]
    if missing:
        raise InputError(
            f"{path.name}: column `{missing[0]}` is missing (the file has {', '.join(frame.columns)}). "
            f"Rename or add the column."
        )
    wanted = {present[name]: name for name in (*required, *optional) if name in present}
    frame = frame.select(list(wanted)).rename(wanted)
    for name in frame.columns:
        # A number has already lost part of a code's spelling: 038.10 -> 38.1.
        if name == "code" and frame.schema[name] != pl.String:
            raise InputError(
                f"{path.name}: column `code` holds {frame.schema[name]}, in which 038.10 and 38.1 are the same. "
                f"Write the codes as text."
            )
    text = pl.all().cast(pl.String).str.strip_chars()
    return frame.select(pl.when(text != "").then(text).name.keep()).with_row_index("row", offset=1 if parquet else 2)


def fail_at(path: Path | str, faults: pl.DataFrame, message: str) -> None:
    """Raise an `InputError` that names the file and the row of the first fault; do nothing if there is none.

    `message` may name the columns of `faults` in braces.
    """
    if not faults.is_empty():
        first = faults.row(0, named=True)
        more = f" ({faults.height - 1} more rows have the same fault.)" if faults.height > 1 else ""
        name = path.name if isinstance(path, Path) else path
        raise InputError(f"{name}, row {first['row']}: {message.format(**first)}{more}")


def require(path: Path, frame: pl.DataFrame, *columns: str) -> None:
    """Refuse a row in which one of `columns` is empty."""
    for name in columns:
        fail_at(path, frame.filter(pl.col(name).is_null()), f"column `{name}` is empty. Fill it in or delete the row.")


def require_unique(path: Path, frame: pl.DataFrame, column: str, what: str) -> None:
    """Raise at a second row with the same value of `column`."""
    again = frame.filter(~pl.col(column).is_first_distinct())
    fail_at(path, again, f"`{column}` {{{column}}} has a row above already. Keep one row for each {what}.")


def parse_numbers(path: Path, frame: pl.DataFrame, column: str, dtype: PolarsDataType = pl.Int64) -> pl.DataFrame:
    """Turn a text column into numbers; an empty cell stays null; anything else that is not a number is an
    `InputError`."""
    number = pl.col(column).cast(dtype, strict=False)
    fail_at(
        path,
        frame.filter(pl.col(column).is_not_null() & number.is_null()),
        f"`{column}` is {{{column}!r}}, not a number. Write a number or leave it empty.",
    )
    return frame.with_columns(number)


def parse_times(path: Path, frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """Turn a text column into `Datetime`; an empty cell stays null, anything else that is not an ISO time is an
    `InputError`."""
    text = pl.col(column).str.replace("T", " ")
    time = pl.coalesce(
        text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us"),
        text.str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="us"),
        text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    )
    fail_at(
        path,
        frame.filter(pl.col(column).is_not_null() & time.is_null()),
        f"`{column}` is {{{column}!r}}, not a time. Write it as YYYY-MM-DD or YYYY-MM-DD HH:MM:SS.",
    )
    return frame.with_columns(time)


def iso(column: str) -> pl.Expr:
    """A `Datetime` column as ISO 8601 text, `2164-10-23T21:09:00`."""
    return pl.col(column).dt.strftime("%Y-%m-%dT%H:%M:%S")


def number_visits(frame: pl.DataFrame, *order: str) -> pl.DataFrame:
    """Sort visits by patient, then by `order`, and number them in the column `visit` (0, 1, ...)."""
    return frame.sort("patient_id", *order).with_row_index("visit")


def phrase(*parts: pl.Expr) -> pl.Expr:
    """Join what is known into one lower-case phrase, comma separated; null where nothing is known."""
    known = [pl.when(part != "").then(part) for part in parts]
    joined = pl.concat_str(known, separator=", ", ignore_nulls=True).str.to_lowercase()
    return pl.when(joined != "").then(joined).otherwise(None)


def race_words(column: str) -> pl.Expr:
    """A race as lower-case words; null where the source says that it is not known."""
    words = pl.col(column).str.to_lowercase()
    unknown = words.str.contains(r"^(unknown|unable to obtain|patient declined|not specified)")
    return pl.when(~unknown).then(words)


def odbl_license(folder: Path) -> Path | None:
    """The folder's `LICENSE.txt` if it is the Open Database License (the MIMIC demos), else `None`."""
    path = folder / "LICENSE.txt"
    if path.is_file() and "Open Database License" in path.read_text(encoding="utf-8", errors="replace")[:200]:
        return path
    return None
