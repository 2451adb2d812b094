"""The figures of `results.json` as the table of the README: `python -m tests.benchmarks.table`."""

import json
import os
from pathlib import Path


RESULTS = Path(__file__).with_name("results.json")
README = Path(__file__).parents[2] / "README.md"
MARKS = ("<!-- benchmarks: written by python -m tests.benchmarks -->", "<!-- end of benchmarks -->")


def met(entry: dict) -> bool:
    """Whether a ratio reaches its goal."""
    return entry["ratio"] >= entry["goal"] if entry["better"] == "higher" else entry["ratio"] <= entry["goal"]


def goal(entry: dict) -> str:
    """A goal in words, such as `at least 25`."""
    return f"at {'least' if entry['better'] == 'higher' else 'most'} {entry['goal']:g}"


def markdown(results: dict[str, dict]) -> str:
    """The table, one row an entry."""
    lines = ["| | ratio | goal | what by what |", "|---|---:|---|---|"]
    for name, entry in results.items():
        missed = "" if met(entry) else " (missed)"
        lines.append(f"| `{name}` | {entry['ratio']:g} | {goal(entry)}{missed} | {entry['setting']} |")
    return "\n".join(lines)


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)


def update_readme() -> None:
    """Put the table of `results.json` between the marks of the README."""
    before, rest = README.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    table = markdown(json.loads(RESULTS.read_text()))
    replace_file(README, f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    update_readme()
