"""The section `alike` of `metrics.json`: every ranker as it was trained, and after the same fit on validation.

    {"patients": n, "as_trained" | "fitted": {"rankers": {ranker: {metric: value}}},
     "lead": {metric: {"over": ranker, "way": "as_trained" | "fitted", "difference", "interval"}}}

`patients` are those of validation, which the fit learned from, see [`~mera_hf.evaluation.rankings.fit.Fit`]. As trained,
MERA's codes stand in the order of their logits, cut at EOV's own logit, and the references are cut at a threshold. `lead` is
MERA after the fit minus the best other ranker, in whichever way that is better, with a paired 95 % bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mera_hf.blocks import Block, Paragraph, Row, Table
from mera_hf.evaluation.bootstrap import interval, resampled
from mera_hf.evaluation.figures import columns_of, ends_text, heading_of, mean_of, ranker_rows, signed_points, title_of
from mera_hf.evaluation.metrics import ks_up_to
from mera_hf.evaluation.rankings.fit import FEWEST, Fit
from mera_hf.evaluation.rankings.ranked import RankedPatients
from mera_hf.evaluation.tally import Tally, tally_ranking


LABEL, HEADING = "Fitted alike", "Every ranker as trained, and after the same fit"
COUNTS = ("patients",)
KS = (10, 20)
METRICS = (
    *("weighted_f1", "weighted_f1_eov", "micro_f1", "micro_f1_eov", "macro_f1"),
    *("recall@10", "recall@20", "ndcg@20", "map", "mean_set_size"),
)
LEADS = ("weighted_f1", "weighted_f1_eov", "micro_f1", "micro_f1_eov", "ndcg@20", "map")  # what the fit can change


def measure(patients: RankedPatients) -> dict[str, Any]:
    """The section, with all rankers; empty without rankings of at least 20 validation patients.

    Args:
        patients (`RankedPatients`): with `validation`.
    """
    validation = patients.validation
    if validation is None or len(validation) < FEWEST:
        return {}
    n_codes = len(patients.codes)
    ks = ks_up_to(n_codes, KS)
    tallies: dict[str, dict[str, Tally]] = {"as_trained": {}, "fitted": {}}
    for name, ranking in patients.rankings.items():
        trained = ranking.as_trained()
        fit = Fit(n_codes).learn(validation.rankings[name].as_trained(), validation.samples)
        for way, answer in (("as_trained", trained), ("fitted", fit.apply(trained, patients.samples))):
            tallies[way][name] = tally_ranking(answer.order, answer.set_sizes, patients.samples, ks)
    figures = {way: {name: _figures(tally) for name, tally in of.items()} for way, of in tallies.items()}
    section: dict[str, Any] = {"patients": len(validation)} | {way: {"rankers": of} for way, of in figures.items()}
    if "mera" in patients.rankings and len(patients.rankings) > 1:
        section["lead"] = _leads(tallies, figures)
    return section


def _figures(tally: Tally) -> dict[str, float]:
    found = tally.measure()
    return {metric: found[metric] for metric in METRICS if metric in found}


def _leads(tallies: dict[str, dict[str, Tally]], figures: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    ours, leads = figures["fitted"]["mera"], {}
    drawn = {("fitted", "mera"): resampled([tallies["fitted"]["mera"]])}
    for metric in LEADS:
        theirs = {
            (way, name): found[metric]
            for way, of in figures.items()
            for name, found in of.items()
            if name != "mera" and metric in found
        }
        if metric not in ours or not theirs:
            continue
        way, name = best = max(theirs, key=lambda key: theirs[key])
        if best not in drawn:
            drawn[best] = resampled([tallies[way][name]])
        lead = ours[metric] - theirs[best]
        ends = interval(lead, drawn["fitted", "mera"][metric] - drawn[best][metric])
        leads[metric] = {"over": name, "way": way, "difference": lead, "interval": ends}
    return leads


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page."""
    found = table(report["metrics"])
    lead = (
        "Weighted F1 rewards whoever knows how likely each code is, how much naming it adds and where to stop, and that "
        "can be learned on top of any ranking. Here every ranker has learned it on the same validation patients."
    )
    says = [Paragraph(text) for text in sentences(report["metrics"])]
    return [Paragraph(lead), found, *says] if found else []


def table(metrics: Mapping[str, Any]) -> Table | None:
    """All rankers, as trained and after the fit."""
    section = metrics.get("alike", {})
    if not section:
        return None
    columns = columns_of(section["fitted"]["rankers"].values(), METRICS)
    rows = []
    for way, title in (("as_trained", "as trained"), ("fitted", "after the same fit for all")):
        rows += [Row(title, kind="group"), *ranker_rows(section[way]["rankers"], columns)]
    caption = f"Rankers as trained, and after the same fit on {section['patients']:,} validation patients, percent"
    return Table(caption, ["ranker", *map(heading_of, columns)], rows)


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """MERA after the fit less the best other ranker, each with its interval."""
    told = []
    for metric, lead in metrics.get("alike", {}).get("lead", {}).items():
        if "over" in lead:  # merged runs may differ in which other ranker is best
            points = signed_points(mean_of(lead["difference"]))
            told.append(f"{heading_of(metric)} {points} ({title_of(lead['over'])}{ends_text(lead)})")
    lead = "After the same fit for all rankers, MERA less the best other one, fitted or not, in points"
    return [f"{lead}: {'; '.join(told)}."] if told else []
