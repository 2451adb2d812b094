"""`mera compare` as a page: many rankers side by side, and their paired differences from the first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mera_hf.evaluation.plots import title_of
from mera_hf.evaluation.report import sections
from mera_hf.evaluation.report.page import render_page
from mera_hf.evaluation.report.pictures import difference_pictures, quality_picture, recall_picture
from mera_hf.evaluation.report.words import LIMITS
from mera_hf.evaluation.results import format_figure, mean_of, validate_metrics, write_text


def render_comparison_report(report: Mapping) -> str:
    """The comparison as one HTML page, complete in itself.

    Args:
        report (`Mapping`):
            - `metrics` (`dict`): the content of a `metrics.json` with any rankers; with several seeds their figures
              are spreads. `comparisons`, if there, hold the paired differences.
            - `curves` (`dict[str, Sequence[float]]`, *optional*): ranker to `recall@k` for k = 1 .. kmax.

    Raises:
        [`~mera_hf.errors.InputError`]: if the metrics do not fit the schema.
    """
    metrics = report["metrics"]
    validate_metrics(metrics)
    pictures = {"quality": quality_picture(metrics)} | difference_pictures(metrics)
    if report.get("curves"):
        pictures["recall"] = recall_picture(report["curves"])
    content = {
        "rankers": sections.rankers_section(metrics),
        "quality": sections.quality_section(metrics),
        "comparisons": sections.comparisons_section(metrics),
        "intervals": sections.intervals_section(metrics),
        "run": sections.run_section(metrics),
        "limits": LIMITS,
    }
    names = [title_of(name) for name in metrics["rankers"]]
    return render_page(
        "comparison.html.jinja", metrics, content, pictures, names=names, claim=comparison_sentence(metrics)
    )


def write_comparison_report(report: Mapping, path: str | Path) -> None:
    """Write [`render_comparison_report`]'s page to `path`, whole or not at all."""
    write_text(render_comparison_report(report), path)


def comparison_sentence(metrics: Mapping) -> str:
    """Which ranker finds most of the true codes among its first 20, and from which others it can be told apart."""
    recalls = {name: figures["recall@20"] for name, figures in metrics["rankers"].items() if "recall@20" in figures}
    if not recalls:
        return f"{len(metrics['rankers'])} rankers on the same patients."
    best = max(recalls, key=lambda name: mean_of(recalls[name]))
    text = (
        f"{title_of(best)} finds most: {format_figure('recall@20', recalls[best])} % of a patient's true codes among "
        "its first 20."
    )
    unclear = [
        title_of(entry["b"] if entry["a"] == best else entry["a"])
        for entry in metrics.get("comparisons", ())
        if best in (entry["a"], entry["b"])
        and entry["metric"] == "recall@20"
        and entry.get("interval")
        and entry["interval"][0] <= 0 <= entry["interval"][1]
    ]
    if unclear:
        text += f" Its lead may be chance over {', '.join(unclear)}."
    return text
