"""What EOV knows: the sizes that a model predicts against the true ones and against how ill a patient is.

Severity is read from the codes of the earlier visits by pycomorb (in the extra `report`): the number of Elixhauser
comorbidities (0 to 31), their van Walraven score, and the Charlson score without points for age, all with the code lists of
Quan et al. 2005 for ICD-9-CM and ICD-10. A data set that holds categories in place of full codes shows only the comorbidities
that are whole categories, and so fewer. Where a data set has it (MIMIC), the severity of illness of the APR-DRG of the visit
that was to be predicted stands beside them: 1 minor to 4 extreme, known only afterwards.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.evaluation.small_groups import FEWEST_PATIENTS, TOO_FEW


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from mera_hf.data.samples import Sample
    from mera_hf.modeling_mera import MeraRanking

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


def eov_measures(ranking: MeraRanking) -> dict[str, np.ndarray]:
    """`eov_probability`, that of EOV in the softmax over codes and EOV, and `expected_codes`, the sum of the probabilities."""
    return {
        "eov_probability": (ranking.eov_logits - ranking.logits.logsumexp(-1)).sigmoid().numpy(),
        "expected_codes": ranking.probabilities.sum(-1).numpy(),
    }


def history_sizes(samples: Sequence[Sample]) -> np.ndarray:
    """How many codes each sample's history has, each counted once; shape (samples,)."""
    import numpy as np

    return np.array([len({code for visit in sample.history for code in visit}) for sample in samples])


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
    rows = [
        (row, index)
        for row, sample in enumerate(samples)
        for index in {index for visit in sample.history for index in visit} or [None]
    ]
    frame = pl.DataFrame(
        {
            "row": [row for row, _ in rows],
            "code": [None if index is None else code[index] for _, index in rows],
            "version": ["ICD-9" if index is None or version[index] == "ICD9CM" else "ICD-10" for _, index in rows],
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
    """APR-DRG severity of illness of the visits to be predicted, for analysis alone: no ranker reads it.

    Args:
        rows (`datasets.Dataset` or `Sequence[dict]`): the visits dataset that the samples were made of.
        samples (`Sequence[Sample]`): see `prediction_samples`.

    Returns:
        float array of shape (samples,), 1 minor to 4 extreme, nan where it is not known; `None` where it is of no visit.
    """
    import numpy as np

    if "drg_severity" not in rows[samples[0].patient]["visits"][0]:
        return None
    targets = (rows[sample.patient]["visits"][len(sample.history)] for sample in samples)
    severity = np.array([target["drg_severity"] for target in targets], dtype=float)  # `None` becomes nan
    return None if np.isnan(severity).all() else severity


def spearman(a: np.ndarray, b: np.ndarray) -> dict | None:
    """Spearman's rank correlation `rho` with its 95 % `interval`, by Fisher's z with the standard error of Bonett and Wright
    (2000), sqrt((1 + rho^2 / 2) / (n - 3)). `None` where a side is constant, or with fewer than 10 patients.
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


def severity_figures(measures: dict[str, np.ndarray]) -> dict:
    """Correlations of what the model says with what was true and how ill the patients were, and means by comorbidities.

    Args:
        measures (`dict[str, np.ndarray]`): arrays of shape (patients,) under names of [`SAYS`]; the comorbidity scores and
            `drg_severity` may be missing, and `drg_severity` may be nan.

    Returns:
        `dict`: `correlations`, from each of the model's measures to the others as [`spearman`] has them; `groups` by number
        of Elixhauser comorbidities, the last with that many or more: `comorbidities`, `patients`, and from 10 patients on
        the means `set_size`, `expected_codes`, `true_size` and `eov_probability`; `missing`, how to install, without
        pycomorb. With `drg_severity`, whose correlations are over the patients that have it, also `known`, their number as
        `{"drg_severity": n}`, and `drg_groups`, see [`drg_groups`].
    """
    import numpy as np

    others = [name for name in SAYS if name in measures and name not in ("eov_probability", "expected_codes")]
    known = {other: ~np.isnan(measures[other]) for other in others}
    figures = {
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
        `list[dict]`: for 0, 1, 2 ..., the last with that many or more: `{name: "3" or "3+", "patients": n}`, and from 10
        patients on the means `set_size`, `expected_codes`, `true_size` and `eov_probability`.
    """
    import numpy as np

    at_least = np.bincount(number)[::-1].cumsum()[::-1]  # patients with so many or more
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
    """[`groups_by`] DRG severity, "1" to "4" under `drg_severity`, of the patients that have one.

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
    """A measure in words, with the number of patients where it is not known of all: `DRG severity of the visit (n 812)`."""
    if measure not in known:
        return SAYS[measure]
    n = f"{known[measure]:,}" if known[measure] >= FEWEST_PATIENTS else TOO_FEW
    return f"{SAYS[measure]} (n {n})"
