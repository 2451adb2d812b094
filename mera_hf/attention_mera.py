"""Who may attend to whom where patients share a row, or ways to write a visit share a history, for each attention
implementation.

Three columns of its row say what a token sees, `(first, limit, own)`: a stretch of a trunk, `first <= k < limit`, and of its
own piece what comes up to itself, `own <= k <= q`. With two patients in a row, of whom the first has a visit written in two
orders, behind a history that both see:

    column      0         1       2   3     4       5   6   7       8   9   10        11      12  13
    token       <profile> <visit> c11 <eov> <visit> c21 c22 <visit> c22 c21 <profile> <visit> c12 <eov>
    (f, l, o)   (0, 0, 0) ...               (0, 4, 4) ...   (0, 4, 7) ...   (10, 10, 10) ...

Padding sees itself. No rule is read from positions: tokens of a visit may share one (`MeraConfig.positions`).
"""

import inspect
import sys

import torch
from transformers.utils.generic import is_flash_attention_requested


def attention_arguments(decoder, attention_mask: torch.Tensor | None, embeddings: torch.Tensor) -> dict:
    """
    What the attention implementation of a decoder wants to be told, as keyword arguments of its forward pass.

    Args:
        decoder (`PreTrainedModel`): the language model below its output embeddings.
        attention_mask (`torch.LongTensor`, *optional*):
            of shape `(B, S)` as in any causal language model, or of shape `(B, S, 3)`, what each token sees, see above.
        embeddings (`torch.FloatTensor` of shape `(B, S, d)`): what the decoder reads.

    Returns:
        `dict`: `attention_mask`, as it is for shape `(B, S)`; a bool mask of shape `(B, 1, S, S)` for `sdpa`, one that is
        added for `eager`, a `BlockMask` for `flex_attention`; for flash attention none, and where sequences begin instead.

    Raises:
        `ValueError`: see [`check_attention`].
    """
    flash = is_flash_attention_requested(decoder.config)
    if attention_mask is None or attention_mask.ndim == 2:
        if flash and attention_mask is not None and len(attention_mask) == 1 and attention_mask.all():
            # Flash attention takes a position that does not rise for the border between two sequences
            return _varlen_arguments([0, attention_mask.shape[1]], attention_mask.device)
        return {"attention_mask": attention_mask}

    first, limit, own = attention_mask.unbind(-1)  # (B, S) each
    column = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    reach = int((limit - first + column - own + 1).max()) if _window(decoder.config) else 0
    check_attention(decoder, reach, branches=flash and bool((first < limit).any()))
    if flash:
        begins = (own == column).flatten().nonzero()[:, 0].tolist()
        return _varlen_arguments([*begins, own.numel()], attention_mask.device)

    def sees(query, key, first, limit, own):
        return ((key >= first) & (key < limit)) | ((key >= own) & (key <= query))

    if decoder.config._attn_implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        block_mask = create_block_mask(
            lambda row, head, query, key: sees(query, key, *(attention_mask[row, query, part] for part in range(3))),
            *(len(own), None, len(column), len(column)),
            device=own.device,
            _compile=own.is_cuda,  # else it makes the whole table of queries x keys first
        )
        return {"attention_mask": block_mask}
    mask = sees(column[:, None], column, *attention_mask[:, :, None].unbind(-1))[:, None]  # (B, 1, S, S)
    if decoder.config._attn_implementation == "eager":
        mask = torch.zeros_like(mask, dtype=embeddings.dtype).masked_fill_(~mask, torch.finfo(embeddings.dtype).min)
    return {"attention_mask": mask}


def check_attention(decoder, reach: int, branches: bool) -> None:
    """Refuse a decoder that cannot keep the sequences of a row apart.

    Args:
        decoder (`PreTrainedModel`): the language model below its output embeddings.
        reach (`int`): most tokens that a token sees, itself among them.
        branches (`bool`): whether sequences share a history, or only the row.

    Raises:
        `ValueError`: for an attention implementation that is not known here; for flash attention with branches; for layers
            that do not ask a mask; and for a window shorter than `reach`, which a mask of all pairs would undo.
    """
    config = decoder.config
    name = config._attn_implementation
    flash = is_flash_attention_requested(config)
    if not (flash or name in ("sdpa", "eager", "flex_attention")):
        raise ValueError(
            f"attention implementation {name!r} is not known to keep the sequences of a row apart; set "
            "`attn_implementation` to sdpa, eager or flex_attention, or use `layout: timeline` without `packing`."
        )
    if flash and branches:
        raise ValueError(
            f"{name} has no way to let several orders of a visit share a history; set `attn_implementation` to sdpa or "
            "flex_attention, or use `layout: timeline`."
        )
    # Recurrent and convolutional layers, and distances counted in columns, look past any mask
    kinds = {"full_attention", "sliding_attention", "chunked_attention"}
    if (
        not any(hasattr(sys.modules[base.__module__], "create_causal_mask") for base in type(decoder).__mro__)
        or "position_ids" not in inspect.signature(decoder.forward).parameters
        or getattr(decoder, "_is_stateful", False)
        or not kinds.issuperset(getattr(config, "layer_types", None) or ())
        or "local" in getattr(config, "attention_layers", ())
        or getattr(config, "alibi", False)
    ):
        raise ValueError(
            f"a model of type {config.model_type} has no mask and positions of its own for each token, so that the sequences "
            "of a row would mix; use `layout: timeline` without `packing`."
        )
    window = _window(config)
    if window and reach > window:
        raise ValueError(
            f"the attention of this model looks {window} tokens back, and a sequence has {reach}; set `max_length` to less "
            "(the visit to predict comes on top of it), or use `layout: timeline` without `packing`."
        )


def _window(config) -> int | None:
    """The shortest window of any layer, in tokens."""
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((window for window in windows if window), default=None)


def _varlen_arguments(borders: list[int], device: torch.device) -> dict:
    """Flash attention over the tokens of all rows in one line, cut at `borders`."""
    longest = max(end - begin for begin, end in zip(borders, borders[1:], strict=False))
    cuts = torch.tensor(borders, dtype=torch.int32, device=device)
    return {
        "attention_mask": None,
        **{"cu_seq_lens_q": cuts, "cu_seq_lens_k": cuts, "max_length_q": longest, "max_length_k": longest},
    }


__all__ = ["attention_arguments", "check_attention"]
