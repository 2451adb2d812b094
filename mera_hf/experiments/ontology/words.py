"""How the result is put in words: titles, the finding in sentences, and what each plot shows."""

from __future__ import annotations

from mera_hf.icd import VERSIONS


GROUPINGS = {
    "tree": "ICD tree",
    "chapter": "ICD chapter",
    "block": "ICD block",
    "category": "ICD category",
    "ccs": "CCS",
    "ccsr": "CCSR",
}
LIKENESS = {
    "visit": "in one visit",
    "next_visit": "in consecutive visits",
    "company": "same company",
    "output_rows": "model's rows",
    "input_rows": "model's input rows",
    "descriptions": "descriptions",
}
MEANINGS = {
    "visit": "how much more often than by chance two codes are in one visit (positive PMI)",
    "next_visit": "the same for two consecutive visits of a patient, one code in each",
    "company": "how alike the codes are that two codes occur with in a visit (cosine of their PMI)",
    "output_rows": "cosine of the rows by which the model scores two codes",
    "input_rows": "cosine of the rows by which the model reads two codes",
    "descriptions": "cosine of what a sentence encoder says of two descriptions, without any patient",
}


def shared_title(shared: str | None) -> str:
    """What two codes have in common: `None` is nothing, `subcategory1` is the first level below the category."""
    if shared is None:
        return "nothing"
    return shared.replace("subcategory", "subcategory ")


def percent(value: float | None, decimals: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{decimals}f}"


def finding(version: str, compared: dict) -> str:
    """What the comparison says, in sentences for a reader without background.

    Args:
        version (`str`): `"ICD9CM"` or `"ICD10CM"`.
        compared (`dict`): the version's part of `ontology_analysis`.
    """
    likeness = compared["likeness"]
    opening = f"{VERSIONS[version].label}, {compared['codes']} codes: "
    tree = likeness["visit"]["agreement"]["tree"]
    if tree is None:
        return f"{opening}too few of them share a group, or occur together, to compare the tree with visits."
    if tree["p"] > 0.05 or tree["interval"][0] <= 0:
        sentences = [
            f"{opening}what the tree explains of how readily two codes occur in one visit "
            f"({percent(tree['explained'])} % of the variance of ranks) cannot be told from chance."
        ]
    else:
        low, high = (percent(end**2) for end in tree["interval"])
        sentences = [
            f"{opening}how far two codes are apart in the tree explains {percent(tree['explained'])} % ({low} to {high} %) "
            "of the variance of the ranks of how readily they occur in one visit. Where codes trade places at random it is "
            f"{percent(tree['explained_by_chance'])} %, and a tree of this shape could explain "
            f"{percent(tree['explainable'], 0)} % at most."
        ]
    others = [
        f"{GROUPINGS[name]} groups alone explain {percent(found['explained'])} % of at most "
        f"{percent(found['explainable'], 0)} % ({found['codes']} codes have one)"
        for name, found in likeness["visit"]["agreement"].items()
        if name in ("chapter", "ccs", "ccsr") and found is not None
    ]
    sentences += [f"{', '.join(others)}."] if others else []
    sentences += [_blocks_beside(name, found) for name, found in likeness.items() if name in ("visit", "next_visit")]
    rows = likeness.get("output_rows")
    if rows is not None and rows["agreement"]["tree"] is not None:
        sentences.append(_of_rows(compared))
    return " ".join(sentence for sentence in sentences if sentence)


def _blocks_beside(name: str, found: dict) -> str:
    """Blocks compared with CCS or CCSR, for one kind of likeness."""
    parts = []
    for entry in found["comparisons"]:
        ours, theirs = (GROUPINGS[grouping] for grouping in entry["groupings"])
        if entry["groupings"][0] != "block":
            continue
        low, high = entry["interval"]
        verdict = "no difference that could be told"
        if low > 0 or high < 0:
            verdict = f"{ours if low > 0 else theirs} fits better"
        first, second = (percent(value, 0) for value in entry["auc"])
        parts.append(f"{first} % of comparisons with {ours}s and {second} % with {theirs} ({verdict})")
    if not parts:
        return ""
    return (
        f"Two codes of one group belong together {LIKENESS[name]} more than two of different groups in "
        f"{', '.join(parts)}; 50 % is chance."
    )


def _of_rows(compared: dict) -> str:
    likeness, correlations = compared["likeness"], compared["correlations"]["output_rows"]
    text = (
        f"The tree explains {percent(likeness['output_rows']['agreement']['tree']['explained'])} % of how alike the "
    )
    text += "model's rows of two codes are"
    started = likeness.get("descriptions", {"agreement": {"tree": None}})["agreement"]["tree"]
    if started is not None:
        text += (
            f", and {percent(started['explained'])} % of how alike their descriptions are, before any patient is seen"
        )
    if "company" in correlations:
        text += f"; the rows follow the company that codes keep (Spearman {correlations['company']:.2f})"
        if "descriptions" in correlations:
            text += f" beside the words (Spearman {correlations['descriptions']:.2f})"
    return text + ". Where L_CL was trained on levels of this tree, its rows agree with it by construction."


def alternatives(compared: dict) -> dict[str, str]:
    """What each plot of `drawing.ontology_plots` shows, in words for readers who cannot see it."""
    likeness = compared["likeness"]
    texts = {}

    def of_groups(name: str) -> str:
        found = likeness[name]["agreement"]
        values = [f"{GROUPINGS[g]} {percent(f['auc'], 0)} %" for g, f in found.items() if f is not None and "auc" in f]
        return f"{LIKENESS[name]}: {', '.join(values) or 'too few codes'}"

    texts["groupings"] = (
        "Dot plot of how often two codes of one group are more alike than two of different groups, 50 % is chance. "
        + "; ".join(map(of_groups, likeness))
        + "."
    )

    def of_levels(names: list[str]) -> str:
        return "; ".join(
            f"{LIKENESS[name]}: "
            + ", ".join(
                f"{shared_title(row['shared'])} {row['mean']:.2f}"
                for row in likeness[name]["by_level"]
                if "mean" in row
            )
            for name in names
        )

    for plot, names in panels(compared).items():
        texts[plot] = f"Box plots of likeness by what two codes share in the tree. Means: {of_levels(names)}."
    groups = worst_groups(compared)
    if groups:
        worst = [f"{GROUPINGS[name]} {group['group']} (z {group['z']:.1f})" for name, (group, *_) in groups.items()]
        texts["worst_groups"] = (
            "Dot plot of the groups whose codes keep the least company in common, against random groups of the same size. "
            f"The worst: {'; '.join(worst)}."
        )
    chapters = compared["chapters"]
    meetings = [
        (lift, chapters["chapters"][i], chapters["chapters"][j])
        for i, row in enumerate(chapters["log2_lift"])
        for j, lift in enumerate(row[:i])
    ]
    if meetings:
        most = [f"{a} and {b}, {2**lift:.1f} times" for lift, a, b in sorted(meetings, reverse=True)[:3]]
        texts["chapters"] = (
            "Heat map of how much more often than by chance two chapters meet in a visit. Of different chapters, most "
            f"often: {'; '.join(most)}."
        )
    return texts


def panels(compared: dict) -> dict[str, list[str]]:
    """The kinds of likeness of each box plot."""
    rows = [name for name in ("output_rows", "input_rows", "descriptions") if name in compared["likeness"]]
    return {"together_by_level": ["visit", "next_visit", "company"]} | ({"rows_by_level": rows} if rows else {})


def worst_groups(compared: dict, most: int = 6) -> dict[str, list[dict]]:
    """The worst groups of each grouping that has any, except `category`, where each group is one disease."""
    return {
        name: compared["groups"][name][:most]
        for name in ("chapter", "block", "ccs", "ccsr")
        if compared["groups"].get(name)
    }
