"""Arguments of [`MemorizationTrainer`]."""

from dataclasses import dataclass

from mera_hf.errors import InputError
from mera_hf.training.arguments import help_from_docstring
from mera_hf.training.stage import StageConfig


@help_from_docstring
@dataclass
class MemorizationTrainerConfig(StageConfig):
    r"""
    Configuration of [`MemorizationTrainer`].

    > [!NOTE]
    > `bf16` defaults to `True` only where a GPU supports it, and `activation_checkpointing` to `False`: pairs are short.

    Parameters:
        groups (`bool`, *optional*, defaults to `True`):
            Whether to ask for the chapter, block, category ... of each code beside its definition.
        target_exact_match (`float`, *optional*):
            Training ends at the first evaluation whose exact match reaches this share in both directions.
    """

    groups: bool = True
    target_exact_match: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.target_exact_match is not None and self.eval_strategy == "no":
            raise InputError(
                "`target_exact_match` is looked at when the model is evaluated; set `eval_strategy` to `epoch`."
            )
