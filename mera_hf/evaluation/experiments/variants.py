"""What each experiment trains: variants of one recipe, each with the one thing that it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mera_hf.data.memorizing import LEVEL_WORDS
from mera_hf.errors import InputError
from mera_hf.evaluation.experiments import NAMES
from mera_hf.icd import level_groups
from mera_hf.training.hierarchy import SPACE, Hierarchy


RECIPE = "recipe"


@dataclass(frozen=True)
class Variant:
    """A training that differs from the recipe in one thing.

    Attributes:
        name (`str`): of its runs; the same in all experiments.
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
class Plan:
    """An experiment.

    Attributes:
        question (`str`): what it answers.
        variants (`tuple[Variant, ...]`): the first is what the others are compared with, unless they say otherwise.
        metrics (`tuple[str, ...]`): what it is judged by: the first in the sentence, all in the plot.
        paper (`str`): what the paper reports of it (method.md), or that it is this project's question.
    """

    question: str
    variants: tuple[Variant, ...]
    metrics: tuple[str, ...] = ("recall@20", "weighted_f1_eov")
    paper: str = "This project's question."


AS_IT_IS = Variant(RECIPE, "the recipe")
MEMORIZED = Variant("memorized", "memorized first", memorized=True)


def plan(name: str, codes: Sequence[str], encoder: str | None = None, adapter: bool = False) -> Plan:
    """The plan of an experiment.

    Args:
        name (`str`): one of [`NAMES`](mera_hf.evaluation.experiments.NAMES).
        codes (`Sequence[str]`): codes of the dataset, which say what levels there are.
        encoder (`str`, *optional*): the recipe's sentence encoder; without one, no variant uses one.
        adapter (`bool`, defaults to `False`): whether the recipe trains an adapter, so that LoRA is no change.

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


def _memorization(encoder: str | None) -> Plan:
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
    return Plan(
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


def _hierarchy(codes: Sequence[str]) -> Plan:
    levels = _levels(codes)

    def of(*chosen: str) -> tuple[str, ...]:
        return ("--levels", SPACE, *chosen)

    variants = [Variant("levels_none", "no levels: all codes alone", of())]
    variants += [
        Variant(f"levels_{level}", f"{LEVEL_WORDS[level]} alone", of(level), against="levels_none")
        for level in dict.fromkeys(("chapter", levels[-1]))
        if level in levels
    ]
    variants += [
        Variant("levels_all", f"all {len(levels)} levels", of(*levels), against="levels_none"),
        Variant(
            "hierarchy_shuffled",
            "all levels, codes shuffled in the tree",
            ("--hierarchy", "shuffled", *of(*levels)),
            against="levels_all",
        ),
        Variant("no_contrast", "no contrastive loss", ("--contrastive-weight", "0"), against="levels_none"),
    ]
    return Plan(
        "Is the ICD hierarchy worth anything in the contrastive loss?",
        tuple(variants),
        paper="The paper: 7 to 10 points of F1 less without the hierarchical contrastive loss.",
    )


def _eov() -> Plan:
    return Plan(
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


def _ablation(adapter: bool) -> Plan:
    lora = Variant(
        "memorized_lora",
        "memorized first, LoRA of rank 16 in place of full",
        ("--use-peft", "true", "--lora-r", "16", "--lora-alpha", "32"),
        memorized=True,
        against="memorized",
    )
    return Plan(
        "What is each part of the method worth?",
        (
            AS_IT_IS,
            Variant("no_contrast", "without L_CL", ("--contrastive-weight", "0")),
            Variant("no_confidence", "without L_DCE", ("--eov-loss", "none")),
            Variant("fixed_orders", "without perturbed orders", ("--perturb-orders", "false")),
            Variant("no_partial", "without partial outputs", ("--prefix-share", "0")),
            Variant("no_history_term", "without the history term", ("--history-term", "false")),
            Variant("no_code_bias", "without the code bias", ("--code-bias", "false")),
            Variant(
                "no_head", "without history term and code bias", ("--history-term", "false", "--code-bias", "false")
            ),
            Variant("no_profile", "without the profile", ("--use-profile", "false")),
            MEMORIZED,
            *([] if adapter else [lora]),
        ),
        paper="The paper: 7 to 10 points of F1 less without L_CL, 4 less without L_DCE, 17 points of recall@20 less by "
        "autoregressive decoding.",
    )


def _ontology(codes: Sequence[str]) -> Plan:
    levels = _levels(codes)
    variants = [
        Variant("levels_none", "no levels: all codes alone", ("--levels", SPACE)),
        Variant("levels_all", "the ICD tree", ("--levels", SPACE, *levels), against="levels_none"),
        Variant("ccs", "CCS groups", ("--hierarchy", "ccs", "--levels", SPACE, "ccs"), against="levels_none"),
    ]
    if all(code.startswith("ICD10CM:") for code in codes):
        variants.append(
            Variant("ccsr", "CCSR groups", ("--hierarchy", "ccsr", "--levels", SPACE, "ccsr"), against="levels_none")
        )
    return Plan(
        "Does the ICD tree match how diseases occur together, and does another grouping do better?", tuple(variants)
    )
