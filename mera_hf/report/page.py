"""The pages of `mera evaluate` and `mera compare`: sections of blocks and the page's `metrics.json`, put into a template."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mera_hf.blocks import Section
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import SIZE_METRICS, format_figure, mean_of, tied, title_of
from mera_hf.evaluation.plots import require_package
from mera_hf.evaluation.results import Metrics, validate_metrics
from mera_hf.evaluation.sections import SECTIONS, calibration, controls, coverage, findings, name_of, patient, severity
from mera_hf.files import json_text
from mera_hf.report import overview
from mera_hf.report.comparisons import comparison_sentence, comparisons
from mera_hf.report.html import section_html


TEMPLATES = Path(__file__).parent / "templates"


def report_sections(report: Mapping[str, Any]) -> list[Section]:
    """The sections of the page of an evaluation, in order; those without content are left out.

    Args:
        report (`Mapping`):
            - `metrics` (`dict`): the content of a `metrics.json`, with `mera` and at least one reference ranker.
            - `curves` (`dict[str, Sequence[float]]`, *optional*): ranker to `recall@k` for k = 1 .. kmax, from
              `recall_curve`.
            - `sets` (`dict`, *optional*): MERA's `predicted` and the `true` set sizes, each a sequence over patients.
            - `example` (`dict`, *optional*): from [`~mera_hf.evaluation.sections.patient.example_patient`], and
              `reordered`, the number of codes that calibration moved out of the order of their logits; for open data
              only.
    """

    def measured(*modules) -> list[Section]:
        return [Section(name_of(each), each.LABEL, each.HEADING, each.blocks(report)) for each in modules]

    sections = [
        overview.rankers(report),
        overview.quality(report),
        *measured(findings),
        overview.intervals(report),
        *measured(*SECTIONS, calibration, coverage, severity, controls),
        comparisons(report),
        overview.set_sizes(report),
        *measured(patient),
        overview.run(report),
        overview.limits(report),
    ]
    return [section for section in sections if section and section.blocks]


def render_report(report: Mapping[str, Any]) -> str:
    """The report as one HTML page, with its plots inside and nothing to load.

    Args:
        report (`Mapping`): as [`report_sections`] takes it.

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
    return _render("report.html.jinja", metrics, report_sections(report), headline=headline(metrics))


def render_comparison(report: Mapping[str, Any]) -> str:
    """The comparison as one self-contained HTML page.

    Args:
        report (`Mapping`):
            - `metrics` (`dict`): the content of a `metrics.json` with any rankers; with several seeds their figures
              are spreads. `comparisons`, if present, holds the paired differences.
            - `curves` (`dict[str, Sequence[float]]`, *optional*): ranker to `recall@k` for k = 1 .. kmax.

    Raises:
        [`~mera_hf.errors.InputError`]: if the metrics do not fit the schema.
    """
    metrics = report["metrics"]
    validate_metrics(metrics)
    sections = [
        overview.rankers(report),
        overview.quality(report),
        overview.intervals(report),
        comparisons(report),
        overview.run(report),
        overview.limits(report),
    ]
    names, claim = map(title_of, metrics["rankers"]), comparison_sentence(metrics)
    return _render("comparison.html.jinja", metrics, filter(None, sections), names=names, claim=claim)


def _render(template: str, metrics: Metrics, sections: Iterable[Section], **words: Any) -> str:
    require_package("jinja2")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    sections = list(sections)
    return environment.get_template(template).render(
        metrics=metrics,
        download=base64.b64encode(json_text(metrics).encode()).decode(),
        contents=[(section.name, section.label) for section in sections],
        sections=map(section_html, sections),
        **words,
    )


def headline(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The result in plain words: `figure` (percent of true codes among the first 20), `claim` and `context`."""
    rankers = metrics["rankers"]
    value = rankers["mera"]["recall@20"]
    others = {name: mean_of(figures["recall@20"]) for name, figures in rankers.items() if name != "mera"}
    strongest = max(others, key=lambda name: others[name])
    lead = 100 * (mean_of(value) - others[strongest])
    if round(lead, 1) > 0:
        verdict = f"{lead:.1f} points more than the strongest reference ranker, {title_of(strongest)}"
    elif round(lead, 1) < 0:
        verdict = f"{-lead:.1f} points less than {title_of(strongest)}, which is the better ranker here"
    else:
        verdict = f"as many as {title_of(strongest)}, the strongest reference ranker"
    claim = (
        f"Of the codes recorded at a patient's next visit, MERA has {format_figure('recall@20', value)} % "
        f"among its first 20: {verdict}."
    )
    context = []
    interval = metrics.get("intervals", {}).get("mera", {}).get("recall@20")
    if interval:
        low, high = (format_figure("recall@20", end) for end in interval)
        context.append(f"Drawing the patients anew (bootstrap) puts it between {low} and {high} % (95 % interval).")
    elif isinstance(value, dict):
        context.append(f"Mean and standard deviation of {len(value['values'])} training runs with different seeds.")
    if "copy_history" in others:
        copied = format_figure("recall@20", rankers["copy_history"]["recall@20"])
        context.append(
            f"Only repeating the codes of earlier visits, the commonest codes after them, finds {copied} %."
        )
    if all(metric in rankers["mera"] for metric in ("weighted_f1_eov", *SIZE_METRICS)):
        f1 = format_figure("weighted_f1_eov", rankers["mera"]["weighted_f1_eov"])
        size = format_figure("mean_set_size", rankers["mera"]["mean_set_size"])
        true_size = format_figure("mean_true_size", rankers["mera"]["mean_true_size"])
        context.append(
            f"Where MERA itself decides how many codes to name, it names {size} per patient ({true_size} were "
            f"true) with a weighted F1 of {f1} %."
        )
    figure = f"{100 * mean_of(value):.1f} %"
    return {"figure": figure, "claim": tied(claim), "context": tied(" ".join(context))}
