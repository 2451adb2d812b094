"""The machine of a run, for its log and its card: versions, memory and hardware."""

from __future__ import annotations

import platform
import resource
import sys
import time
from typing import Any


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a figure may depend on."""
    from importlib.metadata import version

    packages = ("mera_hf", "torch", "transformers", "trl", "datasets", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def peak_memory_mb() -> float:
    """Largest memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def run_record(recipe: str | None, seed: int, started: float) -> dict[str, Any]:
    """The part `run` of a `metrics.json`: how the figures were made, and the time since `started`, of `time.perf_counter`."""
    return {
        "recipe": recipe,
        "seed": seed,
        "versions": versions(),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mb": round(peak_memory_mb()),
    }


def hardware(processes: int = 1) -> dict[str, str | int]:
    """The hardware: `device`, the accelerator's name or the processor's architecture, and the number of
    `accelerators`, or of `threads` in all processes together."""
    import torch

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "accelerators": processes}
    return {"device": f"CPU ({platform.machine()})", "threads": processes * torch.get_num_threads()}
