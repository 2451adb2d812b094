"""Rank the next visit of every patient of a data set: Parquet in, Parquet out, shard by shard.

A shard is 8,192 rows of one input file. Each is read, ranked and written before the next, so memory does not grow with
the number of patients. Its file appears only when complete, so an interrupted run can resume where it stopped. Shards
are independent, so several processes can share them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mera_hf.data import patient_files
from mera_hf.data.patient_files import Shard, check_rows, cut_shards, input_files, read_shards
from mera_hf.errors import InputError
from mera_hf.evaluation.conformal import require_coverage
from mera_hf.evaluation.rankings.files import PREDICTED, rankings_table
from mera_hf.evaluation.rankings.model import as_ranking
from mera_hf.files import describe_file, whole_file, write_json
from mera_hf.machine import versions


if TYPE_CHECKING:
    import pyarrow as pa
    from accelerate import PartialState
    from tqdm import tqdm
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

BATCH_ROWS = 256  # most patients in a forward pass, however short, as each has a score for every code
RUN_FILE = "run.json"  # what is being done, written first
SUMMARY_FILE = "predict.json"  # what was done, written last


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
    coverage: float | None = None,
    coverage_of: str = "codes",
    resume: bool = False,
    overwrite: bool = False,
    checkpoint: str | None = None,
) -> dict:
    """Rank the codes of the next visit of every patient, and write the rankings to `output_dir`.

    `part-00000.parquet` and so on hold one row per patient in the order of the input: `patient_id`, `codes` (the ranking, best
    first), `probabilities` (of those codes, float32), `set_size` (codes above EOV, int32; it may exceed `top_k`),
    `unread_visits` (oldest visits that were not read, int32).
    `predict.json` is written last and says what was done. Under `accelerate launch` or `torchrun` every process takes its
    share of the shards; the files are the same for any number of processes, and for a run that was interrupted and resumed.

    Args:
        model (`MeraForDiagnosis`): on the device of this process, see [`processes`].
        tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer.
        dataset (`str` or `Path`): rows of a visits dataset (`VISITS_FEATURES`), where all visits are history: a
            Parquet file, a folder of Parquet files, or a folder that `mera prepare` wrote. A patient without visits is
            ranked from the profile alone, and counted in `predict.json`.
        output_dir (`str` or `Path`): folder for the rankings.
        split (`str`, *optional*): split of a prepared folder; `"test"` by default.
        top_k (`int`, defaults to 20): length of the rankings, at most all codes of the model.
        batch_tokens (`int`, defaults to 4096): most tokens in a forward pass, with padding; a GPU can take more.
        max_length (`int`, *optional*): longest history in tokens; that of the model's config without it. Older visits are
            not read but still count in the history term; `predict.json` says how many, and of how many patients.
        coverage, coverage_of (*optional*): make `set_size` the size of a set with a known coverage instead of the
            number of codes above EOV, see [`MeraForDiagnosis.decide`].
        resume (`bool`, defaults to `False`): continue the run in `output_dir`.
        overwrite (`bool`, defaults to `False`): replace the rankings that an earlier run wrote to `output_dir`.
        checkpoint (`str`, *optional*): what `predict.json` calls the model.

    Returns:
        `dict`: the content of `predict.json`, in every process.

    Raises:
        [`~mera_hf.errors.InputError`]: for input that is missing or breaks the schema (naming file and column, or file and
            row), a code that the model does not know, a `coverage` that it has no sets for, a `max_length` that it has no
            positions for, an `output_dir` that is not empty, or resuming a run with other input, model or arguments. Nothing
            is written then. On the way, for a patient whose profile alone is longer than `max_length`.
    """
    started = time.perf_counter()
    for name, value in (("top_k", top_k), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise InputError(f"`{name}` is {value}; it must be 1 or more.")
    try:
        max_length = model.config.reading_length(max_length)
    except ValueError as error:
        raise InputError(str(error)) from error
    require_coverage(model.config, coverage, coverage_of)
    output = Path(output_dir)
    top_k = min(top_k, model.config.num_codes)
    settings: dict[str, Any] = {"top_k": top_k, "batch_tokens": batch_tokens, "max_length": max_length}
    settings |= {"coverage": coverage, "coverage_of": None if coverage is None else coverage_of}

    def open_run() -> tuple[dict, list[Shard], list[Shard]]:
        _check_output(output, resume, overwrite)
        files = input_files(dataset, split)
        inputs = [{**describe_file(path), **check_rows(path, model.config.codes)} for path in files]
        run = {"inputs": inputs, "model": fingerprint(model), **settings, "shard_rows": patient_files.SHARD_ROWS}
        shards = cut_shards(files, [file["patients"] for file in inputs])
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
        counts |= _unread(output, shards)
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
        write_json(summary, output / SUMMARY_FILE)
        return summary

    return _on_main(state, finish)


def processes() -> PartialState:
    """The processes that share the work (one without a launcher); from here on each has its own GPU."""
    import torch
    from accelerate import PartialState

    # Without a GPU, accelerate sees other processes only if told to stay on the CPU. The timeout is long, as all others wait
    # while the first checks the input and the last finishes its shard
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def _on_main(state: PartialState, function: Callable):
    """Call `function` in the first process and pass its result, or its `InputError`, to all."""
    from accelerate.utils import broadcast_object_list

    result: list[Any] = [None]
    if state.is_main_process:
        try:
            result = [function()]
        except InputError as error:
            result = [error]
    broadcast_object_list(result)
    if isinstance(result[0], InputError):
        raise result[0]
    return result[0]


def fingerprint(model: MeraForDiagnosis) -> str:
    """16 hex digits that identify a model: a hash of its config and of up to 4,096 values of every weight tensor."""
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


def _rank(model, tokenizer, patients: list[dict], settings: dict, bar: tqdm) -> pa.Table:
    """The rankings of one shard as a table."""

    def count(batches):
        for rows in batches:
            yield rows
            bar.update(len(rows))

    try:
        ranked = model.rank(patients, tokenizer, batch_size=BATCH_ROWS, progress=count, **settings)
    except ValueError as error:
        raise InputError(str(error)) from error
    table = rankings_table([patient["patient_id"] for patient in patients], model.config.codes, as_ranking(ranked))
    return table.replace_schema_metadata(PREDICTED)


def _unread(output: Path, shards: list[Shard]) -> dict[str, int]:
    """How many visits were not read, and of how many patients; read back, as other runs and processes wrote parts of it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    counts = {"patients_with_unread_visits": 0, "unread_visits": 0}
    for shard in shards:
        unread = pq.read_table(output / shard.part, columns=["unread_visits"])["unread_visits"]
        counts["patients_with_unread_visits"] += pc.sum(pc.greater(unread, 0)).as_py()
        counts["unread_visits"] += pc.sum(unread).as_py()
    return counts


def _write_part(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    with whole_file(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")


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
    """Record the run in a folder without rankings, or check that it matches the run recorded there."""
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
    write_json(run, output / RUN_FILE)
