"""A leaderboard from local files: each `metrics.json` and `.eval_results/*.yaml` below some folders, by data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mera_hf.blocks import Row, Table, markdown_table
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import COLUMNS, Figures, format_figure, mean_of, seeds_of, title_of, with_interval
from mera_hf.evaluation.plots import require_package
from mera_hf.evaluation.results import read_metrics
from mera_hf.hub.benchmark import REPO, definition, on_benchmark, own_rankers, tasks


HEADLINE = "recall@20"


@dataclass(frozen=True)
class Entry:
    """A model's figures: its name, metric to fraction or spread, their intervals, the seeds, and whether it is a reference."""

    name: str
    figures: Figures
    intervals: Mapping[str, list[float]] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    reference: bool = False


@dataclass(frozen=True)
class Board:
    """Entries measured on the same patients in the same way, and what those are, in words; `benchmark`: by its rules."""

    title: str
    benchmark: bool
    entries: list[Entry] = field(default_factory=list)


def read_boards(folders: Sequence[str | Path]) -> tuple[list[Board], dict[str, str]]:
    """All results below some folders.

    Trained reference rankers differ with the seed: their figures come from the file with the most seeds. A
    `.eval_results` file beside a `metrics.json` on the benchmark is the same result and is not listed twice.

    Args:
        folders (`Sequence[str]` or `Path`): searched with everything below them.

    Returns:
        the tables, the benchmark's first, and the files that were left out, each with the reason.

    Raises:
        [`~mera_hf.errors.InputError`]: for a folder that does not exist, or if there are no results in any.
    """
    boards: dict[tuple, Board] = {}
    references: dict[tuple, dict[str, Entry]] = {}
    left_out: dict[str, str] = {}
    seen, measured = set(), set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{str(folder)!r} is not a folder; name folders that hold metrics.json or .eval_results.")
        for path in sorted(folder.rglob("metrics.json")):
            if path.resolve() in seen:  # folders may be nested
                continue
            seen.add(path.resolve())
            try:
                metrics = read_metrics(path)
            except InputError as error:
                left_out[str(path)] = str(error)
                continue
            benchmark = _is_benchmark(metrics)
            if benchmark:
                measured.add(path.parent.resolve())
            key = ("benchmark",) if benchmark else _key(metrics)
            board = boards.setdefault(key, Board(_title(metrics, benchmark), benchmark))
            found = references.setdefault(key, {})
            for entry in _entries(metrics, _name(folder, path.parent)):
                if not entry.reference:
                    board.entries.append(entry)
                elif entry.name not in found or len(entry.seeds) > len(found[entry.name].seeds):
                    found[entry.name] = entry
        for path in sorted(folder.rglob(".eval_results/*.yaml")):
            if path.resolve() in seen or path.parent.parent.resolve() in measured:
                continue
            seen.add(path.resolve())
            try:
                figures = _eval_results(path)
            except InputError as error:
                left_out[str(path)] = str(error)
                continue
            board = boards.setdefault(("benchmark",), Board(definition()["name"], True))
            board.entries.append(Entry(_name(folder, path.parent.parent), figures))
    if not boards:
        places = ", ".join(map(str, folders))
        raise InputError(f"no results in {places}: no metrics.json of `mera evaluate` and no .eval_results/*.yaml.")
    for key, board in boards.items():
        board.entries.extend(references.get(key, {}).values())
        board.entries.sort(key=lambda entry: -mean_of(entry.figures.get(HEADLINE, 0.0)))
    return sorted(boards.values(), key=lambda board: not board.benchmark), left_out


def board_table(board: Board) -> Table:
    """A leaderboard as a table: percent, models numbered by recall@20, reference rankers between them without a number."""
    columns = [metric for metric in tasks().values() if any(metric in entry.figures for entry in board.entries)]
    best = {
        metric: max(mean_of(entry.figures[metric]) for entry in board.entries if metric in entry.figures)
        for metric in columns
    }
    rows, rank = [], 0
    for entry in board.entries:
        rank += not entry.reference
        texts = [with_interval(m, entry.figures.get(m), entry.intervals.get(m)) for m in columns[:1]]
        texts += [format_figure(metric, entry.figures.get(metric)) for metric in columns[1:]]
        marks = [metric in entry.figures and mean_of(entry.figures[metric]) == best[metric] for metric in columns]
        title = entry.name if entry.reference else f"{rank}. {entry.name}"
        seeds = ", ".join(map(str, entry.seeds)) or "–"
        rows.append(Row(title, [*texts, seeds], [*marks, False], "control" * entry.reference))
    return Table(board.title, ["model", *(COLUMNS[metric] for metric in columns), "seeds"], rows)


LEGEND = (
    "Percent; higher is better. R@20: of a patient's true codes, the share among the first 20 of the ranking. In parentheses "
    "its 95 % interval over patients, after ± the standard deviation over seeds. The best of each column in bold, reference "
    "rankers in italics and without a number."
)


def boards_markdown(boards: Sequence[Board]) -> str:
    """All tables as Markdown, which is also what a terminal shows."""
    parts = ["# Leaderboard", LEGEND]
    for board in boards:
        parts += [f"## {board.title}", markdown_table(board_table(board))]
    return "\n\n".join(parts) + "\n"


def boards_html(boards: Sequence[Board]) -> str:
    """All tables as one HTML page that loads nothing.

    Raises:
        [`~mera_hf.errors.InputError`]: without jinja2.
    """
    require_package("jinja2")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("leaderboard.html.jinja").render(tables=map(board_table, boards), legend=LEGEND)


def _is_benchmark(metrics: Mapping) -> bool:
    own = own_rankers(metrics)
    return bool(own) and all(on_benchmark(metrics, name) for name in own)


def _key(metrics: Mapping) -> tuple:
    dataset, protocol = metrics["dataset"], metrics["protocol"]
    return (*(dataset[key] for key in ("name", "fingerprint", "split")), protocol["target"], protocol["candidates"])


def _title(metrics: Mapping, benchmark: bool) -> str:
    if benchmark:
        return definition()["name"]
    dataset, protocol = metrics["dataset"], metrics["protocol"]
    return (
        f"{dataset['name']} ({dataset['fingerprint']}), {dataset['split']}: {dataset['patients']:,} patients, target "
        f"{protocol['target']}, candidates {protocol['candidates']}"
    )


def _name(folder: Path, place: Path) -> str:
    """The place below the folder; a part that only says 'evaluation' is left out."""
    parts = [part for part in place.resolve().relative_to(folder.resolve()).parts if part != "evaluation"]
    return "/".join(parts) or folder.resolve().name


def _entries(metrics: Mapping, place: str) -> Iterator[Entry]:
    own, seeds = own_rankers(metrics), seeds_of(metrics)
    for name, figures in metrics["rankers"].items():
        intervals = metrics.get("intervals", {}).get(name, {})
        if name in own:
            title = place if own == ["mera"] else f"{place}: {title_of(name)}"
            yield Entry(title, figures, intervals, seeds if own == ["mera"] else ())
        else:
            trained = isinstance(figures.get(HEADLINE), dict) and figures[HEADLINE]["std"] > 0
            yield Entry(title_of(name), figures, intervals, seeds if trained or len(seeds) == 1 else (), True)


def _eval_results(path: Path) -> dict[str, float]:
    """Metric to fraction of the benchmark's entries in a file."""
    import yaml
    from huggingface_hub import parse_eval_result_entries

    try:
        entries = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not a file of evaluation results ({type(error).__name__})") from error
    metric_of = tasks()
    figures = {
        metric_of[entry.task_id]: entry.value / 100
        for entry in entries
        if entry.dataset_id == REPO and entry.task_id in metric_of
    }
    if not figures:
        raise InputError(f"no results of {REPO}")
    return figures
