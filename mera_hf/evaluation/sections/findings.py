"""Failure signatures: what is known to go wrong, seen in `metrics.json` and the training log; settings to change.

A finding is `{"signature", "says", "knob"}`: its name, what was seen in plain words with the figures, and the recipe
keys to change, without those that the training had already. The thresholds below are this project's choice, and wide, so
that a finding is worth reading.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from mera_hf.blocks import Block, Note, Paragraph
from mera_hf.evaluation.figures import AS_WELL, TITLES, format_figure, mean_of


MEMORIZED = 0.9  # exact match; the recipes reach 0.98 and more
HEAD = 0.9  # recall@10 / recall@20, as a share of the best reference ranker's ratio
SET_F1 = 0.8  # weighted F1 of the model's own set, as a share of that at the true size
LARGE, SMALL = 1.5, 0.67  # mean size of the sets / mean true size, if their F1 is low
HUGE, TINY = 3.0, 0.33  # the same, whatever their F1
EMPTY = 0.1  # share of patients with an empty set
OWN_CUT = 0.02  # weighted F1 of the set with a fitted offset of EOV minus that at EOV itself
CAP = 0.7  # mean true size / longest set that the model can give
OPTIMISM = 0.03  # recall@20 on validation minus that on test
CLIMB = 1.05  # loss at the end / lowest loss, each over a quarter of the log
FALL = 0.05  # share by which the loss must fall before its pace says anything
FEWEST_LINES = 8  # of the log: two per quarter


class Finding(TypedDict):
    """One failure signature."""

    signature: str  # its name
    says: str  # what was seen, with the figures
    knob: str  # keys of the recipe to change


LABEL, HEADING = "What to change", "What looks wrong, and what to change"


def findings(
    metrics: Mapping[str, Any],
    training: dict | None = None,
    memorization: dict | None = None,
    config: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """All failure signatures that the figures of a checkpoint show.

    Args:
        metrics (`dict`): the content of a `metrics.json`, with `mera` among its rankers.
        training (`dict`, *optional*): the content of the `training.json` that `mera train` leaves beside the checkpoint.
        memorization (`dict`, *optional*): exact match after memorizing, as in `memorization.json`.
        config (`dict`, *optional*): the content of the checkpoint's `config.json`. With the `settings` in `training.json` it
            says what the training had; a setting that is not known may be advised in vain.

    Returns:
        `list[dict[str, str]]`: `signature`, `says` and `knob` of each; empty if nothing is suspicious.
    """
    training = training or {}
    had = {**(config or {}), **training.get("settings", {})}
    return [
        *_of_memorizing(memorization or {}),
        *_of_ranking(metrics, had),
        *_of_sets(metrics["rankers"]["mera"], had),
        *_of_own_cut(metrics.get("cuts", {}), had),
        *_of_log(training.get("log", []), had),
        *_of_validation(metrics, training),
    ]


def findings_text(metrics: Mapping[str, Any], has_log: bool) -> str:
    """The findings for a terminal, or what was looked at if there are none.

    Args:
        metrics (`dict`): with the section `findings`.
        has_log (`bool`): whether there was a training log to look at.
    """
    found = metrics["findings"]
    if not found:
        seen = {
            "ranking": True,
            "set sizes": "weighted_f1_eov" in metrics["rankers"]["mera"],
            "use of the history": "shuffled_history" in metrics["controls"],
            "training log": has_log,
        }
        missing = [name for name, there in seen.items() if not there]
        text = "nothing suspicious: " + ", ".join(name for name, there in seen.items() if there)
        return text + (f" (not looked at: {', '.join(missing)})" if missing else "")
    lines = ["worth a look:"]
    for finding in found:
        lines += [f"  {finding['says']}", f"    -> {finding['knob']}"]
    return "\n".join(lines)


def blocks(report: Mapping[str, Any]) -> list[Block]:
    """The section of a page, where findings were looked for."""
    found = report["metrics"].get("findings")
    if found is None:
        return []
    if not found:
        text = "None of the known signs of a training that went wrong is in these figures."
        return [Paragraph(text, "note good", "✓ None recognised.")]
    return [
        Note(
            [Paragraph(each["says"]), Paragraph(each["knob"], strong="What to turn:")],
            "warn",
            each["signature"].replace("_", " ").capitalize(),
        )
        for each in found
    ]


def _finding(signature: str, says: str, *knobs: str, had: Mapping[str, Any] | None = None) -> Finding:
    """A finding with its advice, most useful first; what names the value that a setting `had` already, as in
    `history_term: true`, is left out."""
    return {
        "signature": signature,
        "says": says,
        "knob": "; ".join(each for each in knobs if not _is_so(each, had or {})),
    }


def _is_so(knob: str, had: Mapping[str, Any]) -> bool:
    named = re.findall(r"`(\w+): ([\w.]+)`", knob)
    return bool(named) and all(name in had and _as_in_recipe(had[name]) == value for name, value in named)


def _as_in_recipe(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _of_memorizing(shares: dict) -> Iterator[Finding]:
    titles = {"code_to_definition": "code -> definition", "definition_to_code": "definition -> code"}
    for key, title in titles.items():
        seen, unseen = shares.get(f"{key}_seen", 1.0), shares.get(f"{key}_unseen", 1.0)
        if seen < MEMORIZED:
            yield _finding(
                "little_memorized",
                f"After memorizing, {title} is right to the last token for {_percent(seen)} of the codes: too little "
                "memorizing, or too small a base.",
                "memorize recipe: `num_train_epochs` up, then `learning_rate`; then a larger base",
            )
        elif unseen < MEMORIZED:
            yield _finding(
                "wording_memorized",
                f"After memorizing, {title} is right for {_percent(seen)} of the codes as they were asked in training and for "
                f"{_percent(unseen)} in another wording: the question was learned with the answer.",
                "memorize recipe: `num_train_epochs` up, so that each code is asked in every wording; then a larger base",
            )


def _of_ranking(metrics: Mapping[str, Any], had: Mapping[str, Any]) -> Iterator[Finding]:
    rankers = metrics["rankers"]
    mera, references = rankers["mera"], {name: figures for name, figures in rankers.items() if name != "mera"}
    metric = "recall@20" if "recall@20" in mera else "recall@10"
    own = mean_of(mera[metric])
    simple = [name for name in ("prevalence", "copy_history") if name in references]
    ahead = [name for name in simple if mean_of(references[name][metric]) >= own]
    if ahead:
        best = max(ahead, key=lambda name: mean_of(references[name][metric]))
        yield _finding(
            f"behind_{best}",
            f"{metric} is {format_figure(metric, mera[metric])} %, and {TITLES[best]}, which trains nothing, has "
            f"{format_figure(metric, references[best][metric])} %: training has taken away more than it brought.",
            *("`history_term: true`", "`code_bias: true`", "`start_head: true`", "a lower `learning_rate`"),
            *("with few patients `zero_readout: true`", "with few patients fewer `num_train_epochs`"),
            had=had,
        )
    heads = {
        name: mean_of(figures["recall@10"]) / max(mean_of(figures["recall@20"]), 1e-9)
        for name, figures in rankers.items()
        if "recall@20" in figures
    }
    if "mera" in heads and len(heads) > 1:
        best = max((name for name in heads if name != "mera"), key=lambda name: mean_of(rankers[name]["recall@20"]))
        if heads["mera"] < HEAD * heads[best]:
            yield _finding(
                "poor_head",
                f"Of the true codes among the first 20, {_percent(heads['mera'])} are among the first 10; {TITLES[best]} has "
                f"{_percent(heads[best])} there: the right codes are found and poorly ordered.",
                *("L_CL: `contrastive_weight` up", "`tau` down"),
                *([] if {"chapter", "block"} <= _levels(had) else ["`levels` with chapter and block"]),
                "`first_weight` up",
            )
    control = metrics["controls"].get("shuffled_history", {})
    if metric in control and own - mean_of(control[metric]) < AS_WELL:
        yield _finding(
            "ignores_history",
            f"Shown another patient's history, {metric} is {format_figure(metric, control[metric])} % instead of "
            f"{format_figure(metric, mera[metric])} %: the ranking hardly depends on the history.",
            *("`history_term: true`", "`num_train_epochs` or `learning_rate` up"),
            *(["`max_length` up, if it cuts histories off"] if had.get("max_length", 1) else []),
            had=had,
        )


def _levels(had: Mapping[str, Any]) -> set[str]:
    """Levels of the contrast, as far as they are known; by default there are all of them."""
    if "levels" not in had or had.get("hierarchy", "icd") != "icd":
        return set()
    return {"chapter", "block"} if had["levels"] is None else set(had["levels"])


def _of_sets(mera: dict, had: Mapping[str, Any]) -> Iterator[Finding]:
    if "weighted_f1_eov" not in mera:
        return
    names = ("weighted_f1_eov", "weighted_f1", "mean_set_size", "mean_true_size", "empty_set_share")
    own, oracle, size, true, empty = (mean_of(mera[name]) for name in names)
    low = own < SET_F1 * oracle
    says = f"The sets that EOV cuts have {size:.1f} codes per patient, {true:.1f} were true; their weighted F1 is "
    says += f"{_percent(own)}, that of the same ranking at the true size {_percent(oracle)}"
    rerank_depth = had.get("rerank_depth", 0)
    # A weight is of no use to a loss that was not there
    louder = ["`confidence_weight` up"] if had.get("eov_loss") != "none" else ["`eov_loss: atlop`"]
    if (low and size > LARGE * true) or size > HUGE * true:
        yield _finding(
            "eov_over_predicts",
            f"{says}: EOV lets too many codes through.",
            *(*louder, "`eov_loss: zlpr`", "more validation patients to fit the cut on"),
            had=had,
        )
    elif (low and size < SMALL * true) or size < TINY * true:
        yield _finding(
            "eov_under_predicts",
            f"{says}: EOV keeps too many codes out.",
            *("`eov_loss: zlpr`", *louder, "more validation patients to fit the cut on"),
            had=had,
        )
    elif low:
        yield _finding(
            "eov_undertrained",
            f"{says}: as large as the true ones on average, and not for the patients who need it.",
            *(*louder, "`num_train_epochs` up"),
            *(["`prefix_share` up, so that EOV sees visits in part"] if had.get("prefix_share", 0) < 1 else []),
        )
    if empty > EMPTY:
        yield _finding(
            "empty_sets",
            f"{_percent(empty)} of the patients get an empty set, and nobody's true set is empty.",
            *(*louder, "for those patients read the ranking, which is always there"),
        )
    if rerank_depth and true > CAP * rerank_depth:
        yield _finding(
            "sets_capped",
            f"A set has {rerank_depth} codes at most, the depth to which the ranking is ordered anew, and {true:.1f} are true "
            "on average: for many patients the cut lies at its edge.",
            "`rerank_depth: 0`, or twice the size of a visit",
        )


def _of_own_cut(cuts: Mapping[str, Any], had: Mapping[str, Any]) -> Iterator[Finding]:
    if not cuts:
        return
    own, fitted = (mean_of(cuts[way]["weighted_f1_eov"]) for way in ("own", "fitted"))
    if fitted - own > OWN_CUT:
        yield _finding(
            "eov_cuts_badly",
            f"At EOV as it was trained, sets have {mean_of(cuts['own']['mean_set_size']):.1f} codes per patient and a "
            f"weighted F1 of {_percent(own)}; with an offset fitted on validation it is {_percent(fitted)}: EOV has not "
            "learned where the ranking ends, and the fit does its work.",
            "`eov_loss: count`",
            had=had,
        )


def _of_log(log: Sequence[dict], had: Mapping[str, Any]) -> Iterator[Finding]:
    broken = [
        line for line in log for name in ("loss", "grad_norm", "eval_loss") if not math.isfinite(line.get(name, 0.0))
    ]
    if broken:
        yield _finding(
            "loss_not_finite",
            f"At step {broken[0].get('step', '?')} the loss or its gradient was not a number.",
            *("`learning_rate` down", "`warmup_steps` up", "`max_grad_norm: 1.0`"),
            *(["`bf16` instead of `fp16`"] if had.get("fp16", True) else []),
            had=had,
        )
        return
    training, validation = _quarters(log, "loss"), _quarters(log, "eval_loss")
    if training and training[-1] > CLIMB * min(training):
        yield _finding(
            "loss_diverged",
            f"The training loss was down to {min(training):.3f} and ends at {training[-1]:.3f} (quarters of the log).",
            *("`learning_rate` down", "`warmup_steps` up", "`max_grad_norm: 1.0`"),
            had=had,
        )
    elif validation and validation[-1] > min(validation) * 1.02:
        yield _finding(
            "overfitted",
            f"The loss on validation was down to {min(validation):.3f} and ends at {validation[-1]:.3f}: the model has gone "
            "on to learn its training patients by heart.",
            *("fewer `num_train_epochs`", "`load_best_model_at_end: true`", "`hidden_dropout` and `weight_decay` up"),
            had=had,
        )
    # Loss on validation is the better sign, if it was measured
    losses = validation or training
    if losses and losses[0] - losses[-1] > FALL * losses[0] and losses[2] - losses[3] > (losses[0] - losses[3]) / 3:
        yield _finding(
            "still_falling",
            f"The loss was still falling at the end, as fast as over the whole training: {losses[0]:.3f}, {losses[1]:.3f}, "
            f"{losses[2]:.3f}, {losses[3]:.3f} in the quarters of the log.",
            "`num_train_epochs` up, or `learning_rate` up",
        )


def _quarters(log: Sequence[dict], name: str) -> list[float]:
    """Mean of a figure in each quarter of the log; nothing if there are too few lines."""
    values = [line[name] for line in log if name in line]
    if len(values) < FEWEST_LINES:
        return []
    cuts = [len(values) * quarter // 4 for quarter in range(5)]
    return [statistics.fmean(values[begin:end]) for begin, end in zip(cuts, cuts[1:], strict=False)]


def _of_validation(metrics: Mapping[str, Any], training: dict) -> Iterator[Finding]:
    before, figures = training.get("validation") or {}, metrics["rankers"]["mera"]
    if metrics["dataset"]["split"] != "test" or "recall@20" not in before or "recall@20" not in figures:
        return
    validation, test = before["recall@20"], mean_of(figures["recall@20"])
    high = metrics.get("intervals", {}).get("mera", {}).get("recall@20", [test, test])[1]
    if validation - test > OPTIMISM and validation > high:
        yield _finding(
            "validation_above_test",
            f"recall@20 is {_percent(validation)} on validation and {_percent(test)} on test: choices fitted the validation "
            "patients, or the test patients are others.",
            "`mera prepare --split`: look at how the patients were split; fewer choices, or more validation patients",
        )
