"""Which numbers a card's text holds, and which its files know: for the claim that a card makes none up."""

import re


NUMBER = re.compile(r"(?<![\w.@])\d[\d,]*(?:\.\d+)?(?![\w]*-[A-Z])")
# What is said of every figure: 95 % intervals, the first 40 codes of calibration, R@10 and R@20 in words, < 10 patients,
# `--coverage 0.9` and perfect nDCG are parts of definitions
DEFINITIONS = {"95", "40", "20", "10", "100"}
NAMES = ("Diabetes 130", "1999-2008", "apache-2.0", "cc-by-4.0")


def prose(card: str) -> str:
    """The text of a card without metadata, code, links' targets and the citation."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.S)
    text = re.sub(r"## Citation\n.*", "", text, flags=re.S)
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    text = re.sub(r"`[^`]*`", "", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def numbers_in(text: str) -> list[str]:
    for name in NAMES:
        text = text.replace(name, "")
    return [number.rstrip(",") for number in NUMBER.findall(text)]


def known(*contents) -> set[str]:
    """Every number of some JSON contents in the ways that a card may write it, and those in their words."""
    found = set(DEFINITIONS)
    for content in contents:
        if isinstance(content, dict):
            found |= known(*content.keys(), *content.values())
        elif isinstance(content, list | tuple):
            found |= known(*content)
        elif isinstance(content, str):
            found |= set(numbers_in(content))
        elif isinstance(content, int | float) and not isinstance(content, bool):
            value = abs(content)
            found |= {f"{value:{form}}" for form in (",", "g", ",.0f", ".1f", ".2f", ".3f")}
            found |= {f"{100 * value:{form}}" for form in (".0f", ".1f", ".2f", "g")}
            found |= {str(value), f"{value:f}".rstrip("0"), f"{value / 3600:,.1f}"}
    return found
