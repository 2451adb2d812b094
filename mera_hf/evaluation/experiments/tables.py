"""The tables of an experiment, for terminals and in Markdown, with percent."""

from __future__ import annotations

from collections.abc import Sequence

from mera_hf.evaluation.calibration_words import correlation_rows
from mera_hf.evaluation.experiments.words import points
from mera_hf.evaluation.report.sections import p_text
from mera_hf.evaluation.results import COLUMNS, format_figure, mean_of
from mera_hf.evaluation.severity import SAYS


SHOWN = ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "new_recall@20", "mean_set_size")
QUESTIONS = {
    "code_to_definition": "code → definition",
    "definition_to_code": "definition → code",
    "code_to_chapter": "code → chapter",
    "code_to_block": "code → block",
    "code_to_category": "code → category",
}
NOTES = (
    "Percent, sets in codes, seconds of training and measuring. Over several seeds: mean ± standard deviation. What each "
    "training had to choose (its cut, its calibration) was chosen on validation; the columns without that word are of test.",
    "Differences are in points, paired by patient, with 95 % intervals over patients and p-values by permutation; Holm's "
    "correction is for all that this table compares. *Seeds* is what each seed alone gives.",
)

Table = tuple[list[str], list[list[str]]]  # headings and rows


def figures_table(result: dict) -> Table:
    """The figures of each row, on validation and on test."""
    shown = [m for m in SHOWN if any(m in row["test"] for row in result["rows"])]
    rows = [
        [
            row["title"],
            format_figure("recall@20", row["validation"].get("recall@20")),
            *(format_figure(metric, row["test"].get(metric)) for metric in shown),
            "–" if row["seconds"] is None else f"{mean_of(row['seconds']):.0f}",
        ]
        for row in result["rows"]
    ]
    return ["", "R@20 validation", *(COLUMNS[metric] for metric in shown), "seconds"], rows


def differences_table(result: dict) -> Table:
    """The paired differences of the metrics that the experiment is judged by."""
    titles = {row["name"]: row["title"] for row in result["rows"]}
    rows = []
    for row in result["rows"]:
        if row.get("same"):
            rows.append([row["title"], titles[row["against"]], "the same training", *["–"] * 5])
        for each in row.get("differences", ()):
            if each["metric"] in result["metrics"]:
                rows.append(
                    [
                        row["title"],
                        titles[row["against"]],
                        COLUMNS[each["metric"]],
                        points(each["difference"]),
                        " to ".join(map(points, each["interval"])),
                        p_text(each["p"]),
                        p_text(each["p_holm"]),
                        ", ".join(map(points, each["by_seed"])),
                    ]
                )
    return ["", "against", "of", "points", "95 % interval", "p", "p (Holm)", "seeds"], rows


def options_table(result: dict) -> Table:
    """What each row changes in the recipe."""
    rows = [[row["title"], f"`{' '.join(row['options'])}`"] for row in result["rows"] if row["options"]]
    return ["", "changes the recipe by"], rows


def memorization_table(result: dict) -> Table:
    """Answers that are right to the last token, by question."""
    rows = [
        [question, *(format_figure(question, shares[way]) for way in ("before", "seen", "unseen"))]
        for question, shares in exact_match_rows(result)
    ]
    return ["answers right to the last token", "before", "after, words trained on", "after, other words"], rows


def exact_match_rows(result: dict) -> list[tuple[str, dict]]:
    """Each question in words, and its share of right answers `before` memorizing, and after it `seen` and `unseen`."""
    before, after = (result["memorization"][when] for when in ("before", "after"))
    questions = dict.fromkeys(name.rsplit("_", 1)[0] for name in after)
    known = [question for question in QUESTIONS if question in questions]
    return [
        (
            QUESTIONS.get(question, question.replace("code_to_subcategory", "code → subcategory ")),
            {
                "before": before[f"{question}_seen"],
                "seen": after[f"{question}_seen"],
                "unseen": after[f"{question}_unseen"],
            },
        )
        for question in [*known, *sorted(questions.keys() - set(known))]
    ]


def eov_table(result: dict) -> Table:
    """Spearman's correlations of what the model says with sizes and severity."""
    correlations = result["eov"]["correlations"]
    rows = correlation_rows(correlations, result["eov"].get("known", {}))
    return ["Spearman with", *(SAYS[name] for name in correlations)], [[title, *texts] for title, texts in rows]


_OWN = {"memorization": memorization_table, "eov": eov_table}


def own_tables(result: dict) -> list[Table]:
    """What the experiment measures beyond its rows."""
    table = _OWN.get(result["experiment"])
    return [table(result)] if table else []


def experiment_text(result: dict) -> str:
    """The tables and what they say, for a terminal."""
    dataset = result["dataset"]
    tables = [figures_table(result), differences_table(result), *own_tables(result)]
    return "\n\n".join(
        [
            result["question"],
            f"{dataset['name']}: {dataset['patients']:,} test patients, {dataset['codes']:,} codes; percent",
            *map(_aligned, tables),
            result["says"],
        ]
    )


def experiment_markdown(result: dict, pictures: dict[str, str]) -> str:
    """The same in Markdown.

    Args:
        result (`dict`): from `run_experiment`.
        pictures (`dict[str, str]`): file of each plot to its alternative text.
    """
    dataset, seeds = result["dataset"], result["seeds"]
    said = ", ".join(map(str, seeds))
    blocks = [
        f"# {result['question']}",
        result["says"],
        f"{dataset['name']}, {dataset['patients']:,} test patients, {dataset['codes']:,} codes; recipe {result['recipe']}"
        + (f" with `{' '.join(result['overrides'])}`" if result["overrides"] else "")
        + f", {'seeds' if len(seeds) > 1 else 'seed'} {said}. {result['paper']}",
        _markdown(figures_table(result)),
        NOTES[0],
        _markdown(differences_table(result)),
        NOTES[1],
        *(_markdown(table) for table in own_tables(result)),
        *(f"![{text}]({name})" for name, text in pictures.items()),
        _markdown(options_table(result)),
    ]
    if result["experiment"] == "ontology":
        blocks.append("The tree against how codes occur together, in full: [tree/table.md](tree/table.md).")
    return "\n\n".join(blocks) + "\n"


def _markdown(table: Table) -> str:
    headings, rows = table
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _aligned(table: Table) -> str:
    headings, rows = table
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([line(headings), "─" * len(line(headings)), *map(line, rows)])
