"""The codes of a model as people write, read and search for them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mera_hf.icd import VERSIONS


_SEPARATORS = re.compile(r"[^a-z0-9]+")


class Codes:
    """
    Finds codes by what is typed: the beginning of a code in any spelling, or beginnings of words of its description.

    Args:
        codes (sequence of `str`): codes with their version, such as `ICD9CM:428.0`, in tree order.
        descriptions (sequence of `str`): of `codes`.
        weights (sequence of `float`): of two codes found by their words, the one with the larger weight comes first.
    """

    def __init__(self, codes: Sequence[str], descriptions: Sequence[str], weights: Sequence[float]):
        self.descriptions = dict(zip(codes, descriptions, strict=True))
        self.versions = [version for version in VERSIONS if any(code.startswith(version) for code in codes)]
        self._keys = {code: _key(code.split(":")[1]) for code in codes}
        self._words = {
            code: _SEPARATORS.sub(" ", description.lower()) for code, description in self.descriptions.items()
        }
        self._weights = dict(zip(codes, weights, strict=True))

    def __contains__(self, code: object) -> bool:
        return code in self.descriptions

    def __len__(self) -> int:
        return len(self.descriptions)

    def short(self, code: str) -> str:
        """A code as it is shown: without its version where all codes have the same."""
        version, _, name = code.partition(":")
        return name if len(self.versions) == 1 else f"{name} ({VERSIONS[version].label})"

    def find(self, query: str, limit: int = 12) -> list[str]:
        """
        The codes that fit what was typed, best first.

        Codes that begin with it, then those with all its words in their description; if no code begins with it, the
        code above it: `428.23` finds `428` of a model that ranks categories.
        """
        words = _SEPARATORS.sub(" ", query.lower()).split()
        if not words:
            return []
        found = self._by_code(_key(query)) + self._by_words(words)
        return list(dict.fromkeys(found))[:limit]

    def _by_code(self, key: str) -> list[str]:
        if not any(letter.isdigit() for letter in key):
            return []
        begin = [code for code, own in self._keys.items() if own.startswith(key)]
        if begin:
            return sorted(begin, key=lambda code: self._keys[code] != key)  # the code itself, then those under it
        above = [code for code, own in self._keys.items() if key.startswith(own)]
        longest = max((len(self._keys[code]) for code in above), default=0)
        return [code for code in above if len(self._keys[code]) == longest]

    def _by_words(self, words: list[str]) -> list[str]:
        beginning, within = [], []
        for code, text in self._words.items():
            if all(f" {word}" in f" {text}" for word in words):
                beginning.append(code)
            elif all(word in text for word in words):
                within.append(code)
        return [
            code
            for found in (beginning, within)
            for code in sorted(found, key=self._weights.__getitem__, reverse=True)
        ]


def _key(text: str) -> str:
    """A spelling without its version, dot and blanks: `ICD9CM:250.23`, `250.23` and `25023` are the same."""
    key = _SEPARATORS.sub("", text.lower())
    for version in VERSIONS:
        key = key.removeprefix(version.lower())
    return key
