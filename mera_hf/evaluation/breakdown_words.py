"""The breakdowns of `metrics.json` in a few sentences, for the end of `mera evaluate`."""

from __future__ import annotations

from mera_hf.evaluation.results import format_figure, mean_of


GROUPINGS = {"category": "3-digit categories", "ccs": "CCS groups", "ccsr": "CCSR groups", "chapter": "chapters"}


def breakdown_sentences(metrics: dict) -> list[str]:
    """What the strata, gaps, coarser labels, distances and heart failure say of MERA, one sentence each.

    Args:
        metrics (`dict`): the content of a `metrics.json`, of one run or merged; what it lacks is not spoken of.
    """
    sentences = [_strata(metrics.get("strata", {}))]
    sentences += [_gap(name, gaps) for name, gaps in metrics.get("fairness", {}).items()]
    sentences += [
        _coarse(metrics.get("coarse", {})),
        _distance(metrics.get("distance", {}).get("mera", {})),
        _heart_failure(metrics.get("heart_failure", {})),
    ]
    return [sentence for sentence in sentences if sentence]


def _percent(value: float | dict) -> str:
    return f"{format_figure('recall@20', value)} %"


def _strata(strata: dict) -> str | None:
    """R@20 by training frequency, and of repeated and new codes."""
    parts = []
    for stratification, stratum, words in (
        ("training_frequency", "<= 5", "seen 5 times or less in training"),
        ("training_frequency", "> 100", "seen more than 100 times"),
        ("repeated_history", "repeated", "repeated from the history"),
        ("repeated_history", "new", "new to the patient"),
    ):
        recall = _figures(strata, stratification, stratum).get("recall@20")
        if recall is not None:
            parts.append(f"{words} {_percent(recall)}")
    return f"MERA's R@20 of codes {', '.join(parts)}." if parts else None


def _figures(strata: dict, stratification: str, stratum: str) -> dict:
    return strata.get(stratification, {}).get(stratum, {}).get("rankers", {}).get("mera", {})


def _gap(profile: str, gaps: dict) -> str | None:
    gap = gaps.get("recall@20")
    if gap is None or "best" not in gap or "worst" not in gap:  # seeds may differ in whom they serve worst
        return None
    text = (
        f"By {profile}, R@20 is highest for {gap['best']} and lowest for {gap['worst']}, {_points(gap['gap'])} apart"
    )
    held_out = gap["held_out"]
    if "interval" not in held_out:
        return f"{text}."
    low, high = (f"{100 * end:.1f}" for end in held_out["interval"])
    return (
        f"{text}; chosen on half of the patients, {held_out['best']} and {held_out['worst']} are "
        f"{_points(held_out['difference'])} apart on the other half (95 % interval {low} to {high})."
    )


def _points(value: float | dict) -> str:
    return f"{format_figure('recall@20', value)} points"


def _coarse(coarse: dict) -> str | None:
    parts = []
    for grouping, part in coarse.items():
        text = f"{GROUPINGS[grouping]} {_percent(part['rankers']['mera']['weighted_f1'])}"
        left_out = part["true_codes_without"]
        parts.append(f"{text} (without {left_out:,} true codes that are in no single group)" if left_out else text)
    return f"Weighted F1 at the true size of coarser labels: {', '.join(parts)}." if parts else None


def _distance(distance: dict) -> str | None:
    if "mean" not in distance:
        return None
    near = sum(mean_of(distance[share]) for share in ("same_category", "same_block", "same_chapter"))
    return (
        f"Of the wrong codes, {_percent(near)} lie in the chapter of a true code, {_percent(distance['same_category'])} "
        f"in its category; {mean_of(distance['mean']):.1f} steps in the tree on average."
    )


def _heart_failure(task: dict) -> str | None:
    if "skipped" in task:
        return f"Heart failure at the next visit: not measured, {task['skipped']}."
    figures = task.get("rankers", {}).get("mera")
    if figures is None:
        return None
    text = f"Heart failure at the next visit: AUC {format_figure('recall@20', figures['auc'])} %"
    interval = task.get("intervals", {}).get("mera", {}).get("auc")
    if interval:
        text += f" (95 % interval {' to '.join(format_figure('recall@20', end) for end in interval)})"
    return f"{text}, F1 at 0.5 {_percent(figures['f1'])}." if "f1" in figures else f"{text}."
