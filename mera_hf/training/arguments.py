"""What a recipe says beside the trainer's and TRL's model arguments: which codes, and how the model reads and ranks."""

import re
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TypeVar

from mera_hf.errors import InputError


CANDIDATES = ("cohort", "tree")
ROW_INITIALISATIONS = ("description", "random", "encoder")


T = TypeVar("T")


def help_from_docstring(cls: type[T]) -> type[T]:
    """Give the fields of a dataclass the `help` that command line parsers show: what its docstring says of them."""
    found = re.findall(r"^ {8}(\w+) \(`.*\):\n((?: {12}.*\n)+)", cls.__doc__ or "", re.MULTILINE)
    texts = {name: " ".join(text.split()) for name, text in found}
    for each in fields(cls):  # type: ignore[arg-type]
        if each.name in texts:
            each.metadata = MappingProxyType({"help": texts[each.name]})
    return cls


@help_from_docstring
@dataclass
class MeraArguments:
    """
    Arguments of a recipe about codes and the model.

    Parameters:
        dataset (`str`, *optional*):
            Folder of a prepared dataset, see `mera prepare`.
        from_scratch (`dict`, *optional*):
            Architecture of a small model with random weights, used where no `model_name_or_path` is given: `model_type` and
            fields of its config.
        candidates (`str`, *optional*, defaults to `"cohort"`):
            Codes that are ranked: `cohort`, those of the dataset, or `tree`, all billable codes of their ICD versions and
            those of the dataset.
        initialise (`str`, *optional*, defaults to `"description"`):
            How the rows of code tokens start, where the model has none yet: `description`, the mean of the description's
            token rows, `random`, or `encoder`, a sentence encoder's embedding of the description.
        encoder (`str`, *optional*):
            Sentence encoder of `initialise: encoder`: a model name, folder, or installed package.
        shuffle_rows (`bool`, *optional*, defaults to `False`):
            A control: the rows that `initialise` makes are dealt out at random among the codes.
        history_text (`str`, *optional*, defaults to `"code"`):
            How a code of the history is written: `code`, `code+description` or `description`.
        use_profile (`bool`, *optional*, defaults to `True`):
            Whether the model reads sex, age and race.
        use_visit_text (`bool`, *optional*, defaults to `False`):
            Whether the model reads the text of earlier visits.
        code_bias (`bool`, *optional*, defaults to `True`):
            Whether every code has a bias, started at its log prevalence.
        history_term (`bool`, *optional*, defaults to `True`):
            Whether codes of the history have a term of their own.
        positions (`str`, *optional*, defaults to `"token"`):
            `token`: one position per token; `visit`: the codes of a visit share a position (decoders alone).
        hidden_dropout (`float`, *optional*, defaults to `0.0`):
            Dropout on token embeddings and decision states.
        rerank_depth (`int`, *optional*, defaults to `0`):
            The first so many codes of a ranking are put in the order of their calibrated probability.
    """

    dataset: str | None = None
    from_scratch: dict | str | None = None
    candidates: str = "cohort"
    initialise: str = "description"
    encoder: str | None = None
    shuffle_rows: bool = False
    history_text: str = "code"
    use_profile: bool = True
    use_visit_text: bool = False
    code_bias: bool = True
    history_term: bool = True
    positions: str = "token"
    hidden_dropout: float = 0.0
    rerank_depth: int = 0

    _VALID_DICT_FIELDS = ["from_scratch"]

    def __post_init__(self):
        import json

        for name, known in (("candidates", CANDIDATES), ("initialise", ROW_INITIALISATIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"`{name}` is {getattr(self, name)!r}; choose one of {', '.join(known)}.")
        if isinstance(self.from_scratch, str):
            try:
                self.from_scratch = json.loads(self.from_scratch)
            except ValueError as error:
                raise InputError(
                    f"`from_scratch` is {self.from_scratch!r}; name an architecture as `model_type: llama` and fields of "
                    "its config."
                ) from error

    def config_fields(self) -> dict:
        """The fields of [`MeraConfig`] among these arguments."""
        names = (
            "history_text",
            "use_profile",
            "use_visit_text",
            "code_bias",
            "history_term",
            "positions",
            "hidden_dropout",
        )
        return {name: getattr(self, name) for name in names}
