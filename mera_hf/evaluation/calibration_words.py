"""The section `calibration` of `metrics.json` in plain words and tables, for the report and the terminal."""

from __future__ import annotations

from mera_hf.evaluation.results import mean_of
from mera_hf.evaluation.severity import SAYS, measure_title


METHODS = {
    "codes": "as the checkpoint gives them",
    "before": "without its calibration",
    "temperature": "a temperature and an EOV offset",
    "softmax": "shares of the softmax",
}
COVERED = {
    "codes": "true codes in the set, mean over patients",
    "visits": "patients with all true codes in the set",
}


def calibration_words(metrics: dict) -> dict | None:
    """What the report says of calibration, coverage and severity; `None` without the section.

    Args:
        metrics (`dict`): the content of a `metrics.json`.

    Returns:
        `dict`: `lead` and `sets` (sentences), `methods`, `coverage` and `severity` (rows of tables, each a title and its
        texts), `measures` (headings of `severity`), `patients_fitted` (of the coverage), `missing` (how to install), `drg`
        (whether DRG severity is one of the measures) and `alternatives` (texts of plots by name).
    """
    section = metrics.get("calibration")
    if section is None:
        return None
    first, before = (section[name]["first"] for name in ("codes", "before"))
    low, high = section["improvement"]["first"]["interval"]
    change = "better" if low > 0 else "worse" if high < 0 else "neither better nor worse than chance would have it"
    lead = (
        f"Among the first 40 codes of each patient, probabilities and what was recorded differ by {_points(first['ece'])} "
        f"percentage points on average (expected calibration error), and by {_points(before['ece'])} without the calibration "
        f"that was fitted on validation: {change} (difference {_points(before['ece'] - first['ece'])}, 95 % interval "
        f"{_points(low)} to {_points(high)})."
    )
    if metrics["dataset"]["split"] == "validation":
        lead += " These are the patients that it was fitted on, so that it looks better than it is."
    sets = None
    if "set" in section:
        parts = section["set"]
        sets = (
            f"By its probabilities, the codes above EOV should hold {parts['expected']:.2f} right ones a patient; they hold "
            f"{parts['actual']:.2f}."
        )
    severity = section["severity"]
    correlations, known = severity["correlations"], severity.get("known", {})
    words = {
        "lead": lead,
        "sets": sets,
        "methods": [
            (METHODS[name], [_points(part[key]) for part in _both(section[name]) for key in ("ece", "brier")])
            for name in METHODS
            if name in section
        ],
        "coverage": [
            (
                COVERED[kind],
                [
                    f"{100 * entry['nominal']:g}",
                    f"{100 * entry['reached']:.1f} ({' to '.join(f'{100 * end:.1f}' for end in entry['interval'])})",
                    f"{100 * entry['standard_error']:.1f}",
                    f"{entry['mean_size']:.0f} ({entry['sizes'][0]:.0f} to {entry['sizes'][2]:.0f})",
                ],
            )
            for kind in COVERED
            for entry in section.get("conformal", {}).get(kind, {}).values()
        ],
        "patients_fitted": section.get("conformal", {}).get("patients_fitted"),
        "measures": [SAYS[name] for name in correlations],
        "severity": correlation_rows(correlations, known),
        "missing": severity.get("missing"),
        "drg": "drg_severity" in known,
    }
    said = ", ".join(
        f"{_points(b['predicted'])} % said, {_points(b['observed'])} % recorded" for b in first["bins"][-3:]
    )
    words["alternatives"] = {"reliability": f"Reliability diagram of the first 40 codes. The likeliest bins: {said}."}
    if sets:
        words["alternatives"]["expected"] = f"Expected against actual right codes in the predicted sets. {sets}"
    for name, by, title, of in (
        ("severity", "number of comorbidities", "{comorbidities} comorbidities", severity.get("groups", ())),
        ("drg_severity", SAYS["drg_severity"], "severity {drg_severity}", severity.get("drg_groups", ())),
    ):
        groups = [group for group in of if "set_size" in group]
        if groups:
            ends = "; ".join(
                f"{title.format(**group)}: {group['set_size']:.1f} codes above EOV, {group['true_size']:.1f} true"
                for group in (groups[0], groups[-1])
            )
            words["alternatives"][name] = f"Line plot of codes per patient by {by}. {ends[0].upper()}{ends[1:]}."
    return words


def correlation_rows(correlations: dict, known: dict[str, int]) -> list[tuple[str, list[str]]]:
    """Rows of the correlations of `severity_figures`: each other measure in words, and its text with each of the model's."""
    others = [name for name in SAYS if any(name in row for row in correlations.values())]
    return [
        (
            measure_title(other, known),
            [_correlation(row.get(other)) if other != name else "" for name, row in correlations.items()],
        )
        for other in others
    ]


def calibration_text(metrics: dict) -> str:
    """Calibration and coverage in a line each, for the terminal."""
    section = metrics["calibration"]
    first, before = (100 * section[name]["first"]["ece"] for name in ("codes", "before"))
    lines = [f"calibration error of the first 40 codes: {first:.2f} points ({before:.2f} before calibration)"]
    conformal = section.get("conformal")
    if conformal:
        entries = conformal["codes"].values()
        nominal = ", ".join(f"{100 * entry['nominal']:g}" for entry in entries)
        reached = ", ".join(f"{100 * entry['reached']:.1f}" for entry in entries)
        sizes = ", ".join(f"{entry['mean_size']:.0f}" for entry in entries)
        lines.append(f"sets made to hold {nominal} % of the true codes hold {reached} %, with {sizes} codes in a set")
    return "\n".join(lines)


def _both(part: dict) -> tuple[dict, dict]:
    return part["first"], part


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _correlation(value: dict | None) -> str:
    if value is None:
        return "–"
    rho, low, high = (
        f"{round(number, 2) + 0.0:.2f}" for number in (mean_of(value["rho"]), *value["interval"])
    )  # no -0.00
    return f"{rho} ({low} to {high})"
