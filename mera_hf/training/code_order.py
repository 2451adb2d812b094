"""Hierarchies other than the ICD tree for the contrastive loss (this project's choice).

[`Hierarchy`] needs groups that are ranges of codes. For other groupings the codes are reordered just before the loss,
and nowhere else: model, tokenizer and config stay in the order of the tree.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from mera_hf.errors import InputError
from mera_hf.icd import LEVELS, ccs, ccsr, ccsr_groups
from mera_hf.modeling_mera import Readout
from mera_hf.training.losses import DecisionTargets


HIERARCHIES = ("icd", "ccs", "ccsr", "shuffled")


def grouped_codes(config, hierarchy: str, seed: int) -> tuple[dict[str, list[int]], Tensor | None]:
    """The groups of a model's codes at the levels of a hierarchy, and the order of codes in which groups are ranges.

    Args:
        config (`MeraConfig`): of a model with code tokens.
        hierarchy (`str`):
            `"icd"`, the tree; `"ccs"` or `"ccsr"`, one level of that name with the groups of AHRQ, -1 for a code without
            one; `"shuffled"`, the groups of the tree with the codes permuted at random, so that sizes and
            nesting stay: the control.
        seed (`int`): seed of `"shuffled"`.

    Returns:
        `dict[str, list[int]]`: for each level, coarsest first, the group of the code at each place.
        `Tensor` of shape `(C,)`, int64: the code at each place; `None` where codes stay in the order of the tree.

    Raises:
        [`InputError`]: for `"ccsr"` where the model has ICD-9-CM codes.
    """
    if hierarchy in ("icd", "shuffled"):
        # A saved config has its levels in alphabetical order
        groups = {level: config.level_groups[level] for level in LEVELS if level in config.level_groups}
        if hierarchy == "icd":
            return groups, None
        return groups, torch.randperm(config.num_codes, generator=torch.Generator().manual_seed(seed))
    foreign = [code for code in config.codes if not ccsr_groups(code)]
    if hierarchy == "ccsr" and foreign:
        raise InputError(
            f"`hierarchy` is ccsr, which groups ICD-10-CM codes alone, and {len(foreign)} of the {config.num_codes} codes of "
            f"this model are others, such as {foreign[0]}; set `hierarchy: ccs`, which groups both versions."
        )
    names = [(ccs if hierarchy == "ccs" else ccsr)(code) for code in config.codes]
    number: dict[Any, int] = {
        name: at for at, name in enumerate(dict.fromkeys(name for name in names if name is not None))
    }
    of_code = torch.tensor([number.get(name, -1) for name in names])  # (C,)
    order = of_code.argsort(stable=True)
    return {hierarchy: of_code[order].tolist()}, order


def in_order(readout: Readout, targets: DecisionTargets, order: Tensor) -> tuple[Readout, DecisionTargets]:
    """The same decisions with code `order[i]` at place `i`; EOV stays last.

    Args:
        readout ([`~mera_hf.modeling_mera.Readout`]): with codes in the order of the tree.
        targets ([`DecisionTargets`]): of the same decisions.
        order (`Tensor` of shape `(C,)`, int64): from [`grouped_codes`].
    """
    count = len(order)
    rows = torch.cat([order, order.new_tensor([count])])
    # The last entry is for the index -1, padding
    place = torch.cat([order.argsort(), order.new_tensor([count, count + 1, -1])])  # (C + 3,)
    readout = dataclasses.replace(
        readout,
        rows=readout.rows[rows],
        bias=None if readout.bias is None else readout.bias[rows],
        history_codes=None if readout.history_codes is None else place[readout.history_codes],
    )
    return readout, dataclasses.replace(targets, codes=place[targets.codes])
