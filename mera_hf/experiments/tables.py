"""The tables of an experiment, for terminals and in Markdown, with percent."""

from __future__ import annotations

from mera_hf.blocks import Table, markdown_table, plain_table, text_table
from mera_hf.evaluation.figures import COLUMNS, format_figure, mean_of, p_text, points
from mera_hf.evaluation.sections.severity import SAYS, correlation_rows
from mera_hf.experiments.variants import row_title
from mera_hf.icd import LEVELS


SHOWN = ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "new_recall@20", "mean_set_size")
QUESTIONS = {"code_to_definition": "code → definition", "definition_to_code": "definition → code"} | {
    f"code_to_{level}": f"code → {level.replace('subcategory', 'subcategory ')}" for level in LEVELS
}
WAYS = ("before", "seen", "unseen")
NOTES = (
    "Percent, sets in codes, seconds of training and measuring. Over several seeds: mean ± standard deviation. What each "
    "training had to choose (its cut, its calibration) was chosen on validation; the columns without that word are of test.",
    "Differences are in points, paired by patient, with 95 % intervals over patients and p-values by permutation; Holm's "
    "correction is for all that this table compares. *Seeds* is what each seed alone gives.",
)


def markdown(table: Table) -> str:
    """A table of an experiment in Markdown."""
    return markdown_table(table, spaced=True)


def figures_table(result: dict) -> Table:
    """The figures of each row, on validation and on test."""
    shown = [m for m in SHOWN if any(m in row["test"] for row in result["rows"])]
    rows = [
        [
            row_title(row),
            format_figure("recall@20", row["validation"].get("recall@20")),
            *(format_figure(metric, row["test"].get(metric)) for metric in shown),
            "–" if row["seconds"] is None else f"{mean_of(row['seconds']):.0f}",
        ]
        for row in result["rows"]
    ]
    return plain_table(["", "R@20 validation", *(COLUMNS[metric] for metric in shown), "seconds"], rows)


def differences_table(result: dict) -> Table:
    """The paired differences of the metrics that the experiment is judged by."""
    titles = {row["name"]: row_title(row) for row in result["rows"]}
    rows = []
    for row in result["rows"]:
        if row.get("same"):
            rows.append([row_title(row), titles[row["against"]], "the same training", *["–"] * 5])
        for each in row.get("differences", ()):
            if each["metric"] in result["metrics"]:
                rows.append(
                    [
                        row_title(row),
                        titles[row["against"]],
                        COLUMNS[each["metric"]],
                        points(each["difference"]),
                        " to ".join(map(points, each["interval"])),
                        p_text(each["p"]),
                        p_text(each["p_holm"]),
                        ", ".join(map(points, each["by_seed"])),
                    ]
                )
    return plain_table(["", "against", "of", "points", "95 % interval", "p", "p (Holm)", "seeds"], rows)


def options_table(result: dict) -> Table:
    """What each row changes in the recipe."""
    rows = [[row_title(row), f"`{' '.join(row['options'])}`"] for row in result["rows"] if row["options"]]
    return plain_table(["", "changes the recipe by"], rows)


def memorization_table(result: dict) -> Table:
    """Share of answers that are right to the last token, by question."""
    rows = [
        [question, *(format_figure(question, shares[way]) for way in WAYS)]
        for question, shares in exact_match_rows(result)
    ]
    headings = ["answers right to the last token", "before", "after, words trained on", "after, other words"]
    return plain_table(headings, rows)


def exact_match_rows(result: dict) -> list[tuple[str, dict]]:
    """Each question in words, and its share of right answers `before` memorizing, and then `seen` and `unseen`."""
    before, after = (result["memorization"][when] for when in ("before", "after"))
    return [
        (title, {"before": before[f"{name}_seen"], "seen": after[f"{name}_seen"], "unseen": after[f"{name}_unseen"]})
        for name, title in QUESTIONS.items()
        if f"{name}_seen" in after
    ]


def eov_table(result: dict) -> Table:
    """Spearman correlations of the model's measures with sizes and severity."""
    correlations = result["eov"]["correlations"]
    rows = correlation_rows(correlations, result["eov"].get("known", {}))
    return Table("", ["Spearman with", *(SAYS[name] for name in correlations)], rows)


_OWN = {"memorization": memorization_table, "eov": eov_table}


def own_tables(result: dict) -> list[Table]:
    """Tables of what the experiment measures besides its rows."""
    table = _OWN.get(result["experiment"])
    return [table(result)] if table else []


def experiment_text(result: dict) -> str:
    """The tables and the conclusion, for a terminal."""
    dataset = result["dataset"]
    tables = [figures_table(result), differences_table(result), *own_tables(result)]
    return "\n\n".join(
        [
            result["question"],
            f"{dataset['name']}: {dataset['patients']:,} test patients, {dataset['codes']:,} codes; percent",
            *map(text_table, tables),
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
        markdown(figures_table(result)),
        NOTES[0],
        markdown(differences_table(result)),
        NOTES[1],
        *(markdown(table) for table in own_tables(result)),
        *(f"![{text}]({name})" for name, text in pictures.items()),
        markdown(options_table(result)),
    ]
    if result["experiment"] == "ontology":
        blocks.append("The tree against how codes occur together, in full: [tree/table.md](tree/table.md).")
    return "\n\n".join(blocks) + "\n"
