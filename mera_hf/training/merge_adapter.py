"""An adapter and its base become one checkpoint, merged into weights that are not quantised (this project's choice)."""

from __future__ import annotations

import importlib.util
import random
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mera_hf.errors import InputError
from mera_hf.files import whole_folder, write_json
from mera_hf.training.code_tokens import load_base
from mera_hf.training.wrapped import base_model


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.modeling_mera import MeraForDiagnosis


MERGED_FILE = "merged.json"


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write an adapter with what is needed to put it on its base again: MERA's config and the tokenizer.

    Args:
        model (`PeftModel`): a [`MeraForDiagnosis`] wrapped by PEFT.
        tokenizer (`PreTrainedTokenizerBase`): with the code tokens.
        folder (`str` or `Path`): where to write.
    """
    model.save_pretrained(str(folder))
    base_model(model).config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def adapter_config(adapter: str | Path) -> MeraConfig:
    """The config of MERA that was saved with an adapter.

    Raises:
        [`InputError`]: if there is no adapter, or it is not one of MERA.
    """
    from transformers import AutoConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(str(adapter))
    except (OSError, ValueError):  # neither a folder nor a name on the Hub
        found = None
    if found is None:
        inside = Path(adapter) / "adapter"
        hint = (
            f"name {str(inside)!r}" if inside.is_dir() else "name the folder `adapter` of a training with `use_peft`"
        )
        raise InputError(f"`adapter` {str(adapter)!r} holds no adapter_config.json, so it is no adapter; {hint}.")
    try:
        config = AutoConfig.from_pretrained(adapter)
    except (OSError, ValueError) as error:
        raise InputError(
            f"`adapter` {str(adapter)!r} has no config of mera beside it: {str(error).splitlines()[0]}"
        ) from error
    if config.model_type != "mera":
        raise InputError(f"`adapter` {str(adapter)!r} belongs to a {config.model_type} model, not to one of mera.")
    return config


def load_adapter(adapter: str | Path, base: str | None = None, **kwargs) -> PeftModel:
    """Put an adapter on its base, which first gets the tokens and ranking head that it had in training.

    Args:
        adapter (`str` or `Path`): what [`save_adapter`] wrote, on disk or on the Hub.
        base (`str`, *optional*): where its base is now; defaults to what the adapter was trained on.
        kwargs: passed to [`load_base`] (`dtype`, `quantization_config`); by default not quantised.

    Raises:
        [`InputError`]: where there is no such adapter or base, or they do not belong together.
    """
    from peft import PeftConfig, PeftModel, prepare_model_for_kbit_training

    from mera_hf.configuration_mera import MeraConfig

    config = adapter_config(adapter)
    if base is None:
        trained_on = PeftConfig.from_pretrained(str(adapter))
        base = trained_on.base_model_name_or_path
        kwargs = {"revision": trained_on.revision or "main", **kwargs}
    if not base:
        raise InputError(
            f"`adapter` {str(adapter)!r} does not say what it was trained on; name its base: base=... (--base)."
        )
    try:
        model = load_base(base, **kwargs)
    except InputError as error:
        raise InputError(
            f"the base {base!r} of `adapter` {str(adapter)!r} cannot be loaded; if it is elsewhere, say where: base=... "
            f"(--base). {error}"
        ) from error
    _check_base(model.config, config, base)
    if not model.config.num_codes:
        model.resize_token_embeddings(config.text_config.vocab_size, mean_resizing=False)
    settings = {**config.to_dict(), "text_config": model.config.text_config.to_dict()}
    if "quantization_config" not in kwargs:
        settings.pop("quantization_config", None)
    model.config = MeraConfig(**settings)
    model.reset_ranking_head()  # the adapter brings the trained one
    model.ranking_head.float()  # as `wrap_with_adapter` does, like what follows
    if "quantization_config" in kwargs:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return PeftModel.from_pretrained(model, adapter).eval()


def merged(model: PeftModel) -> MeraForDiagnosis:
    """The model with its adapter merged in, in place and in one precision; the base must not be quantised."""
    whole: MeraForDiagnosis = model.merge_and_unload()
    whole.ranking_head.to(whole.dtype)
    return whole


def _check_base(base: MeraConfig, trained: MeraConfig, name: str) -> None:
    for field in ("model_type", "hidden_size", "num_hidden_layers"):
        ours, theirs = (getattr(config.text_config, field, None) for config in (base, trained))
        if ours != theirs:
            raise InputError(f"`base` {name!r} is another model than the adapter's: {field} is {ours}, not {theirs}.")
    if base.num_codes and (base.codes != trained.codes or base.code_token_start != trained.code_token_start):
        raise InputError(
            f"`base` {name!r} has tokens of {base.num_codes} codes, and they are not those of the adapter."
        )


def merge_adapter(
    adapter: str | Path,
    output_dir: str | Path,
    base: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> dict:
    """Merge an adapter into its base, and write a checkpoint that `AutoModel.from_pretrained` loads whole.

    The base is loaded without quantisation, on the CPU: merging into 4-bit weights would round the adapter away.

    Args:
        adapter (`str` or `Path`): the folder `adapter` that a training wrote, or its name on the Hub.
        output_dir (`str` or `Path`): where the checkpoint goes.
        base (`str`, *optional*): where the adapter's base is now; defaults to what it was trained on.
        dtype (`str`, *optional*): `"bfloat16"` or `"float32"`; defaults to that of the base in training.
        overwrite (`bool`, *optional*, defaults to `False`): replace what an earlier merge wrote.

    Returns:
        the content of `merged.json`: `base`, whether it was quantised in training (`quantised_base`), `dtype`, number
        of `histories`, and in `adapter` how far the logits of the adapted model are from those of the merged one, see
        [`compare`]; if the base was quantised and bitsandbytes is there, in `quantised` the same for the model that was
        trained.

    Raises:
        [`InputError`]: for no adapter, no base, a base of another model, or an output folder that may not be replaced.
    """
    from peft import PeftConfig
    from transformers import AutoTokenizer

    config = adapter_config(adapter)
    output_dir = Path(output_dir)
    trained_on = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    _check_output(output_dir, overwrite, (adapter, base or trained_on))
    quantization = getattr(config, "quantization_config", None)
    dtype = dtype or str(config.dtype or "float32").removeprefix("torch.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(adapter)
    except (OSError, ValueError) as error:
        raise InputError(f"`adapter` {str(adapter)!r} has no tokenizer: {str(error).splitlines()[0]}") from error
    patients = synthetic_patients(config.codes)
    figures = {
        "base": base or trained_on,
        "quantised_base": quantization is not None,
        "dtype": dtype,
        "histories": len(patients),
    }

    wrapped = load_adapter(adapter, base, dtype=dtype)
    adapted = _logits(base_model(wrapped), tokenizer, patients)
    model = merged(wrapped)
    after = _logits(model, tokenizer, patients)
    figures["adapter"] = compare(adapted, after)
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is not None:
        quantised = load_adapter(adapter, base, dtype=dtype, quantization_config=quantization)
        figures["quantised"] = compare(_logits(base_model(quantised), tokenizer, patients), after)

    with whole_folder(output_dir) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(figures, folder / MERGED_FILE)
    return figures


def _check_output(folder: Path, overwrite: bool, inputs: tuple) -> None:
    if folder.is_file():
        raise InputError(f"`output_dir` {str(folder)!r} is a file; choose a folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / MERGED_FILE).is_file():
        raise InputError(
            f"`output_dir` {str(folder)!r} exists and `mera merge` did not write it, so that it is never overwritten; "
            "choose another folder."
        )
    if not overwrite:
        raise InputError(
            f"`output_dir` {str(folder)!r} holds a merged checkpoint; choose another folder, or replace it: "
            "overwrite=True (--overwrite)."
        )
    for path in inputs:
        if path and Path(path).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"`output_dir` {str(folder)!r} holds {str(path)!r}, which is merged; choose another folder."
            )


def synthetic_patients(codes: list[str], count: int = 64) -> list[dict]:
    """Histories drawn from a fixed seed: one to three visits of one to five of the codes each.

    Args:
        codes (`list[str]`): codes of a model.
        count (`int`, *optional*, defaults to 64): number of histories.
    """
    draw = random.Random(0)
    return [
        {
            "profile": {"sex": draw.choice("FM"), "age": draw.randrange(20, 90)},
            "visits": [
                {"codes": draw.sample(codes, min(len(codes), draw.randint(1, 5)))} for _ in range(draw.randint(1, 3))
            ],
        }
        for _ in range(count)
    ]


def _logits(model: MeraForDiagnosis, tokenizer, patients: list[dict]) -> torch.Tensor:
    """Logits of codes and EOV for the next visit, float32 of shape (patients, codes + 1)."""
    from tqdm import tqdm

    rows, tables = [], []
    bar = partial(tqdm, desc="comparing logits", unit="batch")
    for batch_rows, output, _ in model.decisions(patients, tokenizer, batch_size=8, progress=bar):
        rows += batch_rows
        tables.append(torch.cat([output.code_logits, output.eov_logits[:, None]], dim=1).float().cpu())
    return torch.cat(tables)[torch.tensor(rows).argsort()]


def compare(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """How far two tables of logits are from each other.

    Args:
        ours, theirs (`torch.FloatTensor` of shape `(N, codes + 1)`): logits of codes and EOV.

    Returns:
        `{"largest": ..., "mean": ..., "same_top20": ..., "common_top20": ...}`: the largest and the mean absolute difference,
        the share of histories with the same first 20 codes in the same order, and the share of the first 20 codes in
        common.
    """
    difference = (ours - theirs).abs()
    tops = [logits[:, :-1].argsort(dim=1, descending=True, stable=True)[:, :20] for logits in (ours, theirs)]
    common = (tops[0][:, :, None] == tops[1][:, None, :]).any(2)  # (N, 20)
    return {
        "largest": float(difference.max()),
        "mean": float(difference.mean()),
        "same_top20": float((tops[0] == tops[1]).all(1).float().mean()),
        "common_top20": float(common.float().mean()),
    }
