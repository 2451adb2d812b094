"""The section `cuts` of `metrics.json`: does EOV know where MERA's ranking ends?

    {"own" | "fitted" | "plain": {metric: value, "interval": [low, high], "correlation"}, "last": {"correlation"},
     "fitted_over_own" | "fitted_over_plain": {"difference", "interval"}}

The same ranking, in the order of the logits, cut in three ways: `own`, at EOV's logit as it was trained; `fitted`, at EOV's
logit and an offset fitted on validation; `plain`, without EOV, at a share of the softmax over codes fitted in the same way.
`interval` is that of the weighted F1 of the set. `correlation` is the rank correlation (Spearman) of the size of the set with
the number of true codes over patients, for `last` that of the number of codes of the last visit; it is left out where all
sizes are the same. The differences are of the weighted F1 of the set, paired, with 95 % bootstrap intervals over patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mera_hf.blocks import Block, Paragraph, Row, Table
from mera_hf.evaluation.bootstrap import interval, resampled
from mera_hf.evaluation.figures import (
    ends_text,
    format_figure,
    heading_of,
    mean_of,
    percent,
    signed_points,
    with_interval,
)
from mera_hf.evaluation.rankings.fit import FEWEST
from mera_hf.evaluation.rankings.ranked import ModelRanking, RankedPatients, by_code
from mera_hf.evaluation.rankings.reference import fit_threshold
from mera_hf.evaluation.tally import tally_ranking


if TYPE_CHECKING:
    import numpy as np

LABEL, HEADING = "Cuts", "Does EOV know where the ranking ends?"
COUNTS = ()
METRICS = ("weighted_f1_eov", "micro_f1_eov", "macro_f1_eov", "mean_set_size", "empty_set_share")
WAYS = {
    "own": "EOV as trained",
    "fitted": "EOV and an offset fitted on validation",
    "plain": "a threshold without EOV, fitted alike",
}


def measure(patients: RankedPatients) -> dict[str, Any]:
    """The section, for `mera`; empty without its rankings of at least 20 validation patients.

    Args:
        patients (`RankedPatients`): with `validation`.
    """
    import numpy as np

    validation, ranking = patients.validation, patients.rankings.get("mera")
    if validation is None or len(validation) < FEWEST or not isinstance(ranking, ModelRanking):
        return {}
    before = validation.rankings["mera"]
    assert isinstance(before, ModelRanking)
    samples, true = patients.samples, patients.true_sizes
    trained = ranking.as_trained()
    assert trained.set_sizes is not None
    sizes = {"own": trained.set_sizes}
    for way, scores in (("fitted", ModelRanking.margins), ("plain", ModelRanking.shares)):
        threshold = fit_threshold(by_code(before.order, scores(before)), validation.samples)
        sizes[way] = (scores(ranking).astype(np.float32) >= threshold).sum(axis=1)
    tallies = {way: tally_ranking(trained.order, size, samples, ()) for way, size in sizes.items()}
    drawn = {way: resampled([tally])["weighted_f1_eov"] for way, tally in tallies.items()}
    section: dict[str, Any] = {}
    for way, tally in tallies.items():
        figures = tally.measure()
        section[way] = {metric: figures[metric] for metric in METRICS}
        section[way]["interval"] = interval(figures["weighted_f1_eov"], drawn[way], 0)
        section[way] |= _correlation(sizes[way], true)
    section["last"] = _correlation(np.array([len(sample.history[-1]) for sample in samples]), true)
    for way in ("own", "plain"):
        lead = section["fitted"]["weighted_f1_eov"] - section[way]["weighted_f1_eov"]
        ends = interval(lead, drawn["fitted"] - drawn[way])
        section[f"fitted_over_{way}"] = {"difference": lead, "interval": ends}
    return section


def _correlation(sizes: np.ndarray, true: np.ndarray) -> dict[str, float]:
    from scipy.stats import spearmanr

    if len(set(sizes.tolist())) < 2 or len(set(true.tolist())) < 2:
        return {}
    return {"correlation": float(spearmanr(sizes, true).statistic)}


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    found = table(report["metrics"])
    lead = "The same ranking, cut in three ways. EOV earns its place if its own cut is about as good as one that was fitted."
    says = [Paragraph(text) for text in sentences(report["metrics"])]
    return [Paragraph(lead), found, *says] if found else []


def table(metrics: Mapping[str, Any]) -> Table | None:
    """The three cuts, and the sizes of the last visits."""
    section = metrics.get("cuts", {})
    if not section:
        return None
    rows = []
    for way, title in WAYS.items():
        figures = section[way]
        first = with_interval("weighted_f1_eov", figures["weighted_f1_eov"], figures.get("interval"))
        texts = [first, *(format_figure(metric, figures[metric]) for metric in METRICS[1:])]
        rows.append(Row(title, [*texts, _rho(figures)]))
    rows.append(Row("as many as at the last visit", [*("–" for _ in METRICS), _rho(section["last"])]))
    headings = ["cut", *map(heading_of, METRICS), "rank correlation of sizes"]
    return Table("Sets of the same ranking by where it is cut, percent", headings, rows)


def _rho(figures: Mapping[str, Any]) -> str:
    return f"{mean_of(figures['correlation']):.2f}" if "correlation" in figures else "–"


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What EOV's own cut is worth, in words."""
    section = metrics.get("cuts", {})
    if not section:
        return []
    told = []
    for way, title in (("own", "EOV's own cut"), ("plain", "a threshold without EOV")):
        lead = section[f"fitted_over_{way}"]
        value, points = percent(section[way]["weighted_f1_eov"]), signed_points(mean_of(lead["difference"]))
        told.append(f"{value} by {title} ({points}{ends_text(lead)})")
    fitted = percent(section["fitted"]["weighted_f1_eov"])
    return [f"Weighted F1 of the set: {fitted} with an offset of EOV fitted on validation; {'; '.join(told)}."]
