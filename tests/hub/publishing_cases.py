"""What checkpoints and evaluations say, in the tests of publishing."""

import json
from pathlib import Path


OPEN = {
    "source": "diabetes130",
    "licence": "CC BY 4.0",
    "credentialed": False,
    "fingerprint": "b6852758fdb0ddf9",
    "agreement": None,
    "patients": True,
}
METRICS = {
    "dataset": {"name": "diabetes130", "fingerprint": "a1", "split": "test", "patients": 100, "codes": 19},
    "protocol": {"target": "last", "candidates": "cohort", "history": "codes"},
    "rankers": {"mera": {"recall@20": 0.6, "weighted_f1": 0.3}, "prevalence": {"recall@20": 0.5, "weighted_f1": 0.2}},
    "controls": {},
    "run": {"recipe": "tiny/train", "seed": 0, "versions": {}, "seconds": 1.0, "peak_memory_mb": 100},
}


def edit_json(path: Path, **fields) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
