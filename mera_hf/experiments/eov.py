"""What EOV knows: its probability and the size of the set above it, compared with visit sizes and severity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from mera_hf.data.samples import Sample
from mera_hf.evaluation.figures import FEWEST_PATIENTS, TOO_FEW, over_seeds
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.sections.severity import (
    OF_MODEL,
    comorbidities,
    drg_groups,
    eov_measures,
    groups_by,
    history_sizes,
    severity_figures,
)
from mera_hf.experiments.runs import Run


def decided(run: Run, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """What a run's checkpoint decides for the test patients, kept beside the run.

    Returns:
        `order` of shape (patients, codes), by logit alone, and arrays of shape (patients,): `above_eov`, the number of codes
        with a logit above EOV's own (the paper's cut of the set); `eov_probability`, the share of EOV in the softmax
        over codes and EOV; `expected_codes`, the sum of the checkpoint's probabilities.
    """

    def measure() -> dict[str, np.ndarray]:
        ranking = rank_samples(*run.open(), samples, description=f"EOV, {run.folder.name}")
        logits, order = ranking.logits, ranking.order
        by_logit = np.lexsort((order, -logits))  # (patients, codes): equal logits in the order of the tree
        return {
            "order": np.take_along_axis(order, by_logit, axis=1).astype(np.int32),
            "above_eov": (logits > ranking.eov_logits[:, None]).sum(axis=1),
            **eov_measures(ranking),
        }

    return run.kept("eov", measure)


def eov_knowledge(
    runs: Sequence[Run], samples: Sequence[Sample], codes: Sequence[str], drg_severity: np.ndarray | None = None
) -> dict:
    """Correlations of what EOV says with the sizes of visits and with severity, and means by size.

    Args:
        runs (`Sequence[Run]`): of one variant, one per seed.
        samples (`Sequence[Sample]`): the test patients.
        codes (`Sequence[str]`): the codes that the runs rank.
        drg_severity (`np.ndarray`, *optional*): severity of the visits to be predicted, see `target_severity`.

    Returns:
        `dict`:

        - `correlations`: from each of the model's measures to the others `{"rho", "interval"}`: Spearman's rho (a spread with
          several seeds), and its interval over patients, averaged over seeds; `None` if a side is constant.
        - `groups`: by the numbers of `predicted` codes, `true` codes and `comorbidities`, and by `drg_severity`, from
          [`groups_by`] and [`drg_groups`], with measures averaged over seeds.
        - `known`: with DRG severities, the number of patients that have one.
        - `commonest_size`: the number of true `codes` that most visits have, and their `share`.
        - `missing`: how to install pycomorb, if it is not there.
    """
    fixed = {
        "true_size": np.array([len(sample.target) for sample in samples]),
        "history_codes": history_sizes(samples),
    }
    fixed |= comorbidities(samples, codes) or {}
    if drg_severity is not None:
        fixed["drg_severity"] = drg_severity
    measured = []
    for run in tqdm(runs, desc="EOV", unit="run"):
        arrays = decided(run, samples)
        said = {"set_size": run.ranking()[1]} | {name: arrays[name] for name in ("eov_probability", "expected_codes")}
        measured.append({name: said[name] for name in OF_MODEL} | fixed)
    figures = [severity_figures(measures) for measures in measured]
    mean = {name: np.mean([measures[name] for measures in measured], axis=0) for name in OF_MODEL} | fixed
    numbers = {"predicted": np.rint(mean["set_size"]).astype(int), "true": fixed["true_size"]}
    numbers |= {name: fixed[name] for name in ("comorbidities",) if name in fixed}
    by_number = {name: groups_by(name, number, mean) for name, number in numbers.items()}
    if drg_severity is not None:
        by_number["drg_severity"] = drg_groups(drg_severity, mean)
    result = {
        "correlations": {
            name: {other: _over_seeds([each["correlations"][name][other] for each in figures]) for other in others}
            for name, others in figures[0]["correlations"].items()
        },
        "groups": {
            name: [
                group if group["patients"] >= FEWEST_PATIENTS else group | {"patients": TOO_FEW} for group in groups
            ]
            for name, groups in by_number.items()
        },
    }
    counts = np.bincount(fixed["true_size"])
    result["commonest_size"] = {"codes": int(counts.argmax()), "share": float(counts.max() / len(samples))}
    return result | {key: figures[0][key] for key in ("missing", "known") if key in figures[0]}


def _over_seeds(correlations: list[dict | None]) -> dict | None:
    known = [each for each in correlations if each is not None]
    if len(known) < len(correlations):
        return None
    values = [each["rho"] for each in known]
    ends = zip(*(each["interval"] for each in known), strict=True)
    return {"rho": over_seeds(values), "interval": [float(np.mean(end)) for end in ends]}
