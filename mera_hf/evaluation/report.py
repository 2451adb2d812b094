"""The report: `metrics.json` as one HTML page for people, complete in itself and readable without a network."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.samples import Sample
from mera_hf.errors import InputError
from mera_hf.evaluation import plots
from mera_hf.evaluation.controls import control_sentences
from mera_hf.evaluation.report_calibration import calibration_words
from mera_hf.evaluation.results import (
    COLUMNS,
    SIZE_METRICS,
    format_figure,
    mean_of,
    table_rows,
    validate_metrics,
    write_text,
)


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

# What each column of the table means, in words for readers who do not know the field.
MEANINGS = {
    "weighted_f1": "Weighted F1 when each patient's prediction is as long as the true set. It knows the true size, as "
    "the field's papers do, and so says nothing about EOV.",
    "weighted_f1_eov": "Weighted F1 of the set that the ranker itself chose: for MERA the codes above the "
    "end-of-visit token (EOV), for the others the codes above a threshold fitted on validation patients.",
    "recall@10": "Of a patient's true codes, the share among the first 10 of the ranking, averaged over patients.",
    "recall@20": "The same among the first 20.",
    "recall@40": "The same among the first 40.",
    "repeated_recall@20": "The part of R@20 that the patient's history already held: what copying can find.",
    "new_recall@20": "The part of R@20 that is new to the patient. The two parts add up to R@20.",
    "mean_set_size": "Codes in the chosen set, per patient.",
}
LIMITS = (
    "Not for clinical decisions: a research result on past records, without any clinical validation.",
    "Recorded codes are what was billed or documented, which is not the same as what a patient had.",
    "The figures hold for this data set, this split and these candidate codes, not for another hospital.",
    "A code that copying already finds (R@20, repeated) is little news to a clinician; the new part is harder.",
)


def example_patient(
    order: np.ndarray,
    probabilities: np.ndarray,
    set_sizes: np.ndarray,
    samples: Sequence[Sample],
    codes: Sequence[str],
    descriptions: Sequence[str],
    top: int = 10,
) -> dict:
    """Choose a patient by a fixed rule, not by how well they look, and describe the ranking for the report.

    The rule: among the patients with three earlier visits or more and with both repeated and new true codes (all
    patients if there are none), the first whose recall@20 is the median.

    Args:
        order (`np.ndarray` of shape (patients, K)):
            Rankings, K the number of candidate codes, so that every true code has a rank.
        probabilities (`np.ndarray` of shape (patients, codes)):
            In the order of `codes`, not of the ranking.
        set_sizes (`np.ndarray` of shape (patients,)):
            Codes above EOV.
        samples (`Sequence[Sample]`): the rows' samples.
        codes (`Sequence[str]`): the candidate space.
        descriptions (`Sequence[str]`): of `codes`.
        top (`int`, defaults to 10): codes to show before the true codes that come later.

    Returns:
        `dict`: `profile`, `visits` (codes per earlier visit), `set_size`, `true_size`, `ranking` (the first `top`
        entries) and `missed` (later true codes); an entry has `rank` (from 1), `code`, `description`, `probability`,
        `true` and `repeated`. No identifier of the patient.
    """
    import numpy as np

    history = [{code for visit in sample.history for code in visit} for sample in samples]
    mixed = [
        row
        for row, sample in enumerate(samples)
        if len(sample.history) >= 3 and 0 < len(history[row].intersection(sample.target)) < len(sample.target)
    ] or list(range(len(samples)))
    recalls = [np.isin(samples[row].target, order[row, :20]).mean() for row in mixed]
    chosen = mixed[recalls.index(np.sort(recalls)[len(recalls) // 2])]
    sample = samples[chosen]
    entries = [
        {
            "rank": rank,
            "code": codes[code],
            "description": descriptions[code],
            "probability": float(probabilities[chosen, code]),
            "true": code in sample.target,
            "repeated": code in history[chosen],
        }
        for rank, code in enumerate(order[chosen].tolist(), start=1)
    ]
    return {
        "profile": {key: sample.profile.get(key) for key in ("sex", "age")},
        "visits": [[codes[code] for code in visit] for visit in sample.history],
        "set_size": int(set_sizes[chosen]),
        "true_size": len(sample.target),
        "ranking": entries[:top],
        "missed": [entry for entry in entries[top:] if entry["true"]],
    }


def render_report(report: dict) -> str:
    """The report as one HTML page, with its plots inside and without anything to load.

    Args:
        report (`dict`):
            - `metrics` (`dict`): the content of a `metrics.json`, with `mera` and at least one reference ranker.
            - `curves` (`dict[str, Sequence[float]]`): ranker to `recall@k` for k = 1 .. kmax, from `recall_curve`.
            - `sets` (`dict`, *optional*): MERA's `predicted` and the `true` set sizes, each a sequence over patients.
            - `example` (`dict`, *optional*): from [`example_patient`], and `reordered`, the number of codes that a
              calibration put in another order than that of their logits; for open data only.

    Raises:
        [`~mera_hf.errors.InputError`]: if the metrics do not fit the schema, or hold no `mera` or no reference ranker:
            a figure without a reference beside it says nothing.
    """
    plots.require_package("jinja2")
    import jinja2

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
    columns, rows = table_rows(metrics)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.jinja").render(
        metrics=metrics,
        headline=headline(metrics),
        rivals=rivals_sentence(metrics),
        control=_tied(" ".join(control_sentences(metrics))),
        headings=[COLUMNS[column] for column in columns],
        meanings=[(COLUMNS[column], MEANINGS[column]) for column in columns],
        rows=rows,
        n_rankers=len(metrics["rankers"]),
        plots={name: _inline_svg(figure, name) for name, figure in plots.draw_plots(report).items()},
        alternatives=_alternatives(report),
        sets=_set_summary(report.get("sets")),
        example=report.get("example"),
        calibration=calibration_words(metrics),
        limits=LIMITS,
        run=_run_rows(metrics),
    )


def write_report(report: dict, path: str | Path) -> None:
    """Write [`render_report`]'s page to `path`, whole or not at all."""
    write_text(render_report(report), path)


def headline(metrics: dict) -> dict[str, str]:
    """The result in plain words: `figure` (percent of true codes among the first 20), `claim` and `context`."""
    rankers = metrics["rankers"]
    value = rankers["mera"]["recall@20"]
    others = {name: mean_of(figures["recall@20"]) for name, figures in rankers.items() if name != "mera"}
    strongest = max(others, key=others.get)
    lead = 100 * (mean_of(value) - others[strongest])
    if round(lead, 1) > 0:
        verdict = f"{lead:.1f} points more than the strongest reference ranker, {plots.title_of(strongest)}"
    elif round(lead, 1) < 0:
        verdict = f"{-lead:.1f} points less than {plots.title_of(strongest)}, which is the better ranker here"
    else:
        verdict = f"as many as {plots.title_of(strongest)}, the strongest reference ranker"
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
    if "weighted_f1_eov" in rankers["mera"]:
        f1 = format_figure("weighted_f1_eov", rankers["mera"]["weighted_f1_eov"])
        size = format_figure("mean_set_size", rankers["mera"]["mean_set_size"])
        true_size = format_figure("mean_true_size", rankers["mera"]["mean_true_size"])
        context.append(
            f"Where MERA itself decides how many codes to name, it names {size} per patient ({true_size} were "
            f"true) with a weighted F1 of {f1} %."
        )
    figure = f"{100 * mean_of(value):.1f} %"
    return {"figure": figure, "claim": _tied(claim), "context": _tied(" ".join(context))}


def rivals_sentence(metrics: dict) -> str:
    """Which reference rankers are ahead of MERA, and in what."""
    rankers = metrics["rankers"]
    ahead: dict[str, list[str]] = {}
    for column, heading in COLUMNS.items():
        values = {name: mean_of(figures[column]) for name, figures in rankers.items() if column in figures}
        if column in SIZE_METRICS or "mera" not in values:
            continue
        best = max(values, key=values.get)
        if values[best] > values["mera"]:
            ahead.setdefault(plots.title_of(best), []).append(heading)
    if not ahead:
        return "No reference ranker is ahead of MERA in any column."
    return "Ahead of MERA: " + "; ".join(f"{title} in {', '.join(columns)}" for title, columns in ahead.items()) + "."


def _tied(text: str) -> str:
    """No line break within a figure."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def _run_rows(metrics: dict) -> list[tuple[str, str]]:
    dataset, protocol, run = metrics["dataset"], metrics["protocol"], metrics["run"]

    def text(value: object, unit: str = "") -> str:
        if value is None:
            return "not recorded"
        if isinstance(value, dict):
            return f"{value['mean']:,.0f} ± {value['std']:,.0f}{unit}"
        if isinstance(value, list):
            return ", ".join(map(str, value))
        return f"{value:,.0f}{unit}" if isinstance(value, int | float) and unit else f"{value}"

    versions = run["versions"] or {}
    return [
        ("Data", f"{dataset['name']}, {dataset['split']} split, fingerprint {dataset['fingerprint']}"),
        ("Patients, candidate codes", f"{dataset['patients']:,} patients, {dataset['codes']:,} codes"),
        ("Protocol", "; ".join(f"{key}: {value}" for key, value in protocol.items())),
        ("Recipe", text(run["recipe"])),
        ("Seeds" if isinstance(run["seed"], list) else "Seed", text(run["seed"])),
        ("Time", text(run["seconds"], " s")),
        ("Peak memory", text(run["peak_memory_mb"], " MB")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"),
    ]


def _set_summary(sets: dict | None) -> dict | None:
    if not sets:
        return None
    import numpy as np

    predicted, true = np.asarray(sets["predicted"]), np.asarray(sets["true"])
    return {
        "predicted": f"{predicted.mean():.1f}",
        "true": f"{true.mean():.1f}",
        "empty": f"{100 * (predicted == 0).mean():.1f}",
        "larger": f"{100 * (predicted > true).mean():.0f}",
        "smaller": f"{100 * (predicted < true).mean():.0f}",
    }


def _alternatives(report: dict) -> dict[str, str]:
    """What each plot shows, in words for readers who do not see it."""
    curves, rankers = report["curves"], report["metrics"]["rankers"]
    kmax = len(next(iter(curves.values())))
    ends = ", ".join(f"{plots.title_of(name)} {100 * curve[-1]:.1f} %" for name, curve in curves.items())
    texts = {
        "recall": f"Line plot of recall at k for k from 1 to {kmax}. At k = {kmax}: {ends}.",
        "quality": f"Dot plots of the table above, one panel per measure, for {len(rankers)} rankers.",
    }
    sets = _set_summary(report.get("sets"))
    if sets:
        texts["set_sizes"] = (
            f"Histogram and heat map of set sizes: {sets['predicted']} codes above EOV on average against "
            f"{sets['true']} true codes; {sets['larger']} % of the sets are larger than the true ones, "
            f"{sets['smaller']} % smaller."
        )
    example = report.get("example")
    if example:
        first = "; ".join(
            f"{entry['code']} {entry['description']}, {100 * entry['probability']:.0f} %{', true' * entry['true']}"
            for entry in example["ranking"]
        )
        texts["patient"] = f"Bar chart of one patient's ranking: {first}. EOV comes after rank {example['set_size']}."
    return texts


def _inline_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element for the page: the page's colours and fonts, ids of its own, no metadata."""
    file = io.StringIO()
    figure.set_facecolor("none")
    plots.save(figure, file, "svg")
    svg = file.getvalue()
    view = re.search(r'viewBox="[^"]*"', svg)[0]
    body = svg[svg.index("</defs>") + len("</defs>") :]  # behind the metadata and the global style
    svg = f'<svg {view} aria-hidden="true">{body}'
    for color in ("INK", "MUTED", "FAINT", "ACCENT", "WARM"):
        svg = svg.replace(getattr(plots, color), f"var(--{color.lower()})")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    used = set(re.findall(r"(?:href=\"#|url\(#)([\w.]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    for reference in used:
        svg = re.sub(rf'(id="|href="#|url\(#){re.escape(reference)}(?=["\)])', rf"\g<1>{name}-{reference}", svg)
    return svg
