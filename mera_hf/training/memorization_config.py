"""Arguments of [`MemorizationTrainer`]."""

from dataclasses import dataclass, field

from trl.trainer.base_config import _BaseConfig

from mera_hf.errors import InputError
from mera_hf.training.mera_config import check_loading, half_precision_by_default


@dataclass
class MemorizationTrainerConfig(_BaseConfig):
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

    # The type of TRL's field does not allow `None`, which means that it was not set
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Older name of `activation_checkpointing`."}
    )
    groups: bool = field(
        default=True,
        metadata={"help": "Whether to ask for the chapter, block, category ... of each code beside its definition."},
    )
    target_exact_match: float | None = field(
        default=None,
        metadata={
            "help": "Training ends at the first evaluation whose exact match reaches this share in both directions."
        },
    )

    def __post_init__(self):
        half_precision_by_default(self)
        super().__post_init__()
        check_loading(self)
        if self.target_exact_match is not None and self.eval_strategy == "no":
            raise InputError(
                "`target_exact_match` is looked at when the model is evaluated; set `eval_strategy` to `epoch`."
            )
