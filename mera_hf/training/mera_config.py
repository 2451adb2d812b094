"""Arguments of [`MeraTrainer`]."""

from dataclasses import dataclass, fields
from typing import Any

from mera_hf.errors import InputError
from mera_hf.training.arguments import help_from_docstring
from mera_hf.training.code_order import HIERARCHIES
from mera_hf.training.hierarchy import SPACE
from mera_hf.training.losses import EOV_LOSSES
from mera_hf.training.stage import StageConfig


LAYOUTS = ("timeline", "tree")
TURNED = (
    *("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("load_best_model_at_end", "bf16", "fp16"),
)


@help_from_docstring
@dataclass
class MeraTrainerConfig(StageConfig):
    r"""
    Configuration of [`MeraTrainer`].

    > [!NOTE]
    > `bf16` defaults to `True` only where a GPU supports it, and `activation_checkpointing` to `False`: timelines are short.

    Parameters:
        hierarchy (`str`, *optional*, defaults to `"icd"`):
            Groups of codes of the contrastive loss: `icd`, the levels of the tree; `ccs` or `ccsr`, one level of that name
            with the groups of AHRQ; `shuffled`, a control: the groups of the tree keep their sizes and nesting, and codes
            are dealt out among its places at random, by `seed`.
        levels (`list[str]`, *optional*):
            Levels of the contrastive loss: `space` (all codes), `chapter`, `block`, `category`, `subcategory1` ...; all that
            the hierarchy has by default. A code that has a rival at none of them adds nothing to this loss.
        level_weights (`dict[str, float]`, *optional*):
            Weight of each level in the mean over levels; 1 where a level is not named.
        tau (`float`, *optional*, defaults to `1.0`):
            Temperature of the contrastive loss.
        contrastive_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the contrastive loss L_CL.
        confidence_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the end-of-visit loss L_DCE.
        group_weight (`float`, *optional*, defaults to `0.0`):
            Weight of the loss that contrasts whole groups of the tree (this project's addition).
        eov_loss (`str`, *optional*, defaults to `"atlop"`):
            Form of L_DCE: `atlop`, `zlpr`, `count` or `none`, see [`confidence_loss`]. `count` teaches EOV how many codes the
            visit has (this project's addition).
        softmax (`bool`, *optional*, defaults to `False`):
            Whether the other true codes stand in the denominator of L_CL at the level of the whole space, so that the
            softmax gives the share of a code in the visit (this project's addition).
        prefix_share (`float`, *optional*, defaults to `1.0`):
            Share of the decisions behind the first code of a visit that an epoch trains on, drawn afresh each epoch. At 0
            no part of a visit is ever given, and EOV trains by the decision before its first code alone.
        perturb_orders (`bool`, *optional*, defaults to `True`):
            Whether the codes of each visit come in a fresh order each epoch; in the order of the tree otherwise.
        ema_decay (`float`, *optional*):
            Decay of an exponential moving average of the weights, which is what training leaves behind.
        first_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the decision before the first code of a visit, the one that is used for ranking, against 1 for each of
            the decisions behind it.
        predict_first_visit (`bool`, *optional*, defaults to `False`):
            Whether the first visit is predicted from the profile as well, so that patients with one visit can train.
        start_head (`bool`, *optional*, defaults to `True`):
            Whether code bias and history term start at what the training visits show, if the model has not been trained yet.
        zero_readout (`bool`, *optional*, defaults to `False`):
            Whether the output rows of the codes start at zero, so that the first step ranks as the fitted head does: for
            cohorts of few patients, and models whose two embedding matrices are not tied.
        head_learning_rate (`float`, *optional*):
            Learning rate of code bias and history term; `learning_rate` without it.
        max_length (`int`, *optional*):
            Longest history in tokens, the profile and the mark of the next visit among them; the oldest visits are left out
            until it fits, and the codes of the visit to predict come on top. Written into the model, so that whatever reads
            it keeps to it. Without it that of the model, or as many tokens as the base has positions for.
        layout (`str`, *optional*, defaults to `"timeline"`):
            How a patient is written in training: `timeline`, every visit once, history of the visits behind it, or `tree`,
            the history once, as `history_text` has it, and behind it the codes to predict alone, in `orders` orders. For
            histories with descriptions and for several orders at little cost; ranking is the same.
        orders (`int`, *optional*, defaults to `1`):
            Orders of the codes of each visit in a `tree`, drawn afresh each epoch. They share the weight of the visit.
        max_batch_tokens (`int`, *optional*):
            Most tokens of a batch with its padding, beside `per_device_train_batch_size` patients: timelines of similar
            length make a batch. A step weighs its patients alike, and may have fewer of them than another.
        packing (`bool`, *optional*, defaults to `False`):
            Whether the timelines of a batch stand in one row without padding, for flash attention and flex attention;
            other implementations compute all pairs of tokens of the row. Needs `max_batch_tokens`.
    """

    hierarchy: str = "icd"
    levels: list[str] | None = None
    level_weights: dict[str, float] | str | None = None
    tau: float = 1.0
    contrastive_weight: float = 1.0
    confidence_weight: float = 1.0
    group_weight: float = 0.0
    eov_loss: str = "atlop"
    softmax: bool = False
    prefix_share: float = 1.0
    perturb_orders: bool = True
    ema_decay: float | None = None
    first_weight: float = 1.0
    predict_first_visit: bool = False
    start_head: bool = True
    zero_readout: bool = False
    head_learning_rate: float | None = None
    max_length: int | None = None
    layout: str = "timeline"
    orders: int = 1
    max_batch_tokens: int | None = None
    packing: bool = False

    _VALID_DICT_FIELDS = StageConfig._VALID_DICT_FIELDS + ["level_weights"]

    def settings(self) -> dict[str, Any]:
        """What decides how a training goes: the parameters above, and those of the `Trainer` that one turns. For a log: it
        holds no path."""
        own = {field.name for field in fields(self)} - {field.name for field in fields(StageConfig)}
        return {name: value for name, value in vars(self).items() if name in own or name in TURNED}

    def __post_init__(self):
        super().__post_init__()
        if self.eov_loss not in EOV_LOSSES:
            raise InputError(f"`eov_loss` is {self.eov_loss!r}; choose one of {', '.join(EOV_LOSSES)}.")
        if self.hierarchy not in HIERARCHIES:
            raise InputError(f"`hierarchy` is {self.hierarchy!r}; choose one of {', '.join(HIERARCHIES)}.")
        if self.layout not in LAYOUTS:
            raise InputError(f"`layout` is {self.layout!r}; choose one of {', '.join(LAYOUTS)}.")
        if self.orders < 1 or (self.orders > 1 and self.layout != "tree"):
            raise InputError(f"`orders` is {self.orders}; it is 1 or more, and 1 unless `layout` is tree.")
        if self.orders > 1 and not self.perturb_orders:
            raise InputError(f"`orders` is {self.orders}, and all are the same without `perturb_orders`; set it to 1.")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise InputError(f"`max_batch_tokens` is {self.max_batch_tokens}; it must be 1 or more.")
        if self.packing and self.max_batch_tokens is None:
            raise InputError("`packing` needs `max_batch_tokens`: how many tokens may stand in a row.")
        if self.tau <= 0:
            raise InputError(f"`tau` is {self.tau}; a temperature is above 0.")
        weights = {name: getattr(self, name) for name in ("contrastive_weight", "confidence_weight", "group_weight")}
        for name, weight in weights.items():
            if weight < 0:
                raise InputError(f"`{name}` is {weight}; a weight is 0 or more.")
        if self.eov_loss == "none":
            weights["confidence_weight"] = 0.0
        if not any(weights.values()):
            raise InputError("`contrastive_weight`, `confidence_weight` and `group_weight` leave no loss; raise one.")
        if self.first_weight <= 0:
            # `prefix_share` may leave a visit only this decision
            raise InputError(f"`first_weight` is {self.first_weight}; it has to be above 0.")
        if not 0 <= self.prefix_share <= 1:
            raise InputError(f"`prefix_share` is {self.prefix_share}; a share lies between 0 and 1.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise InputError(f"`ema_decay` is {self.ema_decay}; a decay lies between 0 and 1.")
        if self.ema_decay is not None and self.load_best_model_at_end:
            raise InputError(
                "`ema_decay` leaves the average behind, `load_best_model_at_end` the best step; set one of them."
            )
        if self.levels is not None and not self.levels:
            raise InputError(f"`levels` is empty; name one level at least, such as `{SPACE}`.")
        if self.hierarchy != "icd" and self.levels == [SPACE]:
            level = "chapter" if self.hierarchy == "shuffled" else self.hierarchy
            raise InputError(
                f"`hierarchy` is {self.hierarchy}, but `levels` is {SPACE} alone, where there are no groups: name others, "
                f"such as `levels: [{SPACE}, {level}]`."
            )
