"""What an evaluation and a comparison write into a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import markdown_table, plots_of
from mera_hf.evaluation import plots
from mera_hf.evaluation.figures import ranker_table
from mera_hf.evaluation.rankings.files import write_rankings
from mera_hf.evaluation.results import write_metrics
from mera_hf.files import whole_file, write_text
from mera_hf.report.comparisons import comparison_markdown
from mera_hf.report.page import render_comparison, render_report, report_sections


if TYPE_CHECKING:
    from mera_hf.evaluation.compare import Comparison
    from mera_hf.evaluation.evaluate import Evaluation


def write_evaluation(evaluation: Evaluation, folder: str | Path) -> list[str]:
    """Write `metrics.json`, `table.md`, `report.html` and `plots/` into `folder`, and `rankings.parquet` if there are
    rankings (else one from an earlier evaluation is removed); return the names written.

    Report and plots need matplotlib, jinja2 and at least 20 codes, as there is no recall@20 with fewer.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(evaluation.metrics, folder / "metrics.json")
    write_text(markdown_table(ranker_table(evaluation.metrics)) + "\n", folder / "table.md")
    written = ["metrics.json", "table.md"]
    (folder / "rankings.parquet").unlink(missing_ok=True)
    if evaluation.rankings:
        write_rankings(folder / "rankings.parquet", **evaluation.rankings)
        written.append("rankings.parquet")
    if not plots.installed() or "recall@20" not in evaluation.metrics["rankers"]["mera"]:
        return written
    write_report(evaluation.report, folder / "report.html")
    write_plots(evaluation.report, folder / "plots", formats=("png",))
    return [*written, "report.html", "plots/"]


def write_comparison(comparison: Comparison, folder: str | Path) -> list[str]:
    """Write `metrics.json`, `table.md` and `compare.html` into `folder`; return the names written.

    The page needs matplotlib and jinja2.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(comparison.metrics, folder / "metrics.json")
    write_text(comparison_markdown(comparison.metrics) + "\n", folder / "table.md")
    if not plots.installed():
        return ["metrics.json", "table.md"]
    write_text(render_comparison(comparison.report), folder / "compare.html")
    return ["metrics.json", "table.md", "compare.html"]


def write_report(report: Mapping[str, Any], path: str | Path) -> None:
    """Write [`~mera_hf.report.page.render_report`]'s page to `path`, whole or not at all."""
    write_text(render_report(report), path)


def write_plots(report: Mapping[str, Any], folder: str | Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a report's plots as files, for model cards and READMEs: on white, 200 dots per inch.

    Args:
        report (`Mapping`): as [`~mera_hf.report.page.report_sections`] takes it.
        folder (`str` or `Path`): made if it is not there; plots of the same name are replaced.

    Returns:
        `list[Path]`: `recall.png`, `quality.png` and so on in the order of the page, as far as the report has data,
        and the same for the other formats.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in (plot for section in report_sections(report) for plot in plots_of(section.blocks)):
        for suffix in formats:
            path = folder / f"{plot.name}.{suffix}"
            with whole_file(path) as unfinished:
                plots.save(plot.figure, unfinished, suffix)
            paths.append(path)
    return paths
