"""The benchmark *Diabetes 130 next-visit diagnosis*: its tasks, its patients, and whether figures were measured on them.

`diabetes130_next_visit/eval.yaml` is the definition that the Hub reads; `splits.yaml` beside it says which patients are in
which split, as a sha256 for each, without naming them. The scorer is `mera evaluate` for a checkpoint of MERA, and
`mera compare` for the rankings of any other model. This writes the files of the benchmark into a prepared folder, ready to be
published as the dataset repository:

    mera prepare diabetes130 --output-dir DIR
    python -m mera_hf.hub.benchmark DIR
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.reference import REFERENCES
from mera_hf.files import write_text
from mera_hf.hub.dataset_card import dataset_card


REPO = "mera-hf/diabetes130-next-visit"  # the dataset repository on the Hub
NAME = "diabetes130-next-visit"
FOLDER = Path(__file__).parent / "diabetes130_next_visit"
ANEW = "Prepare the data with `mera prepare diabetes130 --output-dir DIR` (no other option) and evaluate again."


@cache
def definition() -> dict:
    """The content of `eval.yaml`: `name`, `description` and `tasks`."""
    return _read("eval.yaml")


@cache
def expected_splits() -> dict:
    """The content of `splits.yaml`: `fingerprint`, `codes`, and `patients` and `sha256` of each split."""
    return _read("splits.yaml")


def _read(name: str) -> dict:
    import yaml

    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def tasks() -> dict[str, str]:
    """The tasks, headline first, and the metric of each: `recall-at-20` is `recall@20`."""
    return {task["id"]: task["id"].replace("-at-", "@").replace("-", "_") for task in definition()["tasks"]}


def prepared_splits(folder: str | Path) -> dict:
    """What `splits.yaml` says, computed from a prepared folder.

    Raises:
        [`~mera_hf.errors.InputError`]: if `folder` is not a prepared folder.
    """
    from mera_hf.data.prepared import Prepared
    from mera_hf.data.splits import split_hash

    prepared = Prepared.open(folder)
    return {
        "fingerprint": prepared.report["fingerprint"],
        "codes": len(prepared.codes),
        "splits": {
            name: {"patients": len(rows), "sha256": split_hash(rows["patient_id"])}
            for name, rows in prepared.splits.items()
        },
    }


def check_benchmark(metrics: Mapping, ranker: str = "mera") -> None:
    """Refuse figures not measured as the benchmark asks: its patients, last visit, all its codes as candidates.

    Args:
        metrics (`Mapping`): the content of a `metrics.json`.
        ranker (`str`, defaults to `"mera"`): whose figures.

    Raises:
        [`~mera_hf.errors.InputError`]: naming what differs, and how to measure it correctly.
    """
    expected, dataset, protocol = expected_splits(), metrics["dataset"], metrics["protocol"]
    test = expected["splits"]["test"]
    checks = (
        ("dataset.name", dataset["name"], "diabetes130", ANEW),
        ("dataset.split", dataset["split"], "test", "Evaluate with `--split test`."),
        ("dataset.fingerprint", dataset["fingerprint"], expected["fingerprint"], ANEW),
        (
            "dataset.split_sha256",
            dataset.get("split_sha256"),
            test["sha256"],
            "Evaluate again with this version of mera.",
        ),
        ("dataset.patients", dataset["patients"], test["patients"], ANEW),
        ("dataset.codes", dataset["codes"], expected["codes"], ANEW),
        ("protocol.target", protocol["target"], "last", "Evaluate with `mera evaluate` or `mera compare`."),
        (
            "protocol.candidates",
            protocol["candidates"],
            "cohort",
            "Train with `candidates: cohort`, or `mera compare`.",
        ),
    )
    for place, value, right, fix in checks:
        if value != right:
            raise InputError(f"`{place}` is {value!r}, and {right!r} in the benchmark {NAME}. {fix}")
    figures = metrics["rankers"].get(ranker)
    if figures is None:
        raise InputError(f"`{ranker}` is not measured here; choose one of {', '.join(metrics['rankers'])}.")
    missing = [metric for metric in tasks().values() if metric not in figures]
    if missing:
        raise InputError(
            f"`rankers.{ranker}` lacks {', '.join(missing)}, which the benchmark asks for. Rankings for `mera compare` need a "
            "`set_size` for each patient."
        )


def on_benchmark(metrics: Mapping, ranker: str = "mera") -> bool:
    """Whether [`check_benchmark`] finds no fault."""
    try:
        check_benchmark(metrics, ranker)
    except InputError:
        return False
    return True


def own_rankers(metrics: Mapping) -> list[str]:
    """The rankers that are not reference rankers."""
    return [name for name in metrics["rankers"] if name not in REFERENCES]


def only_ranker(metrics: Mapping) -> str:
    """The one ranker that is not a reference ranker.

    Raises:
        [`~mera_hf.errors.InputError`]: if there are none or several.
    """
    names = own_rankers(metrics)
    if len(names) != 1:
        which = (
            f"{len(names)} rankers beside the references: {', '.join(names)}" if names else "reference rankers alone"
        )
        raise InputError(f"the metrics hold {which}. Name the one to submit: `--ranker NAME`.")
    return names[0]


def write_benchmark(folder: str | Path) -> list[str]:
    """Write `eval.yaml`, `splits.yaml` and the card of the benchmark into a prepared folder; return their names.

    Raises:
        [`~mera_hf.errors.InputError`]: if the folder does not hold the benchmark's rows in its splits.
    """
    folder, found, expected = Path(folder), prepared_splits(folder), expected_splits()
    if found != expected:
        raise InputError(f"{str(folder)!r} has other rows than the benchmark: {found} instead of {expected}. {ANEW}")
    for name in ("eval.yaml", "splits.yaml"):
        write_text((FOLDER / name).read_text(encoding="utf-8"), folder / name)
    write_text(dataset_card(folder, REPO), folder / "README.md")
    return ["eval.yaml", "splits.yaml", "README.md"]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m mera_hf.hub.benchmark DIR (a folder of `mera prepare diabetes130`)")
    try:
        print(f"written to {sys.argv[1]}: {', '.join(write_benchmark(sys.argv[1]))}")
    except InputError as error:
        print(f"python -m mera_hf.hub.benchmark: {error}", file=sys.stderr)
        sys.exit(2)
