"""What each experiment trains: variants of one recipe, each of which changes one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mera_hf.data.memorizing import LEVEL_WORDS
from mera_hf.errors import InputError
from mera_hf.experiments import NAMES
from mera_hf.icd import ccsr_groups, level_groups
from mera_hf.training.hierarchy import SPACE, Hierarchy


RECIPE = "recipe"


@dataclass(frozen=True)
class Variant:
    """A training that differs from the recipe in one thing.

    Attributes:
        name (`str`): name of its runs; the same in all experiments.
        title (`str`): its row in a table.
        overrides (`tuple[str, ...]`): options that change the recipe, as `mera train` takes them.
        memorized (`bool`): whether it starts from the checkpoint that memorized the codes with the same seed.
        against (`str`): the variant that it is compared with.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()
    memorized: bool = False
    against: str = RECIPE


@dataclass(frozen=True)
class Design:
    """An experiment.

    Attributes:
        question (`str`): what it answers.
        variants (`tuple[Variant, ...]`): the others are compared with the first, unless they say otherwise.
        metrics (`tuple[str, ...]`): metrics that it is judged by: the first in the sentence, all in the plot.
        paper (`str`): what the paper reports on it (method.md), or that it is this project's question.
    """

    question: str
    variants: tuple[Variant, ...]
    metrics: tuple[str, ...] = ("recall@20", "weighted_f1_eov")
    paper: str = "This project's question."


AS_IT_IS = Variant(RECIPE, "the recipe")
MEMORIZED = Variant("memorized", "memorized first", memorized=True)


def row_title(row: dict) -> str:
    """The title of a row of an experiment.

    Older files call a row `chapter alone` whose options are `--levels space chapter`; it is `space + chapter` here.

    Args:
        row (`dict`): of the `rows` of `run_experiment`, with `title` and `options`.
    """
    title, end = row["title"], " alone"
    with_space = list(row["options"][:2]) == ["--levels", SPACE] and len(row["options"]) == 3
    return f"{SPACE} + {title.removesuffix(end)}" if with_space and title.endswith(end) else title


PARTS = {  # what an ablation leaves out: the part in words, and how to leave it out
    "no_contrast": ("L_CL", ("--contrastive-weight", "0")),
    "no_confidence": ("L_DCE", ("--eov-loss", "none")),
    "fixed_orders": ("perturbed orders", ("--perturb-orders", "false")),
    "no_partial": ("partial outputs", ("--prefix-share", "0")),
    "no_history_term": ("the history term", ("--history-term", "false")),
    "no_code_bias": ("the code bias", ("--code-bias", "false")),
    "no_head": ("history term and code bias", ("--history-term", "false", "--code-bias", "false")),
    "no_profile": ("the profile", ("--use-profile", "false")),
}


def plan(name: str, codes: Sequence[str], encoder: str | None = None, adapter: bool = False) -> Design:
    """The plan of an experiment.

    Args:
        name (`str`): one of [`NAMES`](mera_hf.experiments.NAMES).
        codes (`Sequence[str]`): codes of the dataset, which determine the levels.
        encoder (`str`, *optional*): the recipe's sentence encoder; without one, no variant uses one.
        adapter (`bool`, defaults to `False`): whether the recipe trains an adapter, so that LoRA would change nothing.

    Raises:
        [`~mera_hf.errors.InputError`]: for an unknown experiment, or one about levels where no two codes share a group.
    """
    if name not in NAMES:
        raise InputError(f"{name!r} is no experiment; choose one of {', '.join(NAMES)}.")
    plans = {
        "memorization": lambda: _memorization(encoder),
        "hierarchy": lambda: _hierarchy(codes),
        "eov": _eov,
        "ablation": lambda: _ablation(adapter),
        "ontology": lambda: _ontology(codes),
    }
    return plans[name]()


def _memorization(encoder: str | None) -> Design:
    rows = [
        Variant("rows_random", "rows start at random", ("--initialise", "random")),
        Variant("rows_description", "rows start as the words of descriptions", ("--initialise", "description")),
    ]
    if encoder:
        rows += [
            Variant("rows_encoder", "rows start as a sentence encoder's", ("--initialise", "encoder")),
            Variant(
                "rows_shuffled",
                "a sentence encoder's rows, shuffled among codes",
                ("--initialise", "encoder", "--shuffle-rows", "true"),
                against="rows_encoder",
            ),
        ]
    return Design(
        "Is memorizing what the codes mean worth anything for ranking, and is the start of the codes' rows?",
        (AS_IT_IS, MEMORIZED, *rows),
        paper="The paper: 99 % and more exact match in both directions after memorizing, 45 % for the best model without it.",
    )


def _levels(codes: Sequence[str]) -> list[str]:
    """The levels of the tree at which these codes share groups, coarsest first."""
    levels = Hierarchy(level_groups(list(codes)), len(codes)).levels
    if not levels:
        raise InputError("no two codes of the dataset share a group of the tree: there is no hierarchy to measure.")
    return levels


def _hierarchy(codes: Sequence[str]) -> Design:
    levels = _levels(codes)

    def of(*chosen: str) -> tuple[str, ...]:
        return ("--levels", *chosen)

    ends = [level for level in dict.fromkeys(("chapter", levels[-1])) if level in levels]
    variants = [Variant("levels_none", "the whole space alone", of(SPACE))]
    variants += [
        Variant(f"levels_only_{level}", f"{LEVEL_WORDS[level]} alone", of(level), against="levels_none")
        for level in ends
    ]
    variants += [
        Variant(f"levels_{level}", f"space + {LEVEL_WORDS[level]}", of(SPACE, level), against="levels_none")
        for level in ends
    ]
    full = of(SPACE, *levels)
    number = f"{len(levels)} levels" if len(levels) > 1 else "1 level"
    variants += [
        Variant("levels_all", f"the full hierarchy: space + {number}", full, against="levels_none"),
        Variant(
            "hierarchy_shuffled",
            "the full hierarchy, codes shuffled in it",
            ("--hierarchy", "shuffled", *full),
            against="levels_all",
        ),
        Variant("no_contrast", "no contrastive loss", ("--contrastive-weight", "0"), against="levels_none"),
    ]
    return Design(
        "Is the ICD hierarchy worth anything in the contrastive loss?",
        tuple(variants),
        paper="The paper: 7 to 10 points of F1 less without the hierarchical contrastive loss.",
    )


def _eov() -> Design:
    return Design(
        "What does the end-of-visit token know, and what does its loss bring?",
        (
            AS_IT_IS,
            Variant("eov_zlpr", "EOV loss in the form of ZLPR", ("--eov-loss", "zlpr")),
            Variant("eov_heavy", "EOV loss with weight 1", ("--confidence-weight", "1")),
            Variant("no_confidence", "no EOV loss", ("--eov-loss", "none")),
        ),
        metrics=("weighted_f1_eov", "recall@20"),
        paper="The paper: 4 points of F1 less without the dynamic confidence threshold.",
    )


def _ablation(adapter: bool) -> Design:
    lora = Variant(
        "memorized_lora",
        "memorized first, LoRA of rank 16 in place of full",
        ("--use-peft", "true", "--lora-r", "16", "--lora-alpha", "32"),
        memorized=True,
        against="memorized",
    )
    return Design(
        "What is each part of the method worth?",
        (
            AS_IT_IS,
            *(Variant(name, f"without {part}", options) for name, (part, options) in PARTS.items()),
            MEMORIZED,
            *([] if adapter else [lora]),
        ),
        paper="The paper: 7 to 10 points of F1 less without L_CL, 4 less without L_DCE, 17 points of recall@20 less by "
        "autoregressive decoding.",
    )


def _ontology(codes: Sequence[str]) -> Design:
    levels = _levels(codes)
    variants = [
        Variant("levels_none", "the whole space alone", ("--levels", SPACE)),
        Variant("levels_all", "the ICD tree", ("--levels", SPACE, *levels), against="levels_none"),
        Variant("ccs", "CCS groups", ("--hierarchy", "ccs", "--levels", SPACE, "ccs"), against="levels_none"),
    ]
    if all(map(ccsr_groups, codes)):
        variants.append(
            Variant("ccsr", "CCSR groups", ("--hierarchy", "ccsr", "--levels", SPACE, "ccsr"), against="levels_none")
        )
    return Design(
        "Does the ICD tree match how diseases occur together, and does another grouping do better?", tuple(variants)
    )
