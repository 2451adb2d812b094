"""An experiment as files: figures, tables and plots, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.evaluation import plots
from mera_hf.evaluation.figures import COLUMNS, format_figure, mean_of, points
from mera_hf.experiments.ontology import write_ontology
from mera_hf.experiments.plots import eov_plot, measured, memorization_plot
from mera_hf.experiments.tables import WAYS, exact_match_rows, experiment_markdown
from mera_hf.experiments.variants import row_title
from mera_hf.files import json_text, whole_folder, write_text


FIGURES = "experiment.json"


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier result of an experiment, which may be replaced.

    Raises:
        [`~mera_hf.errors.InputError`]: naming it.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / FIGURES).is_file()):
        raise InputError(f"{folder} holds something else than an experiment; choose another `--output-dir`.")


def write_experiment(result: dict, folder: Path) -> list[str]:
    """Write `experiment.json`, `table.md` and, with matplotlib, plots as PNG: the folder appears whole or not at all.

    The analysis of the tree, which belongs to the experiment `ontology`, goes into `tree/`.

    Args:
        result (`dict`): from `run_experiment`.
        folder (`Path`): an earlier result in it is replaced.

    Returns:
        `list[str]`: the names of the files.

    Raises:
        [`~mera_hf.errors.InputError`]: as [`check_folder`].
    """
    check_folder(folder)
    tree = result.get("ontology")
    pictures = _pictures(result) if plots.installed() else {}
    names = [FIGURES, "table.md", *pictures]
    with whole_folder(folder) as part:
        write_text(json_text({key: value for key, value in result.items() if key != "ontology"}), part / FIGURES)
        for name, (figure, _) in pictures.items():
            plots.save(figure, part / name, "png")
        texts = {name: text for name, (_, text) in pictures.items()}
        write_text(experiment_markdown(result, texts), part / "table.md")
        if tree is not None:
            names += [f"tree/{name}" for name in write_ontology(tree, part / "tree")]
    return names


def _pictures(result: dict) -> dict[str, tuple]:
    """File name to the figure and what it shows, in words."""
    pictures: dict[str, tuple] = {}
    for metric in result["metrics"]:
        pictures |= _forest(result, metric, f"difference_{metric.replace('@', '_')}.png", of_trainings=True)
    if result["experiment"] == "eov":
        pictures |= _forest(result, result["metrics"][0], "difference_own_cut.png", of_trainings=False)
    if result["experiment"] == "memorization":
        rows = [(name, {way: mean_of(share) for way, share in of.items()}) for name, of in exact_match_rows(result)]
        told = "; ".join(
            "{}: {} before, {} after, {} in other words".format(name, *(format_figure(name, of[way]) for way in WAYS))
            for name, of in rows
        )
        pictures["memorization.png"] = (
            memorization_plot(rows),
            f"Dot plot of answers that are right to the last token, in percent. {told}.",
        )
    if result["experiment"] == "eov":
        groups = result["eov"]["groups"]
        told = "; ".join(
            f"{_of_group(name, of[0])} to {_of_group(name, of[-1])}" for name, of in measured(groups).items()
        )
        pictures["eov.png"] = (
            eov_plot(groups),
            f"Line plots of the mean probability of EOV and of the codes above it. Codes above EOV: {told}.",
        )
    return pictures


def _forest(result: dict, metric: str, name: str, of_trainings: bool) -> dict[str, tuple]:
    """The forest plot of the differences between trainings, or between other uses of their checkpoints. A difference between
    the two kinds is so large that it would dwarf the others; only the table has it."""
    trained = {row["name"] for row in result["rows"] if row["seconds"] is not None}
    rows = [
        (row_title(row), each["difference"], each["interval"])
        for row in result["rows"]
        for each in row.get("differences", ())
        if each["metric"] == metric and {row["name"] in trained, row["against"] in trained} == {of_trainings}
    ]
    if not rows:
        return {}
    heading = f"{COLUMNS[metric]}, difference in points"
    told = "; ".join(f"{label} {points(d)} ({' to '.join(map(points, ends))})" for label, d, ends in rows)
    return {name: (plots.difference_plot(rows, heading), f"Forest plot, {heading}: {told}.")}


def _of_group(name: str, group: dict) -> str:
    words = f"DRG severity {group[name]}" if name == "drg_severity" else f"{group[name]} {name}"
    return f"{words}: {group['set_size']:.1f}"
