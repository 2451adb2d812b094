"""A small language model with random weights, for recipes that train from scratch on a CPU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mera_hf.errors import InputError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from mera_hf.modeling_mera import MeraForDiagnosis


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A lower-case word-level tokenizer that knows every word of `texts`, and `<pad> <bos> <eos> <unk>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower())})
    vocabulary = {word: index for index, word in enumerate(special + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def from_scratch(
    architecture: dict, texts: Iterable[str], seed: int
) -> tuple[MeraForDiagnosis, PreTrainedTokenizerFast]:
    """Build an untrained model and its tokenizer.

    Args:
        architecture (`dict`): `model_type` (any causal or encoder-decoder family of transformers) and its config's fields.
        texts (`Iterable[str]`): every text that the model will read or write.
        seed (`int`): of the random weights.

    Raises:
        [`InputError`]: for a missing or unknown `model_type`.
    """
    from transformers import AutoConfig, set_seed

    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.modeling_mera import MeraForDiagnosis

    fields = dict(architecture)
    model_type = fields.pop("model_type", None)
    tokenizer = word_tokenizer(texts)
    try:
        text_config = AutoConfig.for_model(
            model_type,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **fields,
        )
    except ValueError as error:
        raise InputError(f"`from_scratch.model_type` is {model_type!r}: {str(error).splitlines()[0][:200]}") from error
    set_seed(seed)
    return MeraForDiagnosis(MeraConfig(text_config=text_config)), tokenizer
