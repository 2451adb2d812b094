"""The tables of an experiment, for terminals and in Markdown, with percent."""

from __future__ import annotations

from mera_hf.blocks import Table, markdown_table, plain_table, text_table
from mera_hf.evaluation.figures import COLUMNS, count_text, format_figure, mean_of, p_text, percent, points
from mera_hf.evaluation.sections.severity import SAYS, correlation_rows
from mera_hf.experiments.held_out import DIRECTIONS, EVERY, KINDS, VISITS, knowledge_of, place_text
from mera_hf.experiments.variants import row_title
from mera_hf.icd import LEVELS


SHOWN = ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "new_recall@20", "mean_set_size")
QUESTIONS = {"code_to_definition": "code → definition", "definition_to_code": "definition → code"} | {
    f"code_to_{level}": f"code → {level.replace('subcategory', 'subcategory ')}" for level in LEVELS
}
KNOWLEDGE = ("codes", "code → definition", "token F1", "definition → code", "token F1", "place of the code")
WAYS = ("before", "seen", "unseen")
NOTES = (
    "Percent, sets in codes, seconds of training and measuring. Over several seeds: mean ± standard deviation. What each "
    "training had to choose (its cut, its calibration) was chosen on validation; the columns without that word are of test.",
    "Differences are in points, paired by patient, with 95 % intervals over patients and p-values by permutation; Holm's "
    "correction is for all that this table compares. *Seeds* is what each seed alone gives.",
)
HELD_OUT_NOTE = (
    "Held-out codes: no question of the training was about them, and their rows are as they started. Percent. *Token F1* "
    "counts the tokens that answer and expected answer share, as SQuAD does; the columns without that word are answers right "
    "to the last token. *Place of the code*: where the right code stands among all codes by the likelihood of the answer, on "
    "average, ties in the middle."
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


def held_out_table(result: dict) -> Table:
    """What each model knows of codes that were held out of the questions, and of the others."""
    rows = [
        [f"{model['title']}: {words}", *_knowledge(model, kind, EVERY)]
        for model in result["memorization"]["held_out"]["models"]
        for kind, words in KINDS.items()
    ]
    return plain_table(["with codes held out", *KNOWLEDGE], rows)


def held_out_by_visits_table(result: dict) -> Table:
    """The same by how many training visits have the code."""
    rows = [
        [f"{model['title']}: {words}, {visits} visits", *_knowledge(model, kind, visits)]
        for model in result["memorization"]["held_out"]["models"]
        for kind, words in KINDS.items()
        for visits in VISITS
        if visits != EVERY
    ]
    return plain_table(["by training visits with the code", *KNOWLEDGE], [row for row in rows if row[1] != "–"])


def _knowledge(model: dict, kind: str, visits: str) -> list[str]:
    """The cells of a group of codes below [`KNOWLEDGE`]."""
    forward, back = (knowledge_of(model, question, kind, visits) for question in DIRECTIONS)
    return [
        count_text(forward.get("count")),
        percent(forward.get("exact_match")),
        percent(forward.get("token_f1")),
        percent(back.get("exact_match")),
        percent(back.get("token_f1")),
        place_text(back.get("place")),
    ]


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


def own_tables(result: dict) -> list[Table]:
    """Tables of what the experiment measures besides its rows."""
    if result["experiment"] == "eov":
        return [eov_table(result)]
    if result["experiment"] == "memorization":
        tables = [memorization_table]
        if "held_out" in result["memorization"]:  # older files are without
            tables += [held_out_table, held_out_by_visits_table]
        return [table(result) for table in tables]
    return []


def _own_notes(result: dict) -> list[str]:
    """What to know of the tables of [`own_tables`]."""
    held_out = result.get("memorization", {}).get("held_out")
    if not held_out:
        return []
    sizes = ", ".join(f"{model['title']} {model['parameters']:,}" for model in held_out["models"])
    return [f"{HELD_OUT_NOTE} Parameters: {sizes}."]


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
        *_own_notes(result),
        *(f"![{text}]({name})" for name, text in pictures.items()),
        markdown(options_table(result)),
    ]
    if result["experiment"] == "ontology":
        blocks.append("The tree against how codes occur together, in full: [tree/table.md](tree/table.md).")
    return "\n\n".join(blocks) + "\n"
