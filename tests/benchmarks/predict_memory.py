"""Does memory grow with the number of patients? `mera predict` on synthetic patients, memory noted after every shard.

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
from pathlib import Path

import psutil
import yaml

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


# `mera` in a process of its own that writes down patients and memory whenever a shard has been written
WATCHED = """
import resource, sys, time
import psutil
from mera_hf.cli.main import main
from mera_hf.evaluation.rankings import predict

log, process, write, done = open(sys.argv[1], "w"), psutil.Process(), predict._write_part, 0
started = time.perf_counter()

def watched(table, path):
    global done
    write(table, path)
    done += table.num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(done, process.memory_info().rss, peak, time.perf_counter() - started, file=log, flush=True)

predict._write_part = watched
sys.exit(main(sys.argv[2:]))
"""


def watch(arguments: list[str], log: Path) -> list[dict]:
    """Run `mera` with these arguments; after every shard the memory of the process, its peak so far and the seconds."""
    subprocess.run([sys.executable, "-c", WATCHED, str(log), *arguments], cwd=ROOT, check=True)
    samples = []
    for line in log.read_text().splitlines():
        patients, memory, peak, seconds = map(float, line.split())
        samples.append(
            {
                "patients": int(patients),
                "rss_mb": round(memory / 2**20, 1),
                "peak_mb": round(peak / 2**20, 1),
                "seconds": round(seconds, 1),
            }
        )
    return samples


def draw(result: dict, path: Path) -> None:
    """The curve as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["patients"] for row in result["curve"]], [row["rss_mb"] for row in result["curve"]])
    highest = max(row["rss_mb"] for row in result["curve"])
    axes.set(xlabel="patients ranked", ylabel="memory of the process (MB)", ylim=(0, 1.2 * highest))
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
        command = ["predict", args.checkpoint or checkpoint, "--dataset", data, "--output-dir", output]
        curve = watch([str(part) for part in command], Path(folder) / "log")
        summary = json.loads((output / "predict.json").read_text())
    memory = [row["rss_mb"] for row in curve]
    ends = [len(curve) * quarter // 4 for quarter in range(5)]
    result = {
        "command": f"python -m tests.benchmarks.predict_memory --patients {args.patients}",
        "patients": summary["patients"],
        "codes": len(codes),
        "threads": int(os.environ.get("OMP_NUM_THREADS", psutil.cpu_count(logical=False))),
        "seconds": summary["seconds"],
        "patients_per_second": round(summary["patients"] / summary["seconds"]),
        "peak_mb": curve[-1]["peak_mb"],
        "mean_mb_of_each_quarter": [
            round(sum(memory[start:end]) / (end - start), 1)
            for start, end in zip(ends, ends[1:], strict=False)
            if end > start
        ],
        "versions": summary["versions"],
        "curve": curve,
    }
    (args.output_dir / "predict_memory.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, args.output_dir / "predict_memory.png")
    print(json.dumps({name: value for name, value in result.items() if name != "curve"}, indent=2))


if __name__ == "__main__":
    main()
