"""Preparing at the size of MIMIC-IV: `mera prepare mimic4` on synthetic tables, on two cores.

    python -m tests.benchmarks.prepare_scale --rows 5000000

Writes time and peak memory to `prepare_scale.json` beside this file, or into `--output-dir`.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.synthetic import write_mimic4


ROOT = Path(__file__).parents[2]
CORES = 2


def write_tables(folder: Path, rows: int) -> None:
    """Tables with billable codes of both versions."""
    from mera_hf.icd import IcdTree

    codes = {
        number: [code.split(":")[1].replace(".", "") for code in IcdTree.load(version).codes(billable=True)]
        for number, version in (("9", "ICD9CM"), ("10", "ICD10CM"))
    }
    write_mimic4(folder, rows, codes)


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command on two cores; seconds and peak memory in MB."""
    environment = {**os.environ, "POLARS_MAX_THREADS": str(CORES)}
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:CORES])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"mera prepare ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of diagnoses_icd.csv")
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tables, output = Path(folder) / "tables", Path(folder) / "dataset"
        # In a process of its own: a child's peak counts what its parent holds when it starts
        writer = multiprocessing.get_context("spawn").Process(target=write_tables, args=(tables, args.rows))
        writer.start()
        writer.join()
        command = [sys.executable, "-m", "mera_hf.cli", "prepare", "mimic4"]
        seconds, peak = measure([*command, "--data-dir", str(tables), "--output-dir", str(output)])
        report = json.loads((output / "prepare.json").read_text())
    result = {
        "command": f"python -m tests.benchmarks.prepare_scale --rows {args.rows}",
        "read": report["read"],
        "cohort": report["cohort"],
        "cores": CORES,
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
    }
    (args.output_dir / "prepare_scale.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
