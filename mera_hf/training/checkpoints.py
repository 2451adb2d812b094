"""A model ready to train from a recipe's arguments, and a finished checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mera_hf.data.memorizing import memorizing_texts
from mera_hf.errors import InputError
from mera_hf.icd import code_tree, sort_codes
from mera_hf.timeline_mera import profile_text
from mera_hf.training.arguments import CANDIDATES, MeraArguments
from mera_hf.training.code_tokens import add_code_tokens, configure, load_base, peft_config, shuffle_code_rows
from mera_hf.training.from_scratch import from_scratch
from mera_hf.training.merge_adapter import load_adapter, merged, save_adapter
from mera_hf.training.provenance import NO_PATIENTS
from mera_hf.training.wrapped import base_model


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl import ModelConfig

    from mera_hf.modeling_mera import MeraForDiagnosis


def candidate_codes(cohort_codes: list[str], candidates: str) -> list[str]:
    """The codes that are ranked, in tree order.

    Args:
        cohort_codes (`list[str]`): all codes of the cohort.
        candidates (`str`): `"cohort"`, those codes; `"tree"`, all billable codes of the same ICD versions as well.
    """
    if candidates not in CANDIDATES:
        raise InputError(f"`candidates` is {candidates!r}; choose one of {', '.join(CANDIDATES)}.")
    codes = set(cohort_codes)
    if candidates == "tree":
        for tree in {id(tree): tree for tree in map(code_tree, cohort_codes)}.values():
            codes.update(tree.codes(billable=True))
    return sort_codes(codes)


def load_model(
    model_args: ModelConfig, mera_args: MeraArguments, train: Dataset, cohort_codes: list[str], seed: int
) -> tuple[MeraForDiagnosis, PreTrainedTokenizerBase]:
    """The model that a recipe names, with tokens for the codes of the dataset; not yet wrapped by PEFT.

    Args:
        model_args (`trl.ModelConfig`): base model or checkpoint, dtype, quantisation.
        mera_args (`MeraArguments`): codes and how the model reads.
        train (`Dataset`): the patients to be trained on; a model from scratch must know their words.
        cohort_codes (`list[str]`): all codes of the dataset.
        seed (`int`): of random weights and of `shuffle_rows`.

    Raises:
        [`InputError`]: if neither `model_name_or_path` nor `from_scratch` is given, the checkpoint lacks codes of
            the dataset, or rows should be shuffled but the checkpoint already has them.
    """
    from transformers import AutoTokenizer, set_seed

    name = model_args.model_name_or_path
    if name is None and mera_args.from_scratch is None:
        raise InputError("give `model_name_or_path` (a base model or a checkpoint), or `from_scratch`.")
    set_seed(seed)
    codes = candidate_codes(cohort_codes, mera_args.candidates)
    tokenizer: PreTrainedTokenizerBase
    if name is None:
        texts = _words_of_patients(train, mera_args.use_visit_text)
        architecture = cast("dict", mera_args.from_scratch)
        model, tokenizer = from_scratch(architecture, [*memorizing_texts(codes), *texts], seed)
    else:
        model = load_base(name, **_loading_arguments(model_args))
        tokenizer = AutoTokenizer.from_pretrained(name, revision=model_args.model_revision)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
    if model.config.num_codes:
        missing = sorted(set(cohort_codes) - set(model.config.codes))
        if missing:
            raise InputError(
                f"checkpoint {name!r} is of another vocabulary: it lacks {len(missing)} of the {len(cohort_codes)} codes of "
                f"`dataset`, such as {missing[0]}; memorize with this dataset, or with `candidates: tree`."
            )
        if mera_args.shuffle_rows:
            raise InputError(
                f"`shuffle_rows` deals out the rows that `initialise` makes, and checkpoint {name!r} has rows of its own; "
                "start from its base model, or set it when memorizing."
            )
        configure(model, **mera_args.config_fields())
    else:
        add_code_tokens(model, tokenizer, codes, mera_args.initialise, mera_args.encoder, **mera_args.config_fields())
        model.config.provenance = dict(NO_PATIENTS)
        if mera_args.shuffle_rows:
            shuffle_code_rows(model, seed)
    return model, tokenizer


def _words_of_patients(train: Dataset, visit_text: bool) -> set[str]:
    """The words in the profiles of the training patients, and in the texts of their visits if the model reads them.

    Nothing from other patients, and no text that the model does not read: the checkpoint holds the vocabulary.
    """
    texts = {f"aged {decade} to {decade + 9}" for decade in range(0, 90, 10)} | {"aged 90 and over", "female, male"}
    for row in train:
        texts.add(profile_text(row["profile"]))
        if visit_text:
            texts.update(visit["text"] for visit in row["visits"] if visit["text"])
    return texts


def _loading_arguments(model_args: ModelConfig) -> dict:
    from trl import get_quantization_config

    quantization = get_quantization_config(model_args)
    arguments: dict[str, Any] = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype or "float32",
        "attn_implementation": model_args.attn_implementation,
    }
    if quantization is not None:
        # The rows of the codes and the ranking head are trained, so they stay in floating point
        quantization.llm_int8_skip_modules = ["lm_head", "embed_out", "ranking_head"]
        arguments["quantization_config"] = quantization
    return arguments


def wrap_with_adapter(model: MeraForDiagnosis, model_args: ModelConfig):
    """The model inside a LoRA adapter if the recipe asks for one, else the model itself."""
    if not model_args.use_peft:
        if model_args.load_in_4bit or model_args.load_in_8bit:
            raise InputError(
                "a quantised model trains by an adapter only: set `use_peft: true` beside `load_in_4bit`."
            )
        return model
    from peft import get_peft_model, prepare_model_for_kbit_training

    if model_args.load_in_4bit or model_args.load_in_8bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model.ranking_head.float()  # most of its steps are too small for bfloat16
    return get_peft_model(
        model,
        peft_config(
            model,
            r=model_args.lora_r,
            lora_alpha=model_args.lora_alpha,
            lora_dropout=model_args.lora_dropout,
            target_modules=model_args.lora_target_modules or _linear_names(model),
            use_rslora=model_args.use_rslora,
        ),
        revision=model_args.model_revision,
    )


def _linear_names(model: MeraForDiagnosis) -> str:
    """All linear layers of the language model except the output matrix, whose code rows are trained as tokens."""
    from torch import nn

    head = model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.language_model.base_model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and module is not head
    }
    return r"language_model\..*\.(" + "|".join(sorted(names)) + ")"


def save_checkpoint(model, tokenizer: PreTrainedTokenizerBase, output_dir: str | Path) -> None:
    """Write a checkpoint that `AutoModel.from_pretrained` loads whole, adapters merged.

    An adapter is also kept, in `adapter/`. It is merged into the base in the precision that the base was loaded in, never
    into quantised weights, which would shift the logits.

    Args:
        model: a [`MeraForDiagnosis`], wrapped by PEFT or not.
        tokenizer (`PreTrainedTokenizerBase`): with the code tokens.
        output_dir (`str` or `Path`): where to write.
    """
    output_dir = Path(output_dir)
    base = base_model(model)
    if base is not model:
        save_adapter(model, tokenizer, output_dir / "adapter")
        if getattr(base, "is_quantized", False):
            model = load_adapter(output_dir / "adapter", dtype=base.config.dtype)
        model = merged(model)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
