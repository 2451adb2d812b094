"""What may leave this machine, and who may see it: by data licence, and file by file (this project's choice).

Files are published if they are on a list; all others stay, each with the reason. Weights of credentialed data, or of
unknown data, are never public. Rows of such data are never published at all. No file may name a path of this machine.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch

from mera_hf.errors import InputError
from mera_hf.training.provenance import UNKNOWN


VISIBILITIES = ("private", "gated", "public")  # from closed to open

TOKENIZER_FILES = (
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
)
LOGS = ("training.json", "memorization.json", "memorize_run.json")
CHECKPOINT_FILES = (
    *("config.json", "generation_config.json"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *TOKENIZER_FILES,
    *LOGS,
)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "config.json", *TOKENIZER_FILES)
EVALUATION_FILES = ("metrics.json",)
DATASET_FILES = (
    *("README.md", "LICENSE", "codes.json", "prepare.json", "eval.yaml", "splits.yaml"),
    *("data/train.parquet", "data/validation.parquet", "data/test.parquet"),
)
# The first reason that fits is given
REASONS = (
    ("README.md", "the card is written anew"),
    ("*_mera.py", "those of the installed mera_hf take their place"),
    ("adapter/*", "an adapter is published by itself: --adapter"),
    ("evaluation/*", "of an evaluation, metrics.json goes; --evaluation names another one"),
    ("*checkpoint*/*", "steps of a training, with the state of its optimizer"),
    ("*rankings.parquet", "patients' identifiers and rankings"),
    ("*report.html", "may show an example patient"),
    ("training_args.bin", "paths of this machine"),
    ("optimizer.*", "the state of the optimizer"),
    *(
        (f"*.{ending}", "a pickle, which can run code; weights go as safetensors")
        for ending in ("bin", "pt", "pth", "pkl")
    ),
    *((pattern, "a log") for pattern in ("*.log", "logs/*", "runs/*", "*tfevents*", "trainer_state.json")),
)
# /home/ann/runs, C:\Users\ann, ~/runs, file:///runs; not the path of a web address, nor a fraction such as and/or
LOCAL_PATH = re.compile(
    r"(?<![\w:/.<~)\]-])/(?:[\w.@+-]+/)+[\w.@+-]*|\b[A-Za-z]:\\\w[^\s\"']*|(?<!\w)~/\w\S*|file://\S+"
)


def is_listed(name: str, allowed: tuple[str, ...]) -> bool:
    """Whether a file, named relative to its folder, is on a list of files to publish."""
    return any(fnmatch(name, pattern) for pattern in allowed)


def reason_to_stay(name: str) -> str:
    """Why a file that is not on any list stays here."""
    return next(
        (reason for pattern, reason in REASONS if fnmatch(name, pattern)), "not on the list of what is published"
    )


def check_weights(provenance: dict | None, visibility: str, agreement: str | None) -> dict | None:
    """Refuse to publish weights more openly than the terms of their data allow.

    Args:
        provenance (`dict`, *optional*): what the checkpoint says about its data, see `training/provenance.py`; without
            it the data count as credentialed.
        visibility (`str`): `"private"`, `"gated"` (everyone sees the page, the owner decides who gets the files) or
            `"public"`.
        agreement (`str`, *optional*): the agreement that the user named.

    Returns:
        the provenance to publish, which carries the agreement that was named.

    Raises:
        [`InputError`]: for credentialed or unknown data, unless the user names the agreement and chooses `private` or `gated`.
    """
    data = UNKNOWN if provenance is None else provenance
    if not data["credentialed"]:
        return provenance
    if provenance is None:
        trained = "This checkpoint does not say whose patients are in it, and so counts as credentialed"
    else:
        under = f", which are under the {data['agreement']}" if data["agreement"] else ", which are credentialed"
        trained = f"This checkpoint was trained on patients of {_sources(data)}{under}"
    if visibility == "public":
        raise InputError(
            f"{trained}: it is not published for everyone. If your agreement lets you share it, name it (`--agreement`) and "
            "leave out `--public` for a private repository, or set `--gated` to choose who gets the files."
        )
    agreement = (agreement or "").strip()
    if not agreement:
        example = data["agreement"] or "NAME AND VERSION"
        raise InputError(
            f"{trained}. Read what your agreement says of sharing models. If it lets you, name it: "
            f'`--agreement "{example}"`; the repository is private, or `--gated`.'
        )
    if data["agreement"] and _words(agreement) != _words(data["agreement"]):
        raise InputError(
            f"{trained}, but `--agreement` is {agreement!r}. If you hold that agreement and may share the model, name "
            f'it: `--agreement "{data["agreement"]}"`.'
        )
    return {**data, "agreement": data["agreement"] or agreement}


def check_rows(report: dict) -> None:
    """Refuse to publish the rows of a prepared dataset unless everyone may have them.

    Args:
        report (`dict`): its `prepare.json`.

    Raises:
        [`InputError`]: for credentialed rows, and for a table whose terms are not known.
    """
    if not report["credentialed"]:
        return
    if report.get("agreement") or report["source"].startswith("mimic"):
        why = (
            f"its rows are under the {report['license']}, by which access is shared with nobody else, and a platform is "
            "somebody else. Others prepare the same rows from their own copy: share the command, and the fingerprint "
            f"{report['fingerprint']}"
        )
    else:
        why = "mera does not know the terms of your table, and takes its rows for patient data"
    raise InputError(f"The dataset of {report['source']} is not published, not even in a private repository: {why}.")


def is_local_path(text: str) -> bool:
    """Whether a text is a path of this machine and nothing else."""
    return LOCAL_PATH.fullmatch(text.strip()) is not None


def without_paths(content, name: str = "") -> tuple[object, list[str]]:
    """JSON content without the fields that are paths of this machine, and the dotted names of those fields.

    Args:
        content: what `json.loads` gives.
        name (`str`): dotted name of the content in its parent.
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
    """Refuse a text that contains a path of this machine.

    Raises:
        [`InputError`]: naming file, line and path.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if found := LOCAL_PATH.search(line):
            raise InputError(
                f"{file}, line {number} names a path of this machine, {found[0]!r}, and would be published; remove it."
            )


def _sources(data: dict) -> str:
    """All data sets that a model has seen, the last one first."""
    names, part = [], data
    while part:
        names.append(part["source"] or "an unknown data set")
        part = part.get("before") or {}
    return " and ".join(dict.fromkeys(names))


def _words(text: str) -> list[str]:
    return text.casefold().split()
