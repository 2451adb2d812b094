"""The report as one HTML page: sections, pictures and the page's own `metrics.json`, put into templates."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.evaluation.plots import require_package
from mera_hf.evaluation.report import sections, strata
from mera_hf.evaluation.report.calibration import calibration_sections
from mera_hf.evaluation.report.pictures import Picture, draw_pictures
from mera_hf.evaluation.report.svg import inline_svg
from mera_hf.evaluation.report.words import LIMITS, headline
from mera_hf.evaluation.results import metrics_text, validate_metrics, write_text


TEMPLATES = Path(__file__).parent / "templates"

# The sections in the order of the page, with their names in the table of contents; each has a template of its name.
CONTENTS = {
    "rankers": "All rankers",
    "quality": "Ranking quality",
    "findings": "What to change",
    "intervals": "How sure",
    "strata": "Groups of patients and codes",
    "fairness": "Fairness gaps",
    "coarse": "Coarser labels",
    "distance": "Wrong codes",
    "heart_failure": "Heart failure",
    "calibration": "Calibration",
    "coverage": "Known coverage",
    "severity": "Severity",
    "controls": "Controls",
    "comparisons": "Paired comparisons",
    "set_sizes": "Size of the sets",
    "patient": "One patient",
    "run": "How it was run",
    "limits": "Limits",
}


def render_report(report: Mapping) -> str:
    """The report as one HTML page, with its plots inside and without anything to load.

    Args:
        report (`Mapping`):
            - `metrics` (`dict`): the content of a `metrics.json`, with `mera` and at least one reference ranker.
            - `curves` (`dict[str, Sequence[float]]`, *optional*): ranker to `recall@k` for k = 1 .. kmax, from
              `recall_curve`.
            - `sets` (`dict`, *optional*): MERA's `predicted` and the `true` set sizes, each a sequence over patients.
            - `example` (`dict`, *optional*): from [`~mera_hf.evaluation.report.example.example_patient`], and
              `reordered`, the number of codes that a calibration put in another order than that of their logits; for
              open data only.

    Raises:
        [`~mera_hf.errors.InputError`]: if the metrics do not fit the schema, or hold no `mera` or no reference ranker:
            a figure without a reference beside it says nothing.
    """
    metrics = report["metrics"]
    validate_metrics(metrics)
    references = [name for name in metrics["rankers"] if name != "mera"]
    if "mera" not in metrics["rankers"] or not references:
        raise InputError(
            "A report needs `rankers.mera` and at least one reference ranker beside it, but `rankers` has "
            f"{', '.join(metrics['rankers'])}."
        )
    for name, figures in metrics["rankers"].items():
        if "recall@20" not in figures:
            raise InputError(f"A report needs recall@20 of every ranker, but `rankers.{name}` lacks it.")
    content = {
        "rankers": sections.rankers_section(metrics),
        "quality": sections.quality_section(metrics),
        "findings": None if metrics.get("findings") is None else {"findings": metrics["findings"]},
        "intervals": sections.intervals_section(metrics),
        "strata": strata.strata_section(metrics),
        "fairness": strata.fairness_section(metrics),
        "coarse": sections.coarse_section(metrics),
        "distance": sections.distance_section(metrics),
        "heart_failure": sections.heart_failure_section(metrics),
        "controls": sections.controls_section(metrics),
        "comparisons": sections.comparisons_section(metrics),
        "set_sizes": sections.set_sizes_section(report.get("sets")),
        "patient": report.get("example"),
        "run": sections.run_section(metrics),
        "limits": LIMITS,
        **calibration_sections(metrics),
    }
    return render_page("report.html.jinja", metrics, content, draw_pictures(report), headline=headline(metrics))


def write_report(report: Mapping, path: str | Path) -> None:
    """Write [`render_report`]'s page to `path`, whole or not at all."""
    write_text(render_report(report), path)


def render_page(template: str, metrics: Mapping, content: Mapping, pictures: Mapping[str, Picture], **words) -> str:
    """Fill a page's template with the sections that have content; each finds its own under `section`.

    Args:
        template (`str`):
            File of `templates/`.
        metrics (`Mapping`):
            The content of a `metrics.json`, which the page offers for download.
        content (`Mapping`):
            Section to what its template needs, in any order; sections without content are left out.
        pictures (`Mapping[str, Picture]`):
            Plots by name.
        words:
            Whatever else the template needs.
    """
    require_package("jinja2")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(
        metrics=metrics,
        download=base64.b64encode(metrics_text(metrics).encode()).decode(),
        contents={name: label for name, label in CONTENTS.items() if content.get(name)},
        content=content,
        pictures={name: (inline_svg(figure, name), text) for name, (figure, text) in pictures.items()},
        **words,
    )
