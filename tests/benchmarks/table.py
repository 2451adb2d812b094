"""The figures of `results.json` as the table of the README, and with their settings as `results.md` beside it:
`python -m tests.benchmarks.table`."""

import json
import os
from pathlib import Path


RESULTS = Path(__file__).with_name("results.json")
SETTINGS = Path(__file__).with_name("results.md")
README = Path(__file__).parents[2] / "README.md"
MARKS = ("<!-- benchmarks: written by python -m tests.benchmarks -->", "<!-- end of benchmarks -->")


WORDS = {  # what is compared, for the README
    "timeline": "a sequence for each visit and prefix / one timeline a patient",
    "tree": "a sequence for each visit and order / one tree a patient",
    "loss-1024x14567": "linear layer and loss / their matrix products, 14,567 codes",
    "loss-4096x4900": "the same, 4,096 positions and 4,900 codes",
    "loss-512x74719": "the same, 512 positions and 74,719 codes",
    "loss-bias-history": "the same, 14,567 codes, with bias and history term",
    "loss-wide": "the same, 4,900 codes, width 2,048",
    "memory-2048x14567": "peak memory of the loss / of plain autograd, 14,567 codes",
    "memory-1024x74719": "the same, 74,719 codes",
    "rank-generate": "`generate` of 14 codes / `rank` of all",
    "rank-descriptions": "likelihood of each description / `rank`",
    "rank-sorted": "batches as they come / sorted by length",
    "lora": "LoRA step over the vocabulary / over the rows of the codes",
    "training": "tokens a second of `MeraTrainer` / of the `Trainer`",
}


def met(entry: dict) -> bool:
    """Whether a ratio reaches its goal."""
    return entry["ratio"] >= entry["goal"] if entry["better"] == "higher" else entry["ratio"] <= entry["goal"]


def goal(entry: dict) -> str:
    """A goal in words, such as `at least 25`."""
    return f"at {'least' if entry['better'] == 'higher' else 'most'} {entry['goal']:g}"


def markdown(results: dict[str, dict]) -> str:
    """The table of the README, one row an entry."""
    lines = ["| | ratio | goal | what by what |", "|---|---:|---|---|"]
    for name, entry in results.items():
        missed = "" if met(entry) else " (missed)"
        lines.append(f"| `{name}` | {entry['ratio']:g} | {goal(entry)}{missed} | {WORDS[name]} |")
    return "\n".join(lines)


def settings(results: dict[str, dict]) -> str:
    """What each entry compares, in full."""
    lines = ["# What is compared", "", *(f"- `{name}`: {entry['setting']}" for name, entry in results.items())]
    return "\n".join(lines) + "\n"


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)


def update_readme() -> None:
    """Put the table of `results.json` between the marks of the README."""
    before, rest = README.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    results = json.loads(RESULTS.read_text())
    table = markdown(results)
    replace_file(SETTINGS, settings(results))
    replace_file(README, f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    update_readme()
