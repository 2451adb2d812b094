"""Question-answer pairs that teach what each code means (paper, stage 'memorize'; the wording is this project's choice).

Three tasks: code -> definition, definition -> code, code -> each group of the tree that it is in. All wordings are
here. The last wording of each task is held out of training, to see whether the knowledge or the sentence was learned.
"""

from collections import Counter
from dataclasses import dataclass

from mera_hf.icd import code_tree


TEMPLATES = {
    "code_to_definition": (
        "What does {code} mean?",
        "Define {code}.",
        "The definition of {code} is",
        "Give the meaning of the code {code}.",
        "What is the definition of the code {code}?",  # held out
    ),
    "definition_to_code": (
        "Which code means {definition}?",
        "Find the code of {definition}.",
        "The code of {definition} is",
        "Give the code that means {definition}.",
        "What is the code of {definition}?",  # held out
    ),
    "code_to_group": (
        "Which {level} does {code} belong to?",
        "Name the {level} of {code}.",
        "The {level} of {code} is",
        "Give the {level} that {code} belongs to.",
        "What is the {level} of the code {code}?",  # held out
    ),
}
LEVEL_WORDS = {
    "chapter": "chapter",
    "block": "block",
    "category": "category",
    "subcategory1": "first subcategory",
    "subcategory2": "second subcategory",
    "subcategory3": "third subcategory",
    "subcategory4": "fourth subcategory",
}


@dataclass(frozen=True)
class Pair:
    """A question and its answer, as text with code tokens such as `<ICD9CM:250.23>` inside.

    Attributes:
        task: a key of `TEMPLATES`.
        wording: index into `TEMPLATES[task]`.
        question: the prompt.
        answer: what the model should say.
        code: the code that the pair is about.
        level: the level of the group asked for, such as `"chapter"`; `None` for the other tasks.
    """

    task: str
    wording: int
    question: str
    answer: str
    code: str
    level: str | None = None


def definitions(codes: list[str]) -> list[str]:
    """The description of each code, made distinct where codes share one.

    Codes whose descriptions differ only in case get their parent's description appended, or their number if that is
    the same too: otherwise definition -> code would have no unique answer (this project's choice).
    """
    texts = [code_tree(code).description(code) for code in codes]
    for detail in (_parent_description, lambda code: code.split(":")[1]):
        counts = Counter(text.lower() for text in texts)
        texts = [
            f"{text}, {detail(code)}" if counts[text.lower()] > 1 else text
            for code, text in zip(codes, texts, strict=True)
        ]
    return texts


def _parent_description(code: str) -> str:
    tree = code_tree(code)
    parent = tree.parent(code)
    return tree.description(parent) if parent else code


def memorizing_pairs(
    codes: list[str], held_out: bool = False, groups: bool = True, among: list[str] | None = None
) -> list[Pair]:
    """All pairs about `codes`: every training wording of every task, or the one held-out wording.

    Args:
        codes (`list[str]`): codes such as `ICD9CM:250.23`.
        held_out (`bool`, *optional*, defaults to `False`): the held-out wording instead of those for training.
        groups (`bool`, *optional*, defaults to `True`): whether to ask for the groups of a code.
        among (`list[str]`, *optional*): codes among which definitions are told apart, `codes` in them; by default those.
    """
    among = codes if among is None else among
    told = dict(zip(among, definitions(among), strict=True))
    pairs = []
    for code in codes:
        token, tree, definition = f"<{code}>", code_tree(code), told[code]
        tasks: list[tuple[str, dict[str, str], str, str | None]] = [
            ("code_to_definition", {"code": token}, definition, None),
            ("definition_to_code", {"definition": definition}, token, None),
        ]
        for node in tree.ancestors(code) if groups else ():
            fields = {"level": LEVEL_WORDS[tree.level(node)], "code": token}
            tasks.append(("code_to_group", fields, tree.description(node), tree.level(node)))
        for task, fields, answer, level in tasks:
            wordings = list(enumerate(TEMPLATES[task]))
            for wording, template in wordings[-1:] if held_out else wordings[:-1]:
                pairs.append(Pair(task, wording, template.format(**fields), answer, code, level))
    return pairs


def memorizing_texts(codes: list[str]) -> list[str]:
    """Every text of the pairs without code tokens: what a tokenizer built from scratch must know."""
    pairs = memorizing_pairs(codes) + memorizing_pairs(codes, held_out=True)
    return [text.replace(f"<{pair.code}>", " ") for pair in pairs for text in (pair.question, pair.answer)]
