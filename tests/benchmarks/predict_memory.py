"""Does memory grow with the number of patients? `mera predict` on synthetic patients, watched from outside.

    python -m tests.benchmarks.predict_memory --patients 1000000

Writes `predict_memory.json`, a sample for each shard that was written, and `predict_memory.png` beside this file, or into
`--output-dir`. The checkpoint has the size of the reference recipe and random weights; `--checkpoint` takes another.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from mera_hf.evaluation.predicting import SHARD_ROWS
from tests.synthetic import write_patients


ROOT = Path(__file__).parents[2]
CODES = 793  # of Diabetes 130-US Hospitals


def categories(count: int) -> list[str]:
    """The first three-digit categories of ICD-9-CM."""
    from mera_hf.icd import IcdTree

    tree = IcdTree.load("ICD9CM")
    return [code for code in tree if tree.level(code) == "category"][:count]


def write_checkpoint(folder: Path, codes: list[str]) -> None:
    """A model as large as that of `recipes/tiny-cpu/train.yaml`, with random weights."""
    from mera_hf.icd import describe
    from mera_hf.training.code_tokens import add_code_tokens
    from mera_hf.training.from_scratch import from_scratch
    from tests.tiny import randomise_head

    recipe = yaml.safe_load((ROOT / "recipes" / "tiny-cpu" / "train.yaml").read_text())
    model, tokenizer = from_scratch(recipe["from_scratch"], [describe(code) for code in codes], seed=0)
    fields = {name: recipe[name] for name in ("positions", "use_profile", "code_bias", "history_term")}
    add_code_tokens(model, tokenizer, codes, initialise="random", **fields)
    randomise_head(model)
    model.config.rerank_depth = recipe["rerank_depth"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def watch(command: list[str], output: Path, patients: int) -> list[dict]:
    """Run a `mera predict`; memory of the process and seconds since its start whenever another shard is there."""
    started, samples = time.perf_counter(), []
    with subprocess.Popen(command, cwd=ROOT) as process:
        memory = psutil.Process(process.pid)
        while process.poll() is None:
            done = min(patients, SHARD_ROWS * len(list(output.glob("part-*.parquet"))))
            if done and (not samples or done > samples[-1]["patients"]):
                try:
                    rss = memory.memory_info().rss
                except psutil.NoSuchProcess:
                    break
                seconds = round(time.perf_counter() - started, 1)
                samples.append({"patients": done, "rss_mb": round(rss / 2**20, 1), "seconds": seconds})
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"mera predict ended with status {process.returncode}")
    return samples


def draw(result: dict, path: Path) -> None:
    """The curve as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["patients"] for row in result["curve"]], [row["rss_mb"] for row in result["curve"]])
    axes.set(xlabel="patients ranked", ylabel="memory of the process (MB)", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"mera predict, {result['patients']:,} patients", loc="left", fontsize=10)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=1_000_000)
    parser.add_argument("--checkpoint", help="a checkpoint instead of random weights")
    parser.add_argument("--output-dir", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, data, output = (Path(folder) / name for name in ("checkpoint", "patients.parquet", "output"))
        if args.checkpoint:
            codes = list(json.loads((Path(args.checkpoint) / "config.json").read_text())["id2label"].values())
        else:
            codes = categories(CODES)
            write_checkpoint(checkpoint, codes)
        write_patients(data, args.patients, codes)
        command = [sys.executable, "-m", "mera_hf.cli", "predict", str(args.checkpoint or checkpoint)]
        command += ["--dataset", str(data), "--output-dir", str(output)]
        curve = watch(command, output, args.patients)
        summary = json.loads((output / "predict.json").read_text())
    second = curve[len(curve) // 2 :]
    result = {
        "command": f"python -m tests.benchmarks.predict_memory --patients {args.patients}",
        "patients": summary["patients"],
        "codes": len(codes),
        "threads": int(os.environ.get("OMP_NUM_THREADS", psutil.cpu_count(logical=False))),
        "seconds": summary["seconds"],
        "patients_per_second": round(summary["patients"] / summary["seconds"]),
        "peak_mb": max(row["rss_mb"] for row in curve),
        "growth_over_second_half_mb": round(second[-1]["rss_mb"] - second[0]["rss_mb"], 1),
        "versions": summary["versions"],
        "curve": curve,
    }
    (args.output_dir / "predict_memory.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, args.output_dir / "predict_memory.png")
    print(json.dumps({name: value for name, value in result.items() if name != "curve"}, indent=2))


if __name__ == "__main__":
    main()
