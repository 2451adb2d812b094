"""Paths of this machine, which nothing that is published may name."""

from __future__ import annotations

import re

from mera_hf.errors import InputError


# /home/ann/runs, C:\Users\ann, ~/runs, file:///runs; not the path of a web address, nor a fraction such as and/or
LOCAL_PATH = re.compile(
    r"(?<![\w:/.<~)\]-])/(?:[\w.@+-]+/)+[\w.@+-]*|\b[A-Za-z]:\\\w[^\s\"']*|(?<!\w)~/\w\S*|file://\S+"
)


def is_local_path(text: str) -> bool:
    """Whether a text is a path of this machine and nothing else."""
    return LOCAL_PATH.fullmatch(text.strip()) is not None


def without_paths(content, name: str = "") -> tuple[object, list[str]]:
    """JSON content without the fields that are paths of this machine, and the dotted names of those fields.

    Args:
        content: what `json.loads` gives.
        name (`str`): of the content in what it is a part of.
    """
    if isinstance(content, list):
        parts = [without_paths(part, name) for part in content]
        return [part for part, _ in parts], [found for _, names in parts for found in names]
    if not isinstance(content, dict):
        return content, []
    kept, removed = {}, []
    for key, value in content.items():
        field = f"{name}.{key}" if name else key
        if isinstance(value, str) and is_local_path(value):
            removed.append(field)
        else:
            kept[key], inside = without_paths(value, field)
            removed += inside
    return kept, removed


def check_no_paths(text: str, file: str) -> None:
    """Refuse a text in which a path of this machine stands.

    Raises:
        [`InputError`]: naming file, line and path.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if found := LOCAL_PATH.search(line):
            raise InputError(
                f"{file}, line {number} names a path of this machine, {found[0]!r}, and would be published; remove it."
            )
