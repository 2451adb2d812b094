"""What EOV knows: predicted sizes compared with the true sizes and with how ill the patients are.

Severity is read from the codes of the earlier visits by pycomorb (in the extra `report`): the number of Elixhauser
comorbidities (0 to 31), their van Walraven score, and the Charlson score without points for age, all with the code lists of
Quan et al. 2005 for ICD-9-CM and ICD-10. A data set of categories instead of full codes shows fewer comorbidities,
only those that are whole categories. If the data set has it (MIMIC), the APR-DRG severity of illness of the visit to
be predicted is added: 1 minor to 4 extreme, known only afterwards.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Plot, Row, Table
from mera_hf.evaluation import plots
from mera_hf.evaluation.figures import FEWEST_PATIENTS, TOO_FEW, mean_of
from mera_hf.icd import VERSIONS


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from mera_hf.data.samples import Sample
    from mera_hf.evaluation.rankings.ranked import ModelRanking

SAYS = {
    "eov_probability": "probability of EOV",
    "set_size": "codes above EOV",
    "expected_codes": "expected number of codes",
    "true_size": "true codes",
    "history_codes": "codes in the history",
    "comorbidities": "Elixhauser comorbidities",
    "van_walraven": "van Walraven score",
    "charlson": "Charlson score",
    "drg_severity": "DRG severity of the visit",
}
OF_MODEL = ("eov_probability", "set_size", "expected_codes")
MISSING = "The comorbidity scores need pycomorb, which is not installed: pip install 'mera_hf[report]'"


def eov_measures(ranking: ModelRanking) -> dict[str, np.ndarray]:
    """`eov_probability`, EOV's share of the softmax over codes and EOV, and `expected_codes`, summed probabilities."""
    import torch

    eov, logits, probabilities = map(torch.from_numpy, (ranking.eov_logits, ranking.logits, ranking.probabilities))
    return {
        "eov_probability": (eov - logits.logsumexp(-1)).sigmoid().numpy(),
        "expected_codes": probabilities.sum(-1).numpy(),
    }


def history_sizes(samples: Sequence[Sample]) -> np.ndarray:
    """How many codes each sample's history has, each counted once; shape (samples,)."""
    import numpy as np

    return np.array([len(sample.known) for sample in samples])


def comorbidities(samples: Sequence[Sample], codes: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Comorbidities of each sample's history: `comorbidities` (Elixhauser, their number), `van_walraven` and `charlson`
    (scores), each of shape (samples,); `None` without pycomorb.

    Args:
        samples (`Sequence[Sample]`): see `prediction_samples`.
        codes (`Sequence[str]`): the candidate space of the samples, such as `ICD9CM:428.0`.
    """
    if importlib.util.find_spec("pycomorb") is None:
        return None
    import polars as pl
    from pycomorb import comorbidity

    version, code = zip(*(name.split(":") for name in codes), strict=True)
    rows = [(row, index) for row, sample in enumerate(samples) for index in sample.known or [None]]
    frame = pl.DataFrame(
        {
            "row": [row for row, _ in rows],
            "code": [None if index is None else code[index] for _, index in rows],
            "version": [f"ICD-{VERSIONS[version[index or 0]].number}" for _, index in rows],
            "age": [None] * len(rows),  # no points for age
        },
        schema={"row": pl.Int64, "code": pl.String, "version": pl.String, "age": pl.Float64},
    )
    columns = {"id_col": "row", "code_col": "code", "icd_version": "icd9_10", "icd_version_col": "version"}
    elixhauser = comorbidity("elixhauser", frame, **columns, return_categories=True).sort("row")
    charlson = comorbidity("charlson", frame, **columns, age_col="age").sort("row")
    score = "Elixhauser Comorbidity Index"
    return {
        "comorbidities": elixhauser.select(pl.sum_horizontal(pl.exclude("row", score))).to_series().to_numpy(),
        "van_walraven": elixhauser[score].to_numpy(),
        "charlson": charlson["Charlson Comorbidity Index"].to_numpy(),
    }


def target_severity(rows: Dataset | Sequence[dict], samples: Sequence[Sample]) -> np.ndarray | None:
    """APR-DRG severity of illness of the visits to be predicted, for analysis only: no ranker reads it.

    Args:
        rows (`datasets.Dataset` or `Sequence[dict]`): the visits dataset that the samples were made of.
        samples (`Sequence[Sample]`): see `prediction_samples`.

    Returns:
        float array of shape (samples,), 1 minor to 4 extreme, nan where unknown; `None` if no visit has it.
    """
    import numpy as np

    if "drg_severity" not in rows[samples[0].patient]["visits"][0]:
        return None
    targets = (rows[sample.patient]["visits"][len(sample.history)] for sample in samples)
    severity = np.array([target["drg_severity"] for target in targets], dtype=float)  # `None` becomes nan
    return None if np.isnan(severity).all() else severity


def spearman(a: np.ndarray, b: np.ndarray) -> dict | None:
    """Spearman's rank correlation `rho` with its 95 % `interval`, by Fisher's z with the standard error of Bonett and Wright
    (2000), sqrt((1 + rho^2 / 2) / (n - 3)). `None` if a side is constant, or with fewer than 10 patients.
    """
    import numpy as np
    from scipy import stats

    if len(a) < FEWEST_PATIENTS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    rho = float(np.clip(stats.spearmanr(a, b).statistic, -1, 1))
    if abs(rho) > 1 - 1e-12:
        return {"rho": round(rho), "interval": [round(rho), round(rho)]}
    half = stats.norm.ppf(0.975) * ((1 + rho**2 / 2) / (len(a) - 3)) ** 0.5
    return {"rho": rho, "interval": [float(end) for end in np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])]}


def severity_figures(measures: dict[str, np.ndarray]) -> dict[str, Any]:
    """Correlations of the model's measures with the true sizes and with severity, and means by comorbidities.

    Args:
        measures (`dict[str, np.ndarray]`): arrays of shape (patients,) under names of [`SAYS`]; the comorbidity scores and
            `drg_severity` may be missing, and `drg_severity` may be nan.

    Returns:
        `dict`: `correlations`, from each of the model's measures to the others as [`spearman`] has them; `groups` by number
        of Elixhauser comorbidities, the last group open-ended: `comorbidities`, `patients`, and with at least 10
        patients the means `set_size`, `expected_codes`, `true_size` and `eov_probability`; `missing`, how to install
        pycomorb if it is not there. With `drg_severity` (its correlations use the patients that have it), also
        `known`, their number as `{"drg_severity": n}`, and `drg_groups`, see [`drg_groups`].
    """
    import numpy as np

    others = [name for name in SAYS if name in measures and name not in ("eov_probability", "expected_codes")]
    known = {other: ~np.isnan(measures[other]) for other in others}
    figures: dict[str, Any] = {
        "correlations": {
            name: {
                other: spearman(measures[name][known[other]], measures[other][known[other]])
                for other in others
                if other != name
            }
            for name in OF_MODEL
        }
    }
    if "drg_severity" in measures:
        figures["known"] = {"drg_severity": int(known["drg_severity"].sum())}
        figures["drg_groups"] = drg_groups(measures["drg_severity"], measures)
    if "comorbidities" not in measures:
        return figures | {"missing": MISSING}
    return figures | {"groups": groups_by("comorbidities", measures["comorbidities"], measures)}


def groups_by(name: str, number: np.ndarray, measures: dict[str, np.ndarray]) -> list[dict]:
    """Means of measures by a number of each patient.

    Args:
        name (`str`): what the number counts.
        number (`np.ndarray` of shape (patients,), int): 0 or more.
        measures (`dict[str, np.ndarray]`): as in [`severity_figures`].

    Returns:
        `list[dict]`: for 0, 1, 2 ..., the last group open-ended: `{name: "3" or "3+", "patients": n}`, and with at
        least 10 patients the means `set_size`, `expected_codes`, `true_size` and `eov_probability`.
    """
    import numpy as np

    at_least = np.bincount(number)[::-1].cumsum()[::-1]  # patients with that number or more
    last = max(int((at_least >= FEWEST_PATIENTS).sum()) - 1, 0)
    groups = []
    for value in range(last + 1):
        chosen = number >= value if value == last else number == value
        group = {name: f"{value}+" if value == last else str(value), "patients": int(chosen.sum())}
        if chosen.sum() >= FEWEST_PATIENTS:
            means = ("set_size", "expected_codes", "true_size", "eov_probability")
            group |= {each: float(measures[each][chosen].mean()) for each in means}
        groups.append(group)
    return groups


def drg_groups(severity: np.ndarray, measures: dict[str, np.ndarray]) -> list[dict]:
    """[`groups_by`] for DRG severity, "1" to "4" under `drg_severity`, over the patients that have one.

    Args:
        severity (`np.ndarray` of shape (patients,)): 1 to 4, or nan.
        measures (`dict[str, np.ndarray]`): as in [`severity_figures`].
    """
    import numpy as np

    known = ~np.isnan(severity)
    groups = groups_by(
        "drg_severity", severity[known].astype(int), {name: values[known] for name, values in measures.items()}
    )
    # There is no severity 0, and none above 4
    return [group | {"drg_severity": group["drg_severity"].replace("4+", "4")} for group in groups[1:]]


def measure_title(measure: str, known: dict[str, int]) -> str:
    """A measure in words, with the number of patients if not all have it: `DRG severity of the visit (n 812)`."""
    if measure not in known:
        return SAYS[measure]
    n = f"{known[measure]:,}" if known[measure] >= FEWEST_PATIENTS else TOO_FEW
    return f"{SAYS[measure]} (n {n})"


LABEL, HEADING = "Severity", "Does EOV know how ill a patient is?"
CAPTION = "Codes above EOV, true codes and the sum of all probabilities, by"
GROUPS = {  # plot: the groups, what they count in a sentence, one of them in words, and the end of the caption
    "severity": (
        "groups",
        "number of comorbidities",
        "{comorbidities} comorbidities",
        "comorbidities in the history. Where a data set has categories in place of full codes, only comorbidities "
        "that are whole categories are seen.",
    ),
    "drg_severity": (
        "drg_groups",
        SAYS["drg_severity"],
        "severity {drg_severity}",
        "the severity of illness of the visit's APR-DRG.",
    ),
}


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    metrics = report["metrics"]
    found = table(metrics)
    if found is None:
        return []
    severity = metrics["calibration"]["severity"]
    lead = (
        "What the model says of a visit's size beside how many codes were true, and beside how ill the patient was by the "
        "earlier visits"
    )
    if has_drg(metrics):
        lead += (
            " and by the DRG severity of the visit itself, which is coded after discharge and which no ranker reads "
            "(1 minor, 2 moderate, 3 major, 4 extreme; correlations over the n patients that have it)"
        )
    lead += "." + (f" {severity['missing']}" if "missing" in severity else "")
    return [Paragraph(lead), *_plots(severity), found]


def _plots(severity: Mapping[str, Any]) -> list[Plot]:
    shown = []
    for name, (part, by, title, caption) in GROUPS.items():
        groups = severity.get(part, ())
        measured = [group for group in groups if "set_size" in group]
        if len(measured) > 1:
            ends = "; ".join(
                f"{title.format(**group)}: {group['set_size']:.1f} codes above EOV, {group['true_size']:.1f} true"
                for group in (measured[0], measured[-1])
            )
            figure = plots.severity_plot(groups, "comorbidities" if part == "groups" else name)
            told = f"Line plot of codes per patient by {by}. {ends[0].upper()}{ends[1:]}."
            shown.append(Plot(name, figure, told, f"{CAPTION} {caption}"))
    return shown


def has_drg(metrics: Mapping[str, Any]) -> bool:
    """Whether DRG severity is one of the measures."""
    return "drg_severity" in metrics.get("calibration", {}).get("severity", {}).get("known", {})


def table(metrics: Mapping[str, Any]) -> Table | None:
    """Correlations of the model's measures with the true sizes and with severity."""
    if "calibration" not in metrics:
        return None
    severity = metrics["calibration"]["severity"]
    caption = "Rank correlations (Spearman) of what the model says, with 95 % intervals"
    rows = correlation_rows(severity["correlations"], severity.get("known", {}))
    return Table(caption, ["with", *(SAYS[name] for name in severity["correlations"])], rows)


def correlation_rows(correlations: dict, known: dict[str, int]) -> list[Row]:
    """Rows of correlations from `severity_figures`: each other measure, with one text per measure of the model."""
    others = [name for name in SAYS if any(name in row for row in correlations.values())]
    return [
        Row(
            measure_title(other, known),
            [_correlation(row.get(other)) if other != name else "" for name, row in correlations.items()],
        )
        for other in others
    ]


def _correlation(value: dict | None) -> str:
    if value is None:
        return "–"
    rho, low, high = (
        f"{round(number, 2) + 0.0:.2f}" for number in (mean_of(value["rho"]), *value["interval"])
    )  # no -0.00
    return f"{rho} ({low} to {high})"
