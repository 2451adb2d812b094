"""What checkpoints and evaluations say, in the tests of publishing."""

import json
from pathlib import Path

from mera_hf.hub.benchmark import expected_splits, tasks


OPEN = {
    "source": "diabetes130",
    "licence": "CC BY 4.0",
    "credentialed": False,
    "fingerprint": "b6852758fdb0ddf9",
    "agreement": None,
    "patients": True,
}
# As if measured on the benchmark, so that its results go along
EXPECTED = expected_splits()
METRICS = {
    "dataset": {
        "name": "diabetes130",
        "fingerprint": EXPECTED["fingerprint"],
        "split": "test",
        "split_sha256": EXPECTED["splits"]["test"]["sha256"],
        "patients": EXPECTED["splits"]["test"]["patients"],
        "codes": EXPECTED["codes"],
    },
    "protocol": {"target": "last", "candidates": "cohort", "history": "codes"},
    "rankers": {name: dict.fromkeys(tasks().values(), value) for name, value in (("mera", 0.6), ("prevalence", 0.5))},
    "controls": {},
    "run": {"recipe": "tiny/train", "seed": 0, "versions": {}, "seconds": 1.0, "peak_memory_mb": 100},
}


def edit_json(path: Path, **fields) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


PUBLISH = """
import shlex
from mera_hf.cli.main import main
for line in {lines}:
    status = main(["publish", *shlex.split(line)])
    assert status == {status}, status
"""


def publish(run, *lines: str, status: int = 0) -> str:
    """Publish each of these in a fresh process, by the fixture `run`; what was printed."""
    return run(PUBLISH.format(lines=lines, status=status))
