"""What an experiment's figures say, in rule-based sentences. Every number in them is one of the figures."""

from __future__ import annotations

from collections.abc import Sequence

from mera_hf.evaluation.figures import AS_WELL, COLUMNS, format_figure, mean_of, percent, points
from mera_hf.evaluation.sections.controls import CONTROLS
from mera_hf.evaluation.sections.severity import SAYS as MEASURES
from mera_hf.experiments.held_out import DIRECTIONS, knowledge_of, place_text
from mera_hf.experiments.ontology import finding
from mera_hf.experiments.variants import PARTS, row_title


SURE = 0.05  # level for the p-value, which is corrected for all rows
ONE_SIZE = 0.8  # if this share of visits has one size, sizes hardly differ
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "a little better": "better by less than one point",
    "a little worse": "worse by less than one point",
    "equal": "no difference of one point",
    "open": "no difference that these patients could show",
}
ANSWERS = ("Yes", "In part", "A little", "Not that could be shown", "No")  # the best first
OWN_CUT = "_own_cut"  # suffix of the rows whose set is cut at EOV's own logit
ONE_SEED = "This is one seed; what other seeds would change is not known."


def judge(difference: dict) -> str:
    """One of [`VERDICTS`] for one entry of a row's `differences`.

    A difference is sure if its p-value, corrected for all rows of the experiment, is below 0.05, its interval over patients
    excludes 0, and every seed shows the same sign. Otherwise there is no difference if the whole interval is below one
    point; else the question is open (this project's choice).
    """
    low, high = difference["interval"]
    signs = {seed > 0 for seed in difference["by_seed"]} | {difference["difference"] > 0}
    if difference["p_holm"] < SURE and not low <= 0 <= high and len(signs) == 1:
        way = "better" if difference["difference"] > 0 else "worse"
        return way if abs(difference["difference"]) >= AS_WELL else f"a little {way}"
    return "equal" if max(abs(low), abs(high)) < AS_WELL else "open"


def verdicts(row: dict, metrics: Sequence[str]) -> str:
    """What the differences of a row say: `R@20 +0.2 points (-0.1 to +0.5), no difference of one point; ...`."""
    return "; ".join(
        f"{COLUMNS[each['metric']]} {points(each['difference'])} points ({' to '.join(map(points, each['interval']))}), "
        f"{VERDICTS[judge(each)]}"
        for each in _judged(row, metrics)
    )


def answer(row: dict, metrics: Sequence[str]) -> str:
    """Whether a row gains anything: one of [`ANSWERS`]."""
    found = {judge(each) for each in _judged(row, metrics)}
    loses = found & {"worse", "a little worse"}
    if found & {"better", "a little better"} and loses:
        return "In part"
    if "better" in found:
        return "Yes"
    if "a little better" in found:
        return "A little"
    return "No" if loses or found == {"equal"} else "Not that could be shown"


def conclusion(result: dict) -> str:
    """The experiment in short, the answer to its question first; see `run_experiment` for what `result` holds."""
    rows = {row["name"]: row for row in result["rows"]}
    sentences = _CONCLUSIONS[result["experiment"]](result, rows, result["metrics"])
    if len(result["seeds"]) == 1:
        sentences.append(ONE_SEED)
    return " ".join(sentence for sentence in sentences if sentence)


def _judged(row: dict, metrics: Sequence[str]) -> list[dict]:
    by_metric = {each["metric"]: each for each in row.get("differences", ())}
    return [by_metric[metric] for metric in metrics if metric in by_metric]


def _memorization(result: dict, rows: dict[str, dict], metrics: Sequence[str]) -> list[str]:
    memorized = rows["memorized"]
    sentences = [f"{answer(memorized, metrics)}: {_uncapital(_control('with_memorizing', memorized, metrics))}"]
    for name, control in (
        ("rows_random", "random_rows"),
        ("rows_description", "description_rows"),
        ("rows_shuffled", "shuffled_rows"),
    ):
        if "differences" in rows.get(name, {}):
            sentences.append(_control(control, rows[name], metrics))
    asked = result["memorization"]
    said, other, before = (
        [f"{format_figure(question, asked[when][f'{question}_{wording}'])} %" for question in DIRECTIONS]
        for when, wording in (("after", "seen"), ("after", "unseen"), ("before", "seen"))
    )
    sentences.append(
        f"After memorizing, the model gives the definition of a code to the last token in {said[0]} and the code of a "
        f"definition in {said[1]} of cases ({other[0]} and {other[1]} when asked in words that it was not trained on); "
        f"before, in {before[0]} and {before[1]}."
    )
    if "held_out" in asked:  # older files are without
        sentences += _of_held_out(asked["held_out"])
    return sentences


def _of_held_out(held_out: dict) -> list[str]:
    """What each model says of codes that were not in the questions, against those that were."""
    sentences = []
    for model in held_out["models"]:
        forward, back = ([knowledge_of(model, way, kind) for kind in ("seen", "held_out")] for way in DIRECTIONS)
        said, alike, found = (
            [percent(group[measure]) for group in groups]
            for groups, measure in ((forward, "exact_match"), (forward, "token_f1"), (back, "exact_match"))
        )
        places = [place_text(group["place"]) for group in back]
        sentences.append(
            f"With {100 * held_out['share']:.0f} % of the codes held out of the questions, the {model['title']} gives the "
            f"definition of the others in {said[0]} % of cases and of these in {said[1]} % (token F1 {alike[0]} and "
            f"{alike[1]}), and the code of a definition in {found[0]} % and {found[1]} %; the right code stands at place "
            f"{places[0]} and {places[1]} of {held_out['codes']:,} on average, by chance at {(held_out['codes'] + 1) / 2:.1f}."
        )
    return sentences


def _hierarchy(result: dict, rows: dict[str, dict], metrics: Sequence[str]) -> list[str]:
    choices = [row for name, row in rows.items() if name.startswith("levels_") and "differences" in row]
    return [
        _of_choices(choices, metrics, "no choice of levels is shown to do better than none"),
        _control("shuffled_hierarchy", rows["hierarchy_shuffled"], metrics),
        _sentence(rows["no_contrast"], metrics),
    ]


def _eov(result: dict, rows: dict[str, dict], metrics: Sequence[str]) -> list[str]:
    correlations = result["eov"]["correlations"]
    size = correlations["set_size"].get("true_size")
    amounts = {"hardly": "Hardly anything", "weakly": "Little", "moderately": "Something", "strongly": "Much"}
    first = f"{amounts[strength(size)] if size else 'Nothing'}: "
    texts = []
    for name, others in correlations.items():
        pairs = [(other, others.get(other)) for other in ("true_size", "comorbidities", "drg_severity")]
        goes = [f"{_goes(found)} with {_measure(other)} ({_rho(found)})" for other, found in pairs if found]
        if goes and name != "expected_codes":
            texts.append(f"{_measure(name)} {' and '.join(goes)}")
    sentences = [f"{first}{'; '.join(texts) or 'its set is always of one size'}."]
    commonest = result["eov"]["commonest_size"]
    if commonest["share"] > ONE_SIZE:
        sentences.append(
            f"{100 * commonest['share']:.0f} % of these visits have {commonest['codes']} codes, so that there is hardly a "
            "size to know."
        )
    own = rows["recipe_own_cut"]
    sentences.append(
        f"Cut at EOV's own logit instead of where validation puts the cut: {verdicts(own, metrics[:1])}.{_of_empty_sets(own)}"
    )
    for where, ending in (("at EOV's own logit", OWN_CUT), ("where validation puts the cut", "")):
        others = [(row, rows.get(f"{name}{ending}", {})) for name, row in rows.items() if row["seconds"] is not None]
        said = [
            f"{row_title(row)}, {verdicts(other, metrics[:1])}" for row, other in others[1:] if "differences" in other
        ]
        if said:
            sentences.append(f"Against the recipe, both cut {where}: {'; '.join(said)}.")
    return sentences


EFFECTS = {  # what leaving a part out does, by verdict
    "costs": "Leaving out one of these costs a point or more",
    "little": "Leaving out one of these changes less than a point, but surely",
    "gains": "Leaving out one of these gains a point or more",
    "open": "Whether leaving out these changes anything, these patients could not show",
    "nothing": "Leaving out one of these changes nothing of a point",
}


def _ablation(result: dict, rows: dict[str, dict], metrics: Sequence[str]) -> list[str]:
    parts: dict[str, list[str]] = {kind: [] for kind in EFFECTS}
    for row in rows.values():
        if row["name"] not in PARTS or "differences" not in row:
            continue
        found = {judge(each) for each in _judged(row, metrics)}
        shown = (
            ("costs", "worse" in found),
            ("gains", "better" in found),
            ("little", found & {"a little worse", "a little better"}),
            ("open", "open" in found),
            ("nothing", True),
        )
        kind = next(kind for kind, is_so in shown if is_so)
        parts[kind].append(f"{PARTS[row['name']][0]} ({_short(row, metrics)})")
    sentences = [] if parts["costs"] else ["No part is shown to be worth a point here."]
    sentences += [f"{words}: {', '.join(parts[kind])}." for kind, words in EFFECTS.items() if parts[kind]]
    return sentences + [
        _sentence(rows[name], metrics) + _of_empty_sets(rows[name])
        for name in ("memorized", "memorized_lora", "decoded", "decoded_20")
        if "differences" in rows.get(name, {})
    ]


def _ontology(result: dict, rows: dict[str, dict], metrics: Sequence[str]) -> list[str]:
    sentences = []
    for version, compared in result["ontology"]["versions"].items():
        tree = compared["likeness"]["visit"]["agreement"]["tree"]
        word = (
            ""
            if tree is None
            else f"{strength({'rho': tree['spearman'], 'interval': tree['interval']}).capitalize()}. "
        )
        sentences.append(word + finding(version, compared))
    choices = [row for row in rows.values() if "differences" in row]
    used = _of_choices(choices, metrics, "no grouping is shown to do better than none")
    return [*sentences, f"Does a grouping help in the contrastive loss? {used}"]


_CONCLUSIONS = {
    "memorization": _memorization,
    "hierarchy": _hierarchy,
    "eov": _eov,
    "ablation": _ablation,
    "ontology": _ontology,
}


def _of_choices(rows: Sequence[dict], metrics: Sequence[str], none: str) -> str:
    """Whether any of several choices gains anything: the best answer, and its evidence."""
    answers = {row["name"]: answer(row, metrics) for row in rows}
    best = min(answers.values(), key=ANSWERS.index)
    if ANSWERS.index(best) <= ANSWERS.index("A little"):
        winners = [row for row in rows if answers[row["name"]] == best]
        return f"{best}: " + " ".join(_sentence(row, metrics) for row in winners)
    changes = []
    for metric in metrics:
        found = [each for row in rows for each in _judged(row, [metric])]
        low, high = (pick(each["difference"] for each in found) for pick in (min, max))
        ends = min(each["interval"][0] for each in found), max(each["interval"][1] for each in found)
        changes.append(
            f"{COLUMNS[metric]} changes by {_range(low, high)} points (all intervals within {' to '.join(map(points, ends))})"
        )
    worse = [row for row in rows if {judge(each) for each in _judged(row, metrics)} & {"worse", "a little worse"}]
    text = f"{best}: {none}; {', '.join(changes)}."
    if worse:
        named = [f"{row_title(row)} ({_short(row, metrics)})" for row in worse]
        text += f" Shown to do worse: {', '.join(named)}."
    return text


def _control(name: str, row: dict, metrics: Sequence[str]) -> str:
    """What a control does, and what that means."""
    words, found = CONTROLS[name], {judge(each) for each in _judged(row, metrics)}
    text = f"{words.change}: {verdicts(row, metrics)}."
    if "worse" in found:
        return f"{text} {words.loss}"
    if "better" in found:
        return f"{text} It does better so."
    if "open" in found:
        return f"{text} These patients are too few to say whether it does as well."
    if "a little worse" in found:
        text += " Less than one point counts as doing as well here:"
        return f"{text} {_uncapital(words.meaning)}"
    return f"{text} {words.meaning}"


def _sentence(row: dict, metrics: Sequence[str]) -> str:
    title = row_title(row)
    return f"{title[0].upper()}{title[1:]}: {verdicts(row, metrics)}."


def _of_empty_sets(row: dict) -> str:
    size = row["test"].get("mean_set_size")
    if size is None or mean_of(size) >= 1:
        return ""
    return f" Its sets have {mean_of(size):.1f} codes on average: EOV's own logit stands above nearly every code's."


def _short(row: dict, metrics: Sequence[str]) -> str:
    return ", ".join(f"{COLUMNS[each['metric']]} {points(each['difference'])}" for each in _judged(row, metrics))


def _range(low: float, high: float) -> str:
    return points(low) if points(low) == points(high) else f"{points(low)} to {points(high)}"


def _uncapital(text: str) -> str:
    return text[0].lower() + text[1:]


def _measure(name: str) -> str:
    """A measure's name inside a sentence."""
    number = {"set_size": "codes above EOV", "true_size": "true codes", "comorbidities": "comorbidities"}
    return f"the number of {number[name]}" if name in number else f"the {MEASURES[name]}"


def strength(correlation: dict) -> str:
    """A correlation in a word, with Cohen's bounds of 0.1, 0.3 and 0.5; `hardly` if the interval contains 0."""
    low, high = correlation["interval"]
    rho = abs(mean_of(correlation["rho"]))
    if low <= 0 <= high or rho < 0.1:
        return "hardly"
    return "weakly" if rho < 0.3 else "moderately" if rho < 0.5 else "strongly"


def _goes(correlation: dict) -> str:
    word = strength(correlation)
    return "hardly goes" if word == "hardly" else f"goes {word}"


def _rho(correlation: dict) -> str:
    low, high = correlation["interval"]
    rho, low, high = (f"{round(number, 2) + 0.0:.2f}" for number in (mean_of(correlation["rho"]), low, high))
    return f"Spearman {rho}, {low} to {high}"
