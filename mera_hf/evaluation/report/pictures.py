"""The plots that a report has the data for, each with a text for readers who do not see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mera_hf.evaluation import plots
from mera_hf.evaluation.calibration_words import calibration_words
from mera_hf.evaluation.plots import title_of
from mera_hf.evaluation.plots.differences import signed_points
from mera_hf.evaluation.report.sections import set_sizes_section
from mera_hf.evaluation.report.strata import STRATIFICATIONS, has_figures, main_metric, shown_rankers
from mera_hf.evaluation.report.table import heading_of, plain_name
from mera_hf.evaluation.results import format_figure, mean_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure and what it shows, in words."""

    figure: Figure
    alternative: str


def draw_pictures(report: Mapping) -> dict[str, Picture]:
    """The pictures of a report, by name.

    Args:
        report (`Mapping`):
            As [`~mera_hf.evaluation.report.page.render_report`] takes it.
    """
    metrics = report["metrics"]
    pictures = {}
    if report.get("curves"):
        pictures["recall"] = recall_picture(report["curves"])
    pictures["quality"] = quality_picture(metrics)
    if report.get("sets"):
        sizes = set_sizes_section(report["sets"])
        pictures["set_sizes"] = Picture(
            plots.set_size_plot(report["sets"]["predicted"], report["sets"]["true"]),
            f"Histogram and heat map of set sizes: {sizes['predicted']} codes above EOV on average against "
            f"{sizes['true']} true codes; {sizes['larger']} % of the sets are larger than the true ones, "
            f"{sizes['smaller']} % smaller.",
        )
    if report.get("example"):
        pictures["patient"] = _patient_picture(report["example"])
    for name, strata in metrics.get("strata", {}).items():
        if has_figures(strata):
            pictures[f"strata_{name}"] = _strata_picture(name, strata, shown_rankers(metrics))
    distance = {name: shares for name, shares in metrics.get("distance", {}).items() if "same_category" in shares}
    if distance:
        pictures["distance"] = _distance_picture(distance)
    if "calibration" in metrics:
        told = calibration_words(metrics)["alternatives"]
        figures = plots.calibration_plots(metrics["calibration"])
        pictures |= {name: Picture(figure, told[name]) for name, figure in figures.items()}
    return pictures | difference_pictures(metrics)


def write_plots(report: Mapping, folder: str | Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a report's plots as files, for model cards and READMEs: on white, 200 dots an inch.

    Args:
        report (`Mapping`):
            As [`~mera_hf.evaluation.report.page.render_report`] takes it.
        folder (`str` or `Path`):
            Made if it is not there; plots of the same name are replaced.

    Returns:
        `list[Path]`: `recall.png`, `quality.png`, `set_sizes.png`, `patient.png` and so on for what the report has
            data for, and the same for the other formats.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, picture in draw_pictures(report).items():
        for suffix in formats:
            path = folder / f"{name}.{suffix}"
            part = path.with_name(path.name + ".tmp")
            plots.save(picture.figure, part, suffix)
            paths.append(part.replace(path))
    return paths


def recall_picture(curves: Mapping[str, Sequence[float]]) -> Picture:
    """Recall at every k, a line a ranker."""
    figure = plots.recall_plot(curves)
    kmax = len(next(iter(curves.values())))
    ends = ", ".join(f"{title_of(name)} {100 * curve[-1]:.1f} %" for name, curve in curves.items())
    return Picture(figure, f"Line plot of recall at k for k from 1 to {kmax}. At k = {kmax}: {ends}.")


def quality_picture(metrics: Mapping) -> Picture:
    """The table of rankers as dots."""
    alternative = f"Dot plots of the table above, one panel per measure, for {len(metrics['rankers'])} rankers."
    return Picture(plots.quality_plot(metrics), alternative)


def difference_pictures(metrics: Mapping) -> dict[str, Picture]:
    """A forest plot of the paired differences for every metric that was compared, `differences_<metric>`."""
    comparisons = [entry for entry in metrics.get("comparisons", ()) if entry.get("difference") is not None]
    pictures = {}
    for metric in dict.fromkeys(entry["metric"] for entry in comparisons):
        chosen = [entry for entry in comparisons if entry["metric"] == metric]
        firsts = {entry["a"] for entry in chosen}
        rows = [
            (
                title_of(entry["b"]) if len(firsts) == 1 else f"{title_of(entry['a'])} − {title_of(entry['b'])}",
                mean_of(entry["difference"]),
                entry.get("interval"),
            )
            for entry in chosen
        ]
        against = f"{title_of(chosen[0]['a'])} minus …" if len(firsts) == 1 else "first minus second"
        heading = f"{heading_of(metric)}, points: {against}"
        told = "; ".join(
            f"{label} {signed_points(difference)}"
            + (" (interval {} to {})".format(*map(signed_points, interval)) if interval else "")
            for label, difference, interval in rows
        )
        pictures[f"differences_{metric}"] = Picture(
            plots.difference_plot(rows, heading),
            f"Forest plot of paired differences, {heading_of(metric)}, {against.removesuffix(' …')}: {told}.",
        )
    return pictures


def _patient_picture(example: Mapping) -> Picture:
    first = "; ".join(
        f"{entry['code']} {entry['description']}, {100 * entry['probability']:.0f} %{', true' * entry['true']}"
        for entry in example["ranking"]
    )
    return Picture(
        plots.patient_plot(example),
        f"Bar chart of one patient's ranking: {first}. EOV comes after rank {example['set_size']}.",
    )


def _strata_picture(name: str, strata: Mapping[str, Mapping], rankers: list[str]) -> Picture:
    metric = main_metric(strata)
    strata = {plain_name(stratum): entry for stratum, entry in strata.items()}
    told = "; ".join(
        f"{stratum}: "
        + (
            ", ".join(
                f"{title_of(ranker)} {format_figure(metric, entry['rankers'][ranker][metric])}"
                for ranker in rankers
                if metric in entry.get("rankers", {}).get(ranker, {})
            )
            or "too few to measure"
        )
        for stratum, entry in strata.items()
    )
    heading = STRATIFICATIONS.get(name, (plain_name(name),))[0]
    return Picture(
        plots.strata_plot(strata, metric, heading_of(metric), rankers),
        f"Dot plot of {heading_of(metric)} in percent. {heading}. {told}.",
    )


def _distance_picture(distance: Mapping[str, Mapping]) -> Picture:
    told = "; ".join(
        f"{title_of(name)}: "
        + ", ".join(
            f"{label} {format_figure(part, shares[part])} %"
            for part, label in plots.distance.PARTS.items()
            if part in shares
        )
        for name, shares in distance.items()
    )
    return Picture(plots.distance_plot(distance), f"Stacked bars of wrong codes by what they share. {told}.")
