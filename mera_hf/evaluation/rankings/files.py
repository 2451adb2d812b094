"""Files of rankings: how `mera predict` and `mera evaluate` write them, and how other models supply theirs.

Parquet, one row per patient: `patient_id` (string), `codes` (list of string, the ranking, best first), `set_size` (integer
or null: size of the predicted set, the first codes), and, optional and not read here, `probabilities` (list of float for
`codes`) and `unread_visits` (integer: oldest visits that the model did not read, as the history is longer than it reads).

Those of `mera predict` rank the visit after the last one, from all visits of the patient. They say so in the metadata of the
file and are not read, since their visit is in no dataset and they have seen the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.ranked import Cut, ModelRanking, Ranking
from mera_hf.files import whole_file


if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PREDICTED = {b"mera_hf.ranks": b"the visit after the last"}  # metadata of a file of `mera predict`
NOT_MEASURED = (
    "holds rankings of `mera predict`. They are of the visit after the last one, which is not in the dataset, and were made "
    "with the codes of the last visit, which a comparison asks for. Give the checkpoint itself, or the rankings.parquet of "
    "`mera evaluate --save-rankings`."
)
BLOCK = 1024  # patients at a time, as each may have a string for every code


def rankings_table(
    patient_ids: Sequence[str], codes: Sequence[str], ranking: ModelRanking, rows: slice = slice(None)
) -> pa.Table:
    """Rankings as the table that the file holds.

    Args:
        patient_ids (`Sequence[str]`): identifiers.
        codes (`Sequence[str]`): the candidate space that the ranking indexes.
        ranking (`ModelRanking`): the model's ranking.
        rows (`slice`, *optional*): patients to write; all by default.
    """
    import numpy as np
    import pyarrow as pa

    order = ranking.order[rows]
    ends = pa.array(np.arange(len(order) + 1, dtype=np.int32) * order.shape[1])
    return pa.table(
        {
            "patient_id": pa.array(patient_ids[rows], pa.string()),
            "codes": pa.ListArray.from_arrays(ends, pa.array(codes, pa.string()).take(pa.array(order.ravel()))),
            "probabilities": pa.ListArray.from_arrays(ends, pa.array(ranking.probabilities[rows].ravel())),
            "set_size": pa.array(ranking.set_sizes[rows], pa.int32()),
            "unread_visits": pa.array(ranking.unread_visits[rows], pa.int32()),
        }
    )


def write_rankings(path: str | Path, patient_ids: Sequence[str], codes: Sequence[str], ranking: ModelRanking) -> None:
    """Write a file of rankings, whole or not at all; arguments as in [`rankings_table`]."""
    import pyarrow.parquet as pq

    schema = rankings_table(patient_ids, codes, ranking, slice(0)).schema
    with whole_file(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        for start in range(0, len(ranking.order), BLOCK):
            writer.write_table(rankings_table(patient_ids, codes, ranking, slice(start, start + BLOCK)))


def read_rankings(path: str | Path, patient_ids: Sequence[str], codes: Sequence[str]) -> Ranking:
    """Read the rankings of exactly these patients. Codes that a row does not list come after its last, in the order of
    `codes`.

    Args:
        path (`str` or `Path`): a Parquet file, see the module's text.
        patient_ids (`Sequence[str]`): the patients, in the order of the result.
        codes (`Sequence[str]`): the candidate space.

    Returns:
        [`~mera_hf.evaluation.rankings.ranked.Ranking`]: of all codes, without a cut if the file has no set sizes.

    Raises:
        [`~mera_hf.errors.InputError`]: for a file that cannot be read, has other columns, or is of `mera predict`; patients
            that are missing, not asked for, or repeated; codes outside `codes` or repeated within a row; set sizes that
            only some rows have, or that are negative or larger than the list. The message gives counts, and names no patient.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    path = Path(path)
    wanted, known = pa.array(patient_ids, pa.string()), pa.array(codes, pa.string())
    found = [pc.index_in(_text(batch.column("patient_id")), wanted) for batch in _batches(path, ["patient_id"])]
    rows = np.concatenate([part.fill_null(-1).to_numpy(zero_copy_only=False) for part in found] or [[]]).astype(int)
    _check_patients(path, rows, len(patient_ids))

    order = np.empty((len(patient_ids), len(codes)), dtype=np.int32)
    set_sizes = np.empty(len(patient_ids), dtype=np.int64)
    start, without_size = 0, 0
    unknown: dict[str, int] = {}
    for batch in _batches(path, ["codes", "set_size"]):
        here = rows[start : start + batch.num_rows]
        lists = batch.column("codes")
        if lists.null_count:
            row = start + pc.index(pc.is_null(lists), True).as_py()
            raise InputError(
                f"{path.name}, row {row} (the first is row 0): `codes` is null. List the patient's codes."
            )
        names = _text(pc.list_flatten(lists))
        listed = pc.index_in(names, known)
        if listed.null_count:
            for count in pc.value_counts(names.filter(pc.is_null(listed))).to_pylist():
                unknown[count["values"]] = unknown.get(count["values"], 0) + count["counts"]
        elif not unknown:
            lengths = pc.list_value_length(lists).to_numpy().astype(np.int64)
            order[here] = _complete(path, listed.to_numpy(), lengths, len(codes), start)
            sizes = pa.nulls(batch.num_rows, pa.int64())
            if "set_size" in batch.schema.names:
                sizes = pc.cast(batch.column("set_size"), pa.int64())
            without_size += sizes.null_count
            sizes = sizes.fill_null(0).to_numpy()
            wrong = (sizes < 0) | (sizes > lengths)
            if wrong.any():
                row = start + int(wrong.argmax())
                raise InputError(
                    f"{path.name}, row {row} (the first is row 0): `set_size` is {sizes[wrong][0]}, but the row lists "
                    f"{lengths[wrong][0]} codes. List every code of the set."
                )
            set_sizes[here] = sizes
        start += batch.num_rows
    if unknown:
        examples = ", ".join(map(repr, list(unknown)[:3]))
        raise InputError(
            f"{path.name}: {len(unknown)} distinct codes ({sum(unknown.values())} entries) are not among the {len(codes)} "
            f"codes of the dataset, such as {examples}. Write codes as `codes.json` of the dataset does."
        )
    if 0 < without_size < len(order):
        raise InputError(
            f"{path.name}: `set_size` is null in {without_size} of {len(order)} rows. Give it for all patients or for none."
        )
    return Ranking(order, None if without_size else Cut(set_sizes, "file"))


def complete_order(listed: np.ndarray, lengths: np.ndarray, n_codes: int) -> np.ndarray:
    """Complete lists of some codes to rankings of all: unlisted codes come last, in order of their index.

    Args:
        listed (`np.ndarray` of shape (entries,)): code indices, patient after patient; no code twice in a list.
        lengths (`np.ndarray` of shape (patients,)): lengths of the lists.
        n_codes (`int`): number of codes.

    Returns:
        `np.ndarray` of shape (patients, n_codes), int32.
    """
    import numpy as np

    missing = np.ones((len(lengths), n_codes), dtype=bool)
    missing[np.repeat(np.arange(len(lengths)), lengths), listed] = False
    inside = np.arange(n_codes) < lengths[:, None]  # (patients, codes) places, not codes
    order = np.empty((len(lengths), n_codes), dtype=np.int32)
    order[inside] = listed
    order[~inside] = missing.nonzero()[1]
    return order


def _complete(path: Path, listed: np.ndarray, lengths: np.ndarray, n_codes: int, start: int) -> np.ndarray:
    """[`complete_order`] of a file's rows from `start` on; a row with a code twice is refused."""
    import numpy as np

    row = np.repeat(np.arange(len(lengths)), lengths)
    entries = np.sort(row * n_codes + listed)
    twice = entries[1:][entries[1:] == entries[:-1]]
    if len(twice):
        raise InputError(
            f"{path.name}, row {start + twice[0] // n_codes} (the first is row 0): `codes` lists a code twice. List each "
            "code once."
        )
    return complete_order(listed, lengths, n_codes)


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The columns that the file has; `set_size` may be missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import types

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        if PREDICTED.items() <= (schema.metadata or {}).items():
            raise InputError(f"{path.name} {NOT_MEASURED}")
        for name, fits, words in (
            ("patient_id", _is_text, "string"),
            ("codes", lambda kind: _is_list(kind) and _is_text(kind.value_type), "list of string"),
            ("set_size", lambda kind: types.is_integer(kind) or types.is_null(kind), "integer"),
        ):
            if name not in schema.names and name != "set_size":
                raise InputError(
                    f"{path.name} has no column `{name}` (it has {', '.join(schema.names)}). A row of a file of rankings is "
                    "a patient with patient_id, codes (best first) and set_size."
                )
            if name in schema.names and not fits(schema.field(name).type):
                raise InputError(f"{path.name}: `{name}` has the type {schema.field(name).type}, not {words}.")
        yield from file.iter_batches(BLOCK, columns=[name for name in columns if name in schema.names])
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{str(path)!r} cannot be read as Parquet: {error}") from error


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind)


def _text(array: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.cast(array, pa.string())


def _check_patients(path: Path, rows: np.ndarray, patients: int) -> None:
    """`rows` holds the place of each row's patient, -1 where nobody asked for it."""
    import numpy as np

    asked = rows[rows >= 0]
    missing = patients - len(np.unique(asked))
    twice = len(asked) - len(np.unique(asked))
    extra = int((rows < 0).sum())
    faults = [
        f"{count} {words}"
        for count, words in (
            (missing, "are missing"),
            (extra, "rows are of other patients"),
            (twice, "rows repeat a patient"),
        )
        if count
    ]
    if faults:
        raise InputError(
            f"{path.name} must rank exactly the {patients} patients of the split, one row each: {', '.join(faults)}. Rank "
            "the patients of this split, with the `patient_id` of the dataset, and only those."
        )
