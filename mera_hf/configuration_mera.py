"""Configuration of MERA: a language model whose vocabulary holds one token per diagnosis code.

This file and the other `*_mera.py` beside it are copied into a checkpoint by `save_pretrained`, so that
`trust_remote_code=True` loads it without this package. They need torch and transformers alone.
"""

from typing import TYPE_CHECKING, ClassVar, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


HISTORY_TEXTS = ("code", "code+description", "description")
POSITIONS = ("token", "visit")


@strict
class MeraConfig(PreTrainedConfig):
    r"""
    Configuration of a [`MeraForDiagnosis`] (huggingface.co/papers/2501.17326).

    The codes of the candidate space are the labels of the model: `id2label[i]` is the code of index `i`, written with its
    vocabulary, such as `ICD9CM:250.23`. Codes stand in the depth-first order of the ICD tree; their tokens are one
    contiguous block of the vocabulary in the same order, and the end-of-visit token EOV follows them.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the language model, any `AutoModelForCausalLM` or, where it says `is_encoder_decoder`, any
            `AutoModelForSeq2SeqLM`.
        descriptions (`list[str]`, *optional*):
            Official description of each code.
        level_groups (`dict[str, list[int]]`, *optional*):
            For each level of the tree, the group index of every code, -1 where a code has no ancestor at that level.
        group_names (`dict[str, list[str]]`, *optional*):
            For each level, the code and description of every group, such as `ICD9CM:250 Diabetes mellitus`.
        code_token_start (`int`, *optional*):
            Token id of the first code. The tokens of `C` codes are `code_token_start .. code_token_start + C - 1`.
        eov_token_id (`int`, *optional*): Token id of the end of a visit; always `code_token_start + C`.
        visit_token_id (`int`, *optional*): Token id of the mark that opens a visit.
        profile_token_id (`int`, *optional*): Token id of the mark that opens a timeline.
        history_text (`str`, *optional*, defaults to `"code"`):
            How a code of the history is written: `"code"`, `"code+description"` or `"description"`.
        use_profile (`bool`, *optional*, defaults to `True`):
            Whether sex, age and race are written at the head of the timeline.
        use_visit_text (`bool`, *optional*, defaults to `False`):
            Whether the text of an earlier visit is written behind its codes.
        code_bias (`bool`, *optional*, defaults to `True`):
            Whether every code has a bias, which training starts at its log prevalence (this project's choice).
        history_term (`bool`, *optional*, defaults to `True`):
            Whether codes of the history have a term of their own in the logit (this project's choice).
        hidden_dropout (`float`, *optional*, defaults to 0.0):
            Dropout on the token embeddings and on the hidden state of a decision (for small models trained from scratch).
        positions (`str`, *optional*, defaults to `"token"`):
            `"token"`: one position per token, as language models have it. `"visit"`: the codes of a visit share a position,
            since their order means nothing (this project's choice; for `history_text="code"` and a decoder alone).
        max_length (`int`, *optional*):
            Longest history in tokens, the profile and the mark of the next visit among them; the oldest visits are left out
            until it fits. Training writes it, and whatever reads the checkpoint keeps to it. Without it, as checkpoints
            from before it are, a history is read whole, or as far as a table of positions goes.
        calibration (`list[float]`, *optional*):
            Weights of the log-odds that a code is in the next visit, fitted on validation, see
            [`MeraForDiagnosis.log_odds`]; without it the log-odds are the code logit less the EOV logit.
        eov_value (`float`, *optional*, defaults to 0.5):
            Where EOV cuts the ranking if there is no `eov_offset`: a code is in the set if its value is above. The value is
            the probability, and 0.5 is where the code's logit is EOV's, unless both were fitted on validation, see
            [`MeraForDiagnosis.decide`].
        eov_offset (`float`, *optional*):
            How far above EOV's logit a code's has to be to be in the set: fitted on validation where `rerank_depth` is 0; 0 is
            EOV's own cut. It takes the place of `eov_value`, by which checkpoints without it cut.
        rerank_depth (`int`, *optional*, defaults to 0):
            The first so many codes of a ranking are put in the order of their value, and the set is taken from them. Recall
            at this depth and beyond does not change; weighted F1 gains. 0 leaves the ranking alone.
        conformal (`dict`, *optional*):
            Thresholds of the sets with a coverage guarantee, fitted on validation, see `evaluation/conformal.py`:
            `{"patients": 1639, "codes": {"0.9": 0.0012, ...}, "visits": {"0.9": 0.0003, ...}}`. A set holds the codes whose
            share of the softmax over codes is at least the threshold. Under `"codes"` it holds that share of a visit's codes
            on average over patients, under `"visits"` all of them for that share of the patients. `"patients"` says how many
            they were fitted on.
        base_model (`str`, *optional*):
            The language model that training began with, as the Hub names it, or the last part of its path; none for one
            trained from scratch. Nothing is computed with it.
        provenance (`dict`, *optional*):
            Whose patients are in the weights, and under which terms: `source`, `licence`, `credentialed`, `fingerprint`,
            `agreement`, `patients`, see `training/provenance.py`. Without it that is not known, and publishing takes the
            weights for credentialed.
    """

    model_type = "mera"
    sub_configs_defaults: ClassVar[dict] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="mistral")
    }

    if TYPE_CHECKING:
        text_config: PreTrainedConfig  # what was given is made one
    else:
        text_config: dict | PreTrainedConfig | None = None
    descriptions: list[str] | None = None
    level_groups: dict[str, list[int]] | None = None
    group_names: dict[str, list[str]] | None = None
    code_token_start: int | None = None
    eov_token_id: int | None = None
    visit_token_id: int | None = None
    profile_token_id: int | None = None
    history_text: str = "code"
    use_profile: bool = True
    use_visit_text: bool = False
    code_bias: bool = True
    history_term: bool = True
    hidden_dropout: float = 0.0
    positions: str = "token"
    max_length: int | None = None
    calibration: list[float] | None = None
    eov_value: float = 0.5
    eov_offset: float | None = None
    rerank_depth: int = 0
    conformal: dict | None = None
    base_model: str | None = None
    provenance: dict | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if __package__ == "mera_hf":
            # Where the code lies in the folder that was read, for those without this package
            for name in ("auto_map", "custom_pipelines"):
                kwargs.pop(name, None)
        super().__post_init__(**kwargs)
        # PEFT and merging read the tie at the top level
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        self.is_encoder_decoder = bool(self.text_config.is_encoder_decoder)
        self.check_choices()

    def check_choices(self) -> None:
        """Raise a `ValueError` for a history that cannot be written or read so; also called where fields change later."""
        if self.history_text not in HISTORY_TEXTS:
            raise ValueError(f"`history_text` is {self.history_text!r}; choose one of {', '.join(HISTORY_TEXTS)}.")
        if self.positions not in POSITIONS:
            raise ValueError(f"`positions` is {self.positions!r}; choose one of {', '.join(POSITIONS)}.")
        if self.positions == "visit" and self.history_text != "code":
            raise ValueError(
                "`positions='visit'` needs `history_text='code'`: the words of a description have an order."
            )
        if self.positions == "visit" and self.is_encoder_decoder:
            raise ValueError(
                f"`positions='visit'` needs a decoder alone: {self.text_config.model_type} counts positions by itself."
            )
        self.reading_length()

    def reading_length(self, max_length: int | None = None) -> int | None:
        """The longest history in tokens that is read: `max_length`, or the field without it; `None` where there is no end.

        Raises:
            `ValueError`: for a length below 1, or beyond `position_limit`.
        """
        length, limit = self.max_length if max_length is None else max_length, self.position_limit
        if length is None:
            # Rotary positions have no end, and before there was this field histories beyond the limit were read with them
            rotary = getattr(self.text_config.get_text_config(), "rope_parameters", None)
            return None if rotary else limit
        if length < 1:
            raise ValueError(f"`max_length` is {length}; it must be 1 or more.")
        if limit is not None and length > limit:
            raise ValueError(
                f"`max_length` is {length}, and the {self.text_config.model_type} model has positions for {limit} tokens; "
                f"set it to {limit} or less."
            )
        return length

    @property
    def position_limit(self) -> int | None:
        """The most tokens that the language model has positions for, as its config says; `None` where there is no end.

        T5's positions are distances: the `n_positions` of some of its configs is the length that it was trained with.
        """
        text = self.text_config.get_text_config()
        names = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")  # most, LED, MPT
        limits = [limit for limit in (getattr(text, name, None) for name in names) if limit is not None and limit > 0]
        return min(limits, default=None)

    def conformal_threshold(self, coverage: float, coverage_of: str) -> float:
        """The threshold of `conformal` for a level; a `ValueError` that names the levels where there is none."""
        if not self.conformal:
            raise ValueError(
                "this checkpoint has no sets of a known coverage, which training fits on 20 validation patients or more. "
                "Train again, or call `mera_hf.evaluation.conformal.fit_conformal` on validation patients and save the model."
            )
        kinds = [kind for kind in self.conformal if kind != "patients"]
        if coverage_of not in kinds:
            raise ValueError(f"`coverage_of` is {coverage_of!r}; choose one of {', '.join(kinds)}.")
        levels = self.conformal[coverage_of]
        if f"{coverage:g}" not in levels:
            raise ValueError(f"this checkpoint has no sets of that coverage; choose one of {', '.join(levels)}.")
        return levels[f"{coverage:g}"]

    @property
    def decoder_start_token_id(self) -> int | None:
        """What the decoder of an encoder-decoder reads first; `None` for a decoder alone."""
        if not self.is_encoder_decoder:
            return None
        start = getattr(self.text_config, "decoder_start_token_id", None)
        return self.text_config.pad_token_id if start is None else start  # as T5 has it

    @property
    def codes(self) -> list[str]:
        """The codes of the candidate space in the order of their tokens; empty before code tokens are added."""
        if self.code_token_start is None:
            return []
        labels = cast("dict[int, str]", self.id2label)  # read once: reading a field of a config is slow
        return [labels[index] for index in range(len(labels))]

    @property
    def num_codes(self) -> int:
        """Number of codes in the candidate space; 0 before code tokens are added."""
        return 0 if self.code_token_start is None else len(cast("dict[int, str]", self.id2label))


AutoConfig.register("mera", MeraConfig, exist_ok=True)

__all__ = ["HISTORY_TEXTS", "POSITIONS", "MeraConfig"]
