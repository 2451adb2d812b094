"""What sets of a known coverage cover, on patients not used to fit their thresholds, see `conformal`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Row, Table
from mera_hf.evaluation.bootstrap import mean_interval
from mera_hf.evaluation.conformal import KINDS


if TYPE_CHECKING:
    import numpy as np

LABEL, HEADING = "Known coverage", "Sets of a known coverage"
COVERED = {
    "codes": "true codes in the set, mean over patients",
    "visits": "patients with all true codes in the set",
}


def measure(shares: np.ndarray, truth: np.ndarray, thresholds: dict) -> dict[str, Any]:
    """What sets with fitted thresholds cover, on patients not used for fitting.

    Args:
        shares, truth (`np.ndarray` of shape (patients, codes)): as in [`~mera_hf.evaluation.conformal.conformal_thresholds`].
        thresholds (`dict`): from `conformal_thresholds`.

    Returns:
        `dict`: `patients_fitted`, and for each kind and level `threshold`, `nominal`, `reached`, its 95 % `interval` (exact
        binomial for visits, bootstrap over patients for codes), `standard_error` (of `reached - nominal`, from the patients
        fitted on and those measured), `mean_size` and `sizes`, the 5th, 50th and 95th percentile over patients.
    """
    import numpy as np
    from scipy import stats

    n, fitted = len(shares), thresholds["patients"]
    result: dict[str, Any] = {"patients_fitted": fitted}
    for kind in KINDS:
        result[kind] = {}
        for level, threshold in thresholds[kind].items():
            inside = shares >= np.float32(threshold)  # (patients, codes)
            sizes = inside.sum(axis=1)
            covered = (inside & truth).sum(axis=1) / truth.sum(axis=1)  # (patients,)
            if kind == "visits":
                covered = covered == 1
                exact = stats.binomtest(int(covered.sum()), n).proportion_ci(method="exact")
                interval = [float(exact.low), float(exact.high)]
            else:
                interval = mean_interval(covered, 0)
            result[kind][level] = {
                "threshold": threshold,
                "nominal": float(level),
                "reached": float(covered.mean()),
                "interval": interval,
                "standard_error": float(covered.std() * (1 / n + 1 / fitted) ** 0.5),
                "mean_size": float(sizes.mean()),
                "sizes": [float(size) for size in np.quantile(sizes, [0.05, 0.5, 0.95])],
            }
    return result


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    found = table(report["metrics"])
    if found is None:
        return []
    fitted = report["metrics"]["calibration"]["conformal"]["patients_fitted"]
    lead = (
        "Conformal sets are made large enough to hold a given share of the true codes: for patients like the "
        f"{fitted:,} validation patients that their thresholds were fitted on, whatever the model. The promise is an average "
        "over patients. It does not hold for each kind of patient, nor at another hospital or in another year."
    )
    note = (
        "Codes in the set: the mean, and the 5th to 95th percentile. The interval is that of the patients measured here. The "
        "standard error also counts that the thresholds were fitted on so many patients and no more: within two of "
        "them of the first column, the promise is kept."
    )
    return [Paragraph(lead), found, Paragraph(note, "muted")]


def table(metrics: Mapping[str, Any]) -> Table | None:
    """One row for each kind and level of coverage."""
    conformal = metrics.get("calibration", {}).get("conformal", {})
    rows = [
        Row(
            COVERED[kind],
            [
                f"{100 * entry['nominal']:g}",
                f"{100 * entry['reached']:.1f} ({' to '.join(f'{100 * end:.1f}' for end in entry['interval'])})",
                f"{100 * entry['standard_error']:.1f}",
                f"{entry['mean_size']:.0f} ({entry['sizes'][0]:.0f} to {entry['sizes'][2]:.0f})",
            ],
        )
        for kind in COVERED
        for entry in conformal.get(kind, {}).values()
    ]
    headings = ["sets made to hold", "at least", "reached (95 % interval)", "standard error", "codes in the set"]
    return Table("Conformal sets, percent", headings, rows) if rows else None


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What the sets cover, in one line."""
    conformal = metrics.get("calibration", {}).get("conformal")
    if not conformal:
        return []
    entries = conformal["codes"].values()
    nominal = ", ".join(f"{100 * entry['nominal']:g}" for entry in entries)
    reached = ", ".join(f"{100 * entry['reached']:.1f}" for entry in entries)
    sizes = ", ".join(f"{entry['mean_size']:.0f}" for entry in entries)
    return [f"sets made to hold {nominal} % of the true codes hold {reached} %, with {sizes} codes in a set"]
