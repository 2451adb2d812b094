"""The result in Markdown, with percent."""

from __future__ import annotations

from mera_hf.blocks import markdown_table, plain_table
from mera_hf.evaluation import plots
from mera_hf.experiments.ontology.words import (
    GROUPINGS,
    LIKENESS,
    MEANINGS,
    alternatives,
    finding,
    percent,
    shared_title,
    worst_groups,
)
from mera_hf.icd import VERSIONS


def ontology_table(result: dict) -> str:
    """The finding in sentences, the tables, and links to the plots from `write_ontology`.

    Args:
        result (`dict`): from `ontology_analysis`.
    """
    settings, dataset = result["settings"], result["dataset"]
    blocks: list[str | None] = [
        f"# Does the tree match medicine? {dataset['name']}",
        f"{dataset['patients']:,} patients and {dataset['visits']:,} visits of the train split. Codes in fewer than "
        f"{settings['min_visits']} visits, or of fewer than {settings['min_patients']} patients, are left out. Brackets are "
        "95 % intervals, a bootstrap over codes.",
    ]
    for version, count in result["too_small"].items():
        blocks.append(
            f"{VERSIONS[version].label} is left out: {count} of its codes are common enough, which is too few."
        )
    for version, compared in result["versions"].items():
        pictures = alternatives(compared) if plots.installed() else {}
        pictures = {name: f"![{text}](plots/{version.lower()}_{name}.png)" for name, text in pictures.items()}
        blocks += [
            f"## {VERSIONS[version].label}: {compared['codes']} codes, {compared['left_out']} too rare",
            finding(version, compared),
            "\n".join(f"- *{LIKENESS[name]}*: {MEANINGS[name]}." for name in compared["likeness"]),
            *_agreement(compared["likeness"]),
            pictures.get("groupings"),
            *_comparisons(compared["likeness"]),
            *_by_level(compared["likeness"]),
            pictures.get("together_by_level"),
            pictures.get("rows_by_level"),
            *_clusters(compared["likeness"]),
            *_worst_groups(compared),
            pictures.get("worst_groups"),
            *_far_pairs(compared["far_pairs"]),
            pictures.get("chapters"),
        ]
    return "\n\n".join(block for block in blocks if block)


def _agreement(likeness: dict) -> list[str]:
    rows = []
    for name, found in likeness.items():
        for grouping, entry in found["agreement"].items():
            titles = [LIKENESS[name], GROUPINGS[grouping]]
            if entry is None:
                rows.append([*titles, "too few", *["–"] * 7])
                continue
            low, high = entry["interval"]
            rows.append(
                [
                    *titles,
                    str(entry["codes"]),
                    f"{entry['spearman']:.3f} [{low:.3f}, {high:.3f}]",
                    f"{entry['pearson']:.3f}",
                    f"{entry['p']:.3f}",
                    f"{entry['z']:.1f}",
                    percent(entry["explained"], 2),
                    percent(entry["explainable"]),
                    _with_interval(entry["auc"], entry["auc_interval"]) if "auc" in entry else "–",
                ]
            )
    headings = "likeness, grouping, codes, Spearman, Pearson, p (Mantel), z, explains %, could explain %, AUC %"
    repeated = [
        f"{LIKENESS[name]} {percent(found['repeatability'], 0)} %"
        for name, found in likeness.items()
        if found["repeatability"] is not None
    ]
    note = (
        "Spearman and Pearson: correlation of distance and unlikeness over all pairs of codes (for the tree, Pearson is its "
        "cophenetic correlation). *Explains*: the square of Spearman. *Could explain*: the most that a distance with so many "
        "pairs at each step can. AUC: how often two codes of one group are more alike than two of different groups; 50 is "
        "chance."
    )
    if repeated:
        note += f" Of the variance of ranks, so much comes back in other patients: {', '.join(repeated)}."
    return ["### How much of it the tree explains", _markdown(headings.split(", "), rows), note]


def _comparisons(likeness: dict) -> list[str]:
    rows = [
        [
            LIKENESS[name],
            " against ".join(GROUPINGS[grouping] for grouping in entry["groupings"]),
            str(entry["codes"]),
            *(percent(value) for value in entry["auc"]),
            _with_interval(entry["difference"], entry["interval"]),
        ]
        for name, found in likeness.items()
        for entry in found["comparisons"]
    ]
    headings = ["likeness", "groupings", "codes", "AUC % of the first", "of the second", "difference"]
    return ["### Tree against CCS and CCSR, on the same codes", _markdown(headings, rows)] if rows else []


def _by_level(likeness: dict) -> list[str]:
    rows = [
        [
            LIKENESS[name],
            shared_title(row["shared"]),
            f"{row['pairs']:,}",
            f"{row['mean']:.3f}" if "mean" in row else "too few pairs",
            f"{row['quantiles'][2]:.3f}" if "mean" in row else "–",
            _number(row.get("lift")),
        ]
        for name, found in likeness.items()
        for row in found["by_level"]
    ]
    headings = ["likeness", "share", "pairs of codes", "mean", "median", "times as often as by chance"]
    return ["### By what two codes share", _markdown(headings, rows)]


def _clusters(likeness: dict) -> list[str]:
    found = {name: of["clustering"] for name, of in likeness.items() if of["clustering"] is not None}
    if not found:
        return []
    groupings = list(next(iter(found.values()))["ami"])
    rows = [
        [LIKENESS[name], *(f"{value:.3f}" for value in (of["cophenetic"], of["tree"], *of["ami"].values()))]
        for name, of in found.items()
    ]
    headings = ["likeness", "cophenetic", "Spearman with tree", *(f"AMI {GROUPINGS[name]}" for name in groupings)]
    note = (
        "Average linkage. *Cophenetic*: how well its dendrogram keeps the likeness itself. AMI: adjusted mutual information "
        "with as many clusters as groups; 0 is chance, 1 the same groups."
    )
    return ["### Clusters of likeness against groups", _markdown(headings, rows), note]


def _worst_groups(compared: dict) -> list[str]:
    blocks = []
    headings = [
        "group",
        "codes",
        "likeness within",
        "random groups",
        "z",
        "times as often in one visit",
        "nearest other",
    ]
    for name, groups in worst_groups(compared).items():
        rows = []
        for group in groups:
            low, high = group["chance_range"]
            nearest = group["nearest"]
            rows.append(
                [
                    group["group"],
                    str(group["codes"]),
                    f"{group['within']:.3f}",
                    f"{group['chance']:.3f} [{low:.3f}, {high:.3f}]",
                    f"{group['z']:.1f}",
                    _number(group["lift"]),
                    "–" if nearest is None else f"{nearest['group']} ({nearest['likeness']:.3f})",
                ]
            )
        blocks += [f"### {GROUPINGS[name]}: the groups that fit worst", _markdown(headings, rows)]
    if blocks:
        blocks.append(
            "Likeness is that of the company that codes keep. A random group has codes of the same frequency; its range "
            "holds 95 % of them. z below 2: hardly more alike than by chance."
        )
    return blocks


def _far_pairs(pairs: list[dict]) -> list[str]:
    rows = [
        [
            *(f"{code.split(':')[1]} {text}" for code, text in zip(pair["codes"], pair["descriptions"], strict=True)),
            str(pair["patients"]),
            f"{pair['lift']:.0f}",
            f"{pair['pmi']:.2f}",
        ]
        for pair in pairs
    ]
    headings = ["code", "and code", "patients with both", "times as often as by chance", "PMI"]
    return ["### Far apart in the tree, together in visits", _markdown(headings, rows)] if rows else []


def _with_interval(value: float, ends: list[float]) -> str:
    return f"{percent(value)} [{', '.join(map(percent, ends))}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    return markdown_table(plain_table(headings, rows), left=len(headings), spaced=True)
