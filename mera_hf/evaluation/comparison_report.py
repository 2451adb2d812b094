"""The page of `mera compare`: rankers side by side, complete in itself and readable without a network."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from mera_hf.evaluation import plots
from mera_hf.evaluation.comparison_tables import differences
from mera_hf.evaluation.results import COLUMNS, MORE_COLUMNS, TITLES, table_rows, write_text


def write_comparison_report(report: dict, path: str | Path) -> None:
    """Write the page, whole or not at all.

    Args:
        report (`dict`):
            - `metrics` (`dict`): the content of the `metrics.json` of a comparison.
            - `curves` (`dict[str, Sequence[float]]`): ranker to `recall@k` for k = 1 .. kmax.
        path (`str` or `Path`): where to.

    Raises:
        [`~mera_hf.errors.InputError`]: without jinja2 or matplotlib.
    """
    plots.require_package("jinja2")
    import jinja2

    metrics, curves = report["metrics"], report["curves"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    tables = []
    for headings in (COLUMNS, MORE_COLUMNS):
        columns, rows = table_rows(metrics, headings)
        tables.append(([headings[column] for column in columns], rows))
    first = next(iter(metrics["rankers"]))
    ends = ", ".join(f"{plots.title_of(name)} {100 * curve[-1]:.1f} %" for name, curve in curves.items())
    page = environment.get_template("compare.html.jinja").render(
        metrics=metrics,
        tables=tables,
        first=TITLES.get(first, first),
        differences=differences(metrics),
        plots=[
            (_image(plots.recall_plot(curves)), f"Line plot of recall at k. At the largest k: {ends}."),
            (_image(plots.quality_plot(metrics)), "Dot plots of the first table, one panel per measure."),
        ],
    )
    write_text(page, path)


def _image(figure) -> str:
    """The figure as an address that holds the picture itself."""
    file = io.StringIO()
    plots.save(figure, file, "svg")
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode()
