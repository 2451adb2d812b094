"""Files written completely or not at all, JSON read with clear errors, and the hash of a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mera_hf.errors import InputError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary sibling, `<name>.unfinished`, that replaces `path` once written, and is removed on failure."""
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(output: str | Path) -> Iterator[Path]:
    """A temporary sibling that replaces `output` once all is written, and leaves nothing behind on failure."""
    output = Path(output).resolve()
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


def write_text(text: str, path: str | Path) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(value: Any, path: str | Path) -> None:
    """Write an ASCII JSON file, whole or not at all; NaN is allowed, since a log may hold it."""
    write_text(json.dumps(value, indent=2) + "\n", path)


def json_text(value: Any) -> str:
    """The text of a JSON file; numbers that are not finite are refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: str | Path, fix: str = "") -> Any:
    """Read a JSON file.

    Args:
        path (`str` or `Path`): the file.
        fix (`str`, *optional*): what the user can do about an error, as a sentence.

    Raises:
        [`~mera_hf.errors.InputError`]: if it is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}.{f' {fix}' if fix else ''}") from error


def describe_file(path: Path) -> dict:
    """`name`, `bytes` and `sha256` of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}
