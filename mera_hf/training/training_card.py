"""The short card that a trainer writes beside its weights; `_BaseTrainer` would offer a text-generation pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.files import write_text


if TYPE_CHECKING:
    from trl.trainer.base_trainer import _BaseTrainer


CITATION = """\
@inproceedings{ma2025memorize,
    title     = {Memorize and Rank: Elevating Large Language Models for Clinical Diagnosis Prediction},
    author    = {Ma, Mingyu Derek and others},
    booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
    year      = {2025},
    note      = {arXiv:2501.17326}
}"""

CARD = """\
---
library_name: mera_hf
tags:
{tags}
---

# {title}

{what}

Method: [Memorize and Rank](https://huggingface.co/papers/2501.17326) (MERA), as `mera_hf` has it.{dataset}

This is a research model. It is not for clinical decisions, and it has not been evaluated as a medical device. If it \
was trained on patients, the agreement under which their data were obtained says who may have it.

```bibtex
{citation}
```
"""


def write_training_card(
    trainer: _BaseTrainer, what: str, model_name: str | None, dataset_name: str | None, tags: str | list[str] | None
) -> None:
    """Write `README.md` into the output folder of a trainer: title, method, limits, citation; nothing about its data.

    Args:
        trainer (`_BaseTrainer`): its `_name`, `_tag_names` and `args.output_dir` are read.
        what (`str`): one sentence on what the model does.
        model_name (`str`, *optional*): title of the card; defaults to the trainer's name.
        dataset_name (`str`, *optional*): what it was trained on.
        tags (`str` or `list[str]`, *optional*): tags besides the trainer's own.
    """
    if not trainer.is_world_process_zero():
        return
    assert trainer.args.output_dir is not None
    tags = [tags] if isinstance(tags, str) else list(tags or [])
    text = CARD.format(
        title=model_name or f"{trainer._name} model",
        what=what,
        citation=CITATION,
        dataset=f" Trained on: {dataset_name}." if dataset_name else "",
        tags="\n".join(f"- {tag}" for tag in dict.fromkeys([*trainer._tag_names, *tags])),
    )
    write_text(text, Path(trainer.args.output_dir, "README.md"))
