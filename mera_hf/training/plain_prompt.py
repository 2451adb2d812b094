"""The prompt of a patient for the plain language model beside this file; needs only the package `tokenizers`.

    <bos> <profile> female, aged 70 to 79 <visit> c11 c12 <eov> <visit> c21 <eov> <visit>

The log-probabilities of the code tokens after the last `<visit>` rank the codes of the next visit. `mera export`
copies this file, as `prompt.py`, into the folder that it writes; the prompt is the one of `mera_hf.TimelineEncoder`.
"""

import json
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer


class Prompt:
    """Writes patients as token ids.

    Args:
        folder (`str` or `Path`, *optional*): where `prompt.json` and `tokenizer.json` are; default: beside this file.

    Attributes:
        tokens (`dict[str, int]`): the token id of every code, in the order of the ICD tree.
    """

    def __init__(self, folder=None):
        folder = Path(folder or Path(__file__).parent)
        # Not `AutoTokenizer`: for some families (Qwen2) it replaces the tokenizer in the file by its own
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.recipe = json.loads((folder / "prompt.json").read_text(encoding="utf-8"))
        self.tokens = {code["code"]: code["token_id"] for code in self.recipe["codes"]}
        self.segments = {code["code"]: code["in_history"] for code in self.recipe["codes"]}

    def ids(self, patient: dict) -> list[int]:
        """The token ids of one patient; the oldest visits are left out of a history that is longer than the model reads.

        Args:
            patient (`dict`): `profile` (`sex` "F" or "M", `age` in years at the first visit, `race`; what is unknown is None
                or left out) and `visits`, oldest first, each with `codes` such as `ICD9CM:250.23` and perhaps a `text`.

        Raises:
            `KeyError`: for a code that the model does not know.
            `ValueError`: for a profile that is longer than the model reads.
        """
        recipe = self.recipe
        head, mark = [*recipe["bos"], recipe["profile"]], recipe["visit"]
        if recipe["use_profile"]:
            head += self.words(profile_text(patient.get("profile") or {}))
        visits = [self.visit(visit) for visit in patient["visits"]]
        longest = recipe["max_length"]
        if longest is not None:
            if len(head) + 1 > longest:
                raise ValueError(
                    f"the profile takes {len(head) + 1} tokens, and the model reads {longest}; shorten it."
                )
            while len(head) + sum(map(len, visits)) + 1 > longest:
                del visits[0]
        return [*head, *chain.from_iterable(visits), mark]

    def visit(self, visit: dict) -> list[int]:
        """The token ids of a visit of the history."""
        recipe = self.recipe
        ids = [recipe["visit"]]
        for code in sorted(set(visit["codes"]), key=self.tokens.__getitem__):
            ids += self.segments[code]
        ids.append(recipe["eov"])
        if recipe["use_visit_text"] and visit.get("text"):
            ids += self.words(visit["text"])
        return ids

    def words(self, text: str) -> list[int]:
        """Token ids of a phrase."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def profile_text(profile: dict) -> str:
    """`{"sex": "F", "age": 72.0, "race": None}` -> `female, aged 70 to 79`."""
    parts = []
    if profile.get("sex"):
        parts.append({"F": "female", "M": "male"}.get(profile["sex"], profile["sex"].lower()))
    if profile.get("age") is not None:
        decade = int(profile["age"]) // 10 * 10
        parts.append("aged 90 and over" if decade >= 90 else f"aged {decade} to {decade + 9}")
    if profile.get("race"):
        parts.append(profile["race"].lower())
    return ", ".join(parts)
