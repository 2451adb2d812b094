"""What the report says in sentences: about the figures of `metrics.json`, and about its own limits."""

from __future__ import annotations

from mera_hf.evaluation.plots import title_of
from mera_hf.evaluation.results import COLUMNS, SIZE_METRICS, format_figure, mean_of


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
    "precision@10": "Of the first 10 codes of the ranking, the share that is true, averaged over patients.",
    "ndcg@20": "Normalized discounted cumulative gain: true codes count more the earlier they stand among the first "
    "20; 100 if all true codes come first.",
    "map": "Mean average precision: precision at the rank of each true code, averaged over a patient's true codes, "
    "then over patients.",
    "micro_f1": "F1 over all pairs of patient and code: frequent codes weigh most.",
    "macro_f1": "F1 per code, each code counting the same: rare codes weigh as much as frequent ones.",
}
LIMITS = (
    "Not for clinical decisions: a research result on past records, without any clinical validation.",
    "Recorded codes are what was billed or documented, which is not the same as what a patient had.",
    "The figures hold for this data set, this split and these candidate codes, not for another hospital.",
    "A code that copying already finds (R@20, repeated) is little news to a clinician; the new part is harder.",
)


def headline(metrics: dict) -> dict[str, str]:
    """The result in plain words: `figure` (percent of true codes among the first 20), `claim` and `context`."""
    rankers = metrics["rankers"]
    value = rankers["mera"]["recall@20"]
    others = {name: mean_of(figures["recall@20"]) for name, figures in rankers.items() if name != "mera"}
    strongest = max(others, key=others.get)
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
            ahead.setdefault(title_of(best), []).append(heading)
    if not ahead:
        return "No reference ranker is ahead of MERA in any column."
    return "Ahead of MERA: " + "; ".join(f"{title} in {', '.join(columns)}" for title, columns in ahead.items()) + "."


def tied(text: str) -> str:
    """No line break within a figure."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")
