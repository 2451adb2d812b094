"""`ontology.json`, its tables in Markdown and its plots, as files."""

from __future__ import annotations

import json
from pathlib import Path

from mera_hf.evaluation import plots
from mera_hf.evaluation.ontology.drawing import ontology_plots
from mera_hf.evaluation.ontology.words import (
    GROUPINGS,
    LIKENESS,
    MEANINGS,
    alternatives,
    finding,
    percent,
    shared_title,
    worst_groups,
)
from mera_hf.evaluation.results import write_text
from mera_hf.icd import VERSIONS


def write_ontology(result: dict, folder: str | Path) -> list[str]:
    """Write `ontology.json`, `table.md` and `plots/`, each file whole or not at all; return the names written.

    Plots need matplotlib. Their names begin with the version, as in `plots/icd9cm_groupings.png`.

    Args:
        result (`dict`): from `ontology_analysis`.
        folder (`str` or `Path`): made if it is not there; files of the same name are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(text + "\n", folder / "ontology.json")
    write_text(ontology_table(result) + "\n", folder / "table.md")
    names = ["ontology.json", "table.md"]
    if not plots.installed():
        return names
    (folder / "plots").mkdir(exist_ok=True)
    for version, compared in result["versions"].items():
        for name, figure in ontology_plots(compared).items():
            path = folder / "plots" / f"{version.lower()}_{name}.png"
            part = path.with_name(path.name + ".tmp")
            plots.save(figure, part, "png")
            part.replace(path)
            names.append(f"plots/{path.name}")
    return names


def ontology_table(result: dict) -> str:
    """The result in Markdown: the finding in sentences, and tables with percent. It names the plots of `write_ontology`."""
    settings, dataset = result["settings"], result["dataset"]
    blocks = [
        f"# Does the tree match medicine? {dataset['name']}",
        f"{dataset['patients']:,} patients and {dataset['visits']:,} visits of the train split. Codes in fewer than "
        f"{settings['min_visits']} visits, or of fewer than {settings['min_patients']} patients, are left out. Brackets are "
        "95 % intervals, a bootstrap over codes.",
    ]
    for version, count in result["too_small"].items():
        blocks.append(f"{VERSIONS[version]} is left out: {count} of its codes are common enough, which is too few.")
    for version, compared in result["versions"].items():
        blocks += _version(version, compared)
    return "\n\n".join(blocks)


def _version(version: str, compared: dict) -> list[str]:
    likeness = compared["likeness"]
    pictures = {name: text for name, text in alternatives(compared).items() if plots.installed()}

    def picture(name: str) -> list[str]:
        return [f"![{pictures[name]}](plots/{version.lower()}_{name}.png)"] if name in pictures else []

    blocks = [
        f"## {VERSIONS[version]}: {compared['codes']} codes, {compared['left_out']} too rare",
        finding(version, compared),
    ]
    blocks.append("\n".join(f"- *{LIKENESS[name]}*: {MEANINGS[name]}." for name in likeness))
    blocks.append("### How much of it the tree explains")
    rows = []
    for name, found in likeness.items():
        for grouping, entry in found["agreement"].items():
            if entry is None:
                rows.append([LIKENESS[name], GROUPINGS[grouping], *["too few codes"] + ["–"] * 7])
                continue
            low, high = entry["interval"]
            auc = "–"
            if "auc" in entry:
                auc = f"{percent(entry['auc'])} [{', '.join(map(percent, entry['auc_interval']))}]"
            rows.append(
                [
                    LIKENESS[name],
                    GROUPINGS[grouping],
                    str(entry["codes"]),
                    f"{entry['spearman']:.3f} [{low:.3f}, {high:.3f}]",
                    f"{entry['pearson']:.3f}",
                    f"{entry['p']:.3f}",
                    f"{entry['z']:.1f}",
                    percent(entry["explained"], 2),
                    percent(entry["explainable"]),
                    auc,
                ]
            )
    headings = "likeness, grouping, codes, Spearman, Pearson, p (Mantel), z, explains %, could explain %, AUC %"
    blocks.append(_markdown(headings.split(", "), rows))
    repeated = [
        f"{LIKENESS[name]} {percent(found['repeatability'], 0)} %"
        for name, found in likeness.items()
        if found["repeatability"] is not None
    ]
    blocks.append(
        "Spearman and Pearson: correlation of distance and unlikeness over all pairs of codes (for the tree, Pearson is its "
        "cophenetic correlation). *Explains*: the square of Spearman. *Could explain*: the most that a distance with so many "
        "pairs at each step can. AUC: how often two codes of one group are more alike than two of different groups; 50 is "
        f"chance. Of the variance of ranks, so much comes back in other patients: {', '.join(repeated) or 'unknown'}."
    )
    blocks += picture("groupings")
    compared_groupings = [
        [
            LIKENESS[name],
            " against ".join(GROUPINGS[grouping] for grouping in entry["groupings"]),
            str(entry["codes"]),
            *(percent(value) for value in entry["auc"]),
            f"{percent(entry['difference'])} [{', '.join(map(percent, entry['interval']))}]",
        ]
        for name, found in likeness.items()
        for entry in found["comparisons"]
    ]
    if compared_groupings:
        blocks.append("### Tree against CCS and CCSR, on the same codes")
        headings = ["likeness", "groupings", "codes", "AUC % of the first", "of the second", "difference"]
        blocks.append(_markdown(headings, compared_groupings))
    blocks.append("### By what two codes share")
    rows = [
        [
            LIKENESS[name],
            shared_title(row["shared"]),
            f"{row['pairs']:,}",
            f"{row['mean']:.3f}" if "mean" in row else "too few pairs",
            f"{row['quantiles'][2]:.3f}" if "mean" in row else "–",
            "–" if row.get("lift") is None else f"{row['lift']:.2f}",
        ]
        for name, found in likeness.items()
        for row in found["by_level"]
    ]
    blocks.append(
        _markdown(["likeness", "share", "pairs of codes", "mean", "median", "times as often as by chance"], rows)
    )
    blocks += picture("together_by_level") + picture("rows_by_level")
    blocks.append("### Clusters of likeness against groups")
    clustered = [name for name in GROUPINGS if name in next(iter(likeness.values()))["clustering"]["ami"]]
    rows = [
        [LIKENESS[name], f"{found['clustering']['cophenetic']:.3f}", f"{found['clustering']['tree']:.3f}"]
        + [f"{found['clustering']['ami'][grouping]:.3f}" for grouping in clustered]
        for name, found in likeness.items()
    ]
    headings = [
        "likeness",
        "cophenetic",
        "Spearman with tree",
        *(f"AMI {GROUPINGS[grouping]}" for grouping in clustered),
    ]
    blocks.append(_markdown(headings, rows))
    blocks.append(
        "Average linkage. *Cophenetic*: how well its dendrogram keeps the likeness itself. AMI: adjusted mutual information "
        "with as many clusters as groups; 0 is chance, 1 the same groups."
    )
    for name, groups in worst_groups(compared).items():
        blocks.append(f"### {GROUPINGS[name]}: the groups that fit worst")
        rows = [
            [
                group["group"],
                str(group["codes"]),
                f"{group['within']:.3f}",
                f"{group['chance']:.3f} [{', '.join(f'{end:.3f}' for end in group['chance_range'])}]",
                f"{group['z']:.1f}",
                "–" if group["lift"] is None else f"{group['lift']:.2f}",
                "–"
                if group["nearest"] is None
                else f"{group['nearest']['group']} ({group['nearest']['likeness']:.3f})",
            ]
            for group in groups
        ]
        headings = [
            "group",
            "codes",
            "likeness within",
            "random groups",
            "z",
            "times as often in one visit",
            "nearest other",
        ]
        blocks.append(_markdown(headings, rows))
    blocks.append(
        "Likeness is that of the company that codes keep. A random group has codes of the same frequency; its range holds "
        "95 % of them. z below 2: no more alike than by chance."
    )
    blocks += picture("worst_groups")
    if compared["far_pairs"]:
        blocks.append("### Far apart in the tree, together in visits")
        rows = [
            [
                *(
                    f"{code.split(':')[1]} {text}"
                    for code, text in zip(pair["codes"], pair["descriptions"], strict=True)
                ),
                str(pair["patients"]),
                f"{pair['lift']:.0f}",
                f"{pair['pmi']:.2f}",
            ]
            for pair in compared["far_pairs"]
        ]
        headings = ["code", "and code", "patients with both", "times as often as by chance", "PMI"]
        blocks.append(_markdown(headings, rows))
    return blocks + picture("chapters")


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
