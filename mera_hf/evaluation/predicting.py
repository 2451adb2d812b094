"""Rank the next visit of every patient of a data set: Parquet in, Parquet out, shard by shard.

A shard is 8,192 rows of one input file. It is read, ranked and written before the next, so that memory does not grow with
the number of patients; its file takes its place whole, so that an interrupted run goes on where it stopped; and shards are
independent, so that several processes share them.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.prepare import REPORT_FILE, describe_file
from mera_hf.data.schema import VISITS_FEATURES
from mera_hf.data.splits import SPLITS
from mera_hf.errors import InputError
from mera_hf.evaluation.checkpoint import versions
from mera_hf.evaluation.results import write_text


if TYPE_CHECKING:
    import pyarrow as pa
    from accelerate import PartialState
    from tqdm import tqdm
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

SHARD_ROWS = 8192
BATCH_ROWS = 256  # most patients in a forward pass, however short: each has a score for every code
COLUMNS = ("patient_id", "profile", "visits")
RUN_FILE = "run.json"  # what is being done, written first
SUMMARY_FILE = "predict.json"  # what was done, written last


@dataclass(frozen=True)
class Shard:
    """`rows` patients of the file `path`, from row `start` on; the `number`-th of all."""

    number: int
    path: Path
    start: int
    rows: int

    @property
    def part(self) -> str:
        """Name of the file that its rankings go to."""
        return f"part-{self.number:05d}.parquet"


def predict_dataset(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    dataset: str | Path,
    output_dir: str | Path,
    *,
    split: str | None = None,
    top_k: int = 20,
    batch_tokens: int = 4096,
    max_length: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint: str | None = None,
) -> dict:
    """Rank the codes of the next visit of every patient, and write the rankings to `output_dir`.

    `part-00000.parquet` and so on hold a row a patient in the order of the input: `patient_id`, `codes` (the ranking, best
    first), `probabilities` (of those codes, float32), `set_size` (codes above EOV, int32; it may exceed `top_k`).
    `predict.json` is written last and says what was done. Under `accelerate launch` or `torchrun` every process takes its
    share of the shards; the files are the same for any number of processes, and for a run that was interrupted and resumed.

    Args:
        model (`MeraForDiagnosis`): on the device of this process, see [`processes`].
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        dataset (`str` or `Path`): rows of a visits dataset (`VISITS_FEATURES`), all visits of a row being history: a Parquet
            file, a folder of Parquet files, or a folder that `mera prepare` wrote. A patient without visits is ranked from
            the profile alone, and counted in `predict.json`.
        output_dir (`str` or `Path`): folder for the rankings.
        split (`str`, *optional*): of a prepared folder, `"test"` without it.
        top_k (`int`, defaults to 20): length of the rankings, at most all codes of the model.
        batch_tokens (`int`, defaults to 4096): tokens in a forward pass, padding among them; a GPU takes more.
        max_length (`int`, *optional*): longest timeline in tokens; older visits are left out of it and still count in the
            history term.
        resume (`bool`, defaults to `False`): go on with the run in `output_dir`.
        overwrite (`bool`, defaults to `False`): replace the rankings that an earlier run wrote to `output_dir`.
        checkpoint (`str`, *optional*): what `predict.json` calls the model.

    Returns:
        `dict`: the content of `predict.json`, in every process.

    Raises:
        [`~mera_hf.errors.InputError`]: for input that is missing or breaks the schema (naming file and column, or file and
            row), a code that the model does not know, an `output_dir` that holds something, or a resumed run of other input,
            model or arguments. Nothing is written then.
    """
    started = time.perf_counter()
    for name, value in (("top_k", top_k), ("batch_tokens", batch_tokens), ("max_length", max_length)):
        if value is not None and value < 1:
            raise InputError(f"`{name}` is {value}; it must be 1 or more.")
    output = Path(output_dir)
    top_k = min(top_k, model.config.num_codes)
    settings = {"top_k": top_k, "batch_tokens": batch_tokens, "max_length": max_length}

    def open_run() -> tuple[dict, list[Shard], list[Shard]]:
        _check_output(output, resume, overwrite)
        files = input_files(dataset, split)
        inputs = [{**describe_file(path), **_check_rows(path, model.config.codes)} for path in files]
        run = {"inputs": inputs, "model": fingerprint(model), **settings, "shard_rows": SHARD_ROWS}
        shards = _shards(files, [file["patients"] for file in inputs])
        if not shards:
            raise InputError(f"`dataset` {str(dataset)!r} holds no patient.")
        _open_output(output, run, resume)
        return run, shards, [shard for shard in shards if not _is_written(output, shard)]

    state = processes()
    run, shards, missing = _on_main(state, open_run)
    mine = missing[state.process_index :: state.num_processes]
    from tqdm import tqdm

    title = "predict" if state.num_processes == 1 else f"predict, process 1 of {state.num_processes}"
    patients = sum(shard.rows for shard in mine)
    with tqdm(total=patients, desc=title, unit=" patients", disable=not state.is_main_process) as bar:
        for shard, rows in read_shards(mine):
            _write_part(_rank(model, tokenizer, rows, settings, bar), output / shard.part)
    state.wait_for_everyone()

    def finish() -> dict:
        counts = {name: sum(file[name] for file in run["inputs"]) for name in ("patients", "without_visits")}
        summary = {
            "checkpoint": checkpoint,
            "dataset": str(dataset),
            **run,
            **counts,
            "parts": len(shards),
            "parts_of_this_run": len(missing),
            "processes": state.num_processes,
            "versions": versions(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        write_text(json.dumps(summary, indent=2) + "\n", output / SUMMARY_FILE)
        return summary

    return _on_main(state, finish)


def processes() -> PartialState:
    """The processes that share the work, one without a launcher; each has its own GPU as the current one from here on."""
    import torch
    from accelerate import PartialState

    # Without a GPU accelerate sees other processes only if told to stay on the CPU. The timeout: all others wait while the
    # first checks the input and the last finishes its shard
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def _on_main(state: PartialState, function: Callable):
    """Call `function` in the first process and hand what it returns, or its `InputError`, to all."""
    from accelerate.utils import broadcast_object_list

    result = [None]
    if state.is_main_process:
        try:
            result = [function()]
        except InputError as error:
            result = [error]
    broadcast_object_list(result)
    if isinstance(result[0], InputError):
        raise result[0]
    return result[0]


def input_files(dataset: str | Path, split: str | None = None) -> list[Path]:
    """The Parquet files of a data set: the file itself, those of a folder by name, or the split of a prepared folder.

    Raises:
        [`~mera_hf.errors.InputError`]: where there is none, or `split` is given for anything but a prepared folder.
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


def fingerprint(model: MeraForDiagnosis) -> str:
    """16 hex digits that tell one model from another: of its config, and of every weight tensor up to 4,096 values."""
    import torch

    settings = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        settings.pop(name, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        step = max(1, tensor.numel() // 4096)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten()[::step].to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:16]


def _shards(files: Iterable[Path], rows: Iterable[int]) -> list[Shard]:
    shards = []
    for path, count in zip(files, rows, strict=True):
        for start in range(0, count, SHARD_ROWS):
            shards.append(Shard(len(shards), path, start, min(SHARD_ROWS, count - start)))
    return shards


# -- reading ------------------------------------------------------------------------------------------------------


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
    """What is wrong with the type of a column, in words; widths, and null for a column without values, are free."""
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


def _batches(path: Path, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    file = _open_file(path)
    try:
        yield from file.iter_batches(SHARD_ROWS, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def read_shards(shards: Iterable[Shard]) -> Iterator[tuple[Shard, list[dict]]]:
    """The patients of some shards, one shard at a time; `shards` in the order of their files and rows."""
    wanted: dict[Path, dict[int, Shard]] = {}
    for shard in shards:
        wanted.setdefault(shard.path, {})[shard.start] = shard
    for path, by_start in wanted.items():
        start = 0
        for batch in _batches(path, COLUMNS):
            if start in by_start:
                rows = batch.to_pylist()
                for row in rows:
                    row["visits"] = row["visits"] or []
                yield by_start.pop(start), rows
            start += batch.num_rows
            if not by_start:
                break


def _check_rows(path: Path, codes: list[str]) -> dict[str, int]:
    """Check every row before the first is ranked; returns how many `patients` there are, and how many `without_visits`.

    Messages name the row (the first is row 0) and nothing of the patient.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.array(codes, pa.string())
    patients = without = 0

    def refuse(faults: pa.Array, rows: pa.Array | None, what: str) -> None:
        """`faults` are flags; `rows` holds the row of each flag in the batch, which are the rows themselves without it."""
        if pc.any(faults).as_py():
            first = pc.index(faults, True).as_py()
            row = patients + (first if rows is None else rows[first].as_py())
            raise InputError(f"{path.name}, row {row} (the first is row 0): {what}")

    for batch in _batches(path, COLUMNS):
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


# -- ranking and writing ------------------------------------------------------------------------------------------


def _rank(model, tokenizer, patients: list[dict], settings: dict, bar: tqdm) -> pa.Table:
    """The rankings of one shard as a table."""
    import numpy as np
    import pyarrow as pa

    def count(batches):
        for rows in batches:
            yield rows
            bar.update(len(rows))

    ranking = model.rank(patients, tokenizer, batch_size=BATCH_ROWS, progress=count, **settings)
    length = ranking.order.shape[1]
    ends = pa.array(np.arange(len(patients) + 1, dtype=np.int32) * length)
    codes = pa.array(model.config.codes, pa.string()).take(pa.array(ranking.order.flatten().numpy()))
    return pa.table(
        {
            "patient_id": pa.array([patient["patient_id"] for patient in patients], pa.string()),
            "codes": pa.ListArray.from_arrays(ends, codes),
            "probabilities": pa.ListArray.from_arrays(ends, pa.array(ranking.probabilities.flatten().numpy())),
            "set_size": pa.array(ranking.set_sizes.numpy(), pa.int32()),
        }
    )


def _write_part(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    unfinished = path.with_name(f"{path.name}.unfinished")
    pq.write_table(table, unfinished, compression="zstd")
    os.replace(unfinished, path)


def _is_written(output: Path, shard: Shard) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(output / shard.part).num_rows == shard.rows
    except (OSError, pa.ArrowInvalid):
        return False


def _check_output(output: Path, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise InputError("`resume` goes on with what `overwrite` would delete; give one of the two.")
    if output.is_file():
        raise InputError(f"`output_dir` {str(output)!r} is a file; choose a folder.")
    begun = (output / RUN_FILE).is_file()
    if resume and not begun:
        raise InputError(f"`resume`: {str(output)!r} holds no run; start without it.")
    if output.is_dir() and any(output.iterdir()) and not resume:
        if not begun:
            raise InputError(
                f"`output_dir` {str(output)!r} is not empty and holds no rankings; choose another folder."
            )
        if not overwrite:
            raise InputError(
                f"`output_dir` {str(output)!r} holds rankings; choose another folder, go on with the run (--resume), or "
                "replace them (--overwrite)."
            )


def _open_output(output: Path, run: dict, resume: bool) -> None:
    """Write down what is being done into a folder without rankings, or check that it is what was being done."""
    if resume:
        before = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
        for name, value in run.items():
            if before.get(name) != value:
                was = f" (it was {before.get(name)}, now it is {value})" if name not in ("inputs", "model") else ""
                raise InputError(
                    f"`resume`: the run in {str(output)!r} has another `{name}`{was}. Give what it was started with, or "
                    "start anew in another folder."
                )
        return
    output.mkdir(parents=True, exist_ok=True)
    for pattern in (SUMMARY_FILE, "part-*.parquet", "part-*.parquet.unfinished", RUN_FILE):
        for path in output.glob(pattern):
            path.unlink()
    write_text(json.dumps(run, indent=2) + "\n", output / RUN_FILE)
