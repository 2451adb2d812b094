"""A trained model as a plain causal language model, for engines that know nothing about MERA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.errors import InputError
from mera_hf.files import whole_folder
from mera_hf.timeline_mera import TimelineEncoder
from mera_hf.training import plain_prompt


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

EXPORT_FILE = "export.json"

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- mera_hf
- medical
---

# A diagnosis ranker as a plain language model

Written by `mera export`. Behind the prompt of a patient, the log-probabilities of the first token rank {count:,} diagnosis
codes for the next visit ([Memorize and Rank](https://huggingface.co/papers/2501.17326)). `AutoModelForCausalLM` and engines
that serve such models load it; `mera_hf` is not needed.

This is a research model. It is not for clinical decisions. If it was trained on patients, the agreement under which their
data were obtained says who may have it.

```python
import torch
from prompt import Prompt
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".").eval()
prompt = Prompt()
patient = {{"profile": {{"sex": "F", "age": 72}}, "visits": [{{"codes": {codes}}}]}}
with torch.no_grad():
    scores = model(torch.tensor([prompt.ids(patient)])).logits[0, -1].log_softmax(-1)
ranking = sorted(prompt.tokens, key=lambda code: -scores[prompt.tokens[code]])
print(ranking[:10])
```

## The prompt, as token ids

1. {bos} `<profile>` ({profile}){phrase}
2. for each visit, oldest first: `<visit>` ({visit}); {code}, each code once, in the order of the code tokens; `<eov>`
   ({eov}){text}
3. `<visit>` ({visit}) once more, where the next visit begins.
{cut}
The codes are the tokens {first} to {last}, `<eov>` the one behind them; `prompt.json` lists every code with its token, its
description and the ids that stand for it in a history, and `prompt.py` writes the prompt from it. Send the ids as they are,
with no token in front, and not a text: a tokenizer may cut a text in another way when it sees it whole. Ask for the
log-probabilities of the first token, of the code tokens if the engine can be told so; rank those and leave out all others.
Greedy generation writes codes of the visit until `<eov>`, which is a list and not the ranking.

## What is not in it

{lost}Calibrated probabilities, and the predicted set that they cut out of the ranking.{rerank}
"""


def lost_in_export(model: MeraForDiagnosis) -> list[str]:
    """What the model ranks with but a plain language model cannot hold, in words; empty if both rank alike."""
    head, lost = model.ranking_head, []
    if any(bool(gate.any()) for name, gate in head.named_parameters() if "gate" in name):
        lost.append("the history term")
    if hasattr(head, "code_bias") and bool(head.code_bias.any()):
        lost.append("the code bias")
    if model.config.positions == "visit":
        lost.append("one position for all codes of a visit")
    return lost


def check_exportable(model: MeraForDiagnosis) -> None:
    """Refuse a model whose weights are not those of a plain causal language model.

    Raises:
        [`InputError`]: for an encoder-decoder, quantised weights, or an adapter that is not merged.
    """
    if model.config.text_config.is_encoder_decoder:
        raise InputError("an encoder-decoder has no prompt whose first token ranks; export a causal language model.")
    if getattr(model, "is_quantized", False) or hasattr(model, "peft_config"):
        raise InputError(
            "the weights are quantised or carry an adapter; export the checkpoint that `mera train` wrote."
        )


def check_output(output_dir: str | Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything but an export, and with `overwrite=False` also an export.

    Raises:
        [`InputError`]: naming the folder.
    """
    output = Path(output_dir)
    if output.is_file():
        raise InputError(f"`output_dir` {str(output)!r} is a file; choose a folder.")
    if output.is_dir() and any(output.iterdir()):
        if not (output / EXPORT_FILE).is_file():
            raise InputError(f"`output_dir` {str(output)!r} is not empty and holds no export; choose another folder.")
        if not overwrite:
            raise InputError(
                f"`output_dir` {str(output)!r} holds an export; choose another folder, or replace it (--overwrite)."
            )


def export_plain(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    measured: dict | None = None,
    overwrite: bool = False,
) -> None:
    """Write the language model inside as a checkpoint of `AutoModelForCausalLM`.

    The folder appears complete or not at all: weights, tokenizer with the code tokens, generation config ending at
    EOV, `prompt.json` and `prompt.py` (how a patient is written, without `mera_hf`), a card with the recipe of the
    prompt, and `export.json` (what was left behind, and whose patients are in the weights).

    Args:
        model (`MeraForDiagnosis`): with merged weights. What [`lost_in_export`] names is left behind.
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        output_dir (`str` or `Path`): folder to write.
        measured (`dict`, *optional*): the cost of what is left behind, for `export.json` and the card, see
            `mera_hf.evaluation.rankings.plain.measure_export`.
        overwrite (`bool`, defaults to `False`): replace an earlier export.

    Raises:
        [`InputError`]: as [`check_exportable`] and [`check_output`].
    """
    from transformers import GenerationConfig

    check_output(output_dir, overwrite)
    check_exportable(model)
    lost = lost_in_export(model)
    encoder = TimelineEncoder(model.config, tokenizer)
    with whole_folder(Path(output_dir)) as folder:
        model.language_model.save_pretrained(folder)
        GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=model.config.eov_token_id,
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,
        ).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.copyfile(plain_prompt.__file__, folder / "prompt.py")
        _write_json(_recipe(encoder), folder / "prompt.json")
        export = {"left_behind": lost, "measured": measured, "provenance": model.config.provenance}
        _write_json(export, folder / EXPORT_FILE)
        (folder / "README.md").write_text(_card(encoder, lost, measured), encoding="utf-8")


def _recipe(encoder: TimelineEncoder) -> dict:
    config = encoder.config
    return {
        "bos": encoder.bos,
        "profile": config.profile_token_id,
        "visit": config.visit_token_id,
        "eov": config.eov_token_id,
        "use_profile": config.use_profile,
        "use_visit_text": config.use_visit_text,
        "max_length": encoder.max_length,
        "codes": [
            {
                "code": code,
                "description": config.descriptions[index],
                "token_id": config.code_token_start + index,
                "in_history": encoder.segments[index],
            }
            for code, index in encoder.code_index.items()
        ],
    }


def _card(encoder: TimelineEncoder, lost: list[str], measured: dict | None) -> str:
    config = encoder.config
    written = {
        "code": "the code tokens",
        "code+description": "for each code its token and the words of its description",
        "description": "for each code the words of its description",
    }
    cost = ""
    if measured:
        figures = "; ".join(
            f"{name} {100 * full:.1f} % with, {100 * plain:.1f} % without"
            for name, (full, plain) in measured["recall"].items()
        )
        cost = f" On the {measured['patients']:,} {measured['split']} patients: {figures}."
    depth = config.rerank_depth
    return CARD.format(
        count=config.num_codes,
        codes=json.dumps(config.codes[:2]),
        bos=f"`{encoder.tokenizer.bos_token}` ({encoder.bos[0]});" if encoder.bos else "No first token;",
        profile=config.profile_token_id,
        phrase="; the tokens of a phrase such as `female, aged 70 to 79, white`, of what is known"
        * config.use_profile,
        visit=config.visit_token_id,
        code=written[config.history_text],
        eov=config.eov_token_id,
        text="; the tokens of the visit's text, if it has one" * config.use_visit_text,
        cut=f"\nAll of it takes at most {encoder.max_length:,} tokens: the oldest visits are left out until it does.\n"
        if encoder.max_length
        else "",
        first=config.code_token_start,
        last=config.eov_token_id - 1,
        lost=f"{_and(lost).capitalize()}: a plain language model has no place for them, and it was exported without "
        f"(`--plain`).{cost}\n\n"
        if lost
        else "",
        rerank=f" The order by worth for weighted F1 among the first {depth}: recall at {depth} and beyond is the same."
        if depth
        else "",
    )


def _and(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _write_json(content: dict, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
