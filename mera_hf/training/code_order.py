"""Hierarchies other than the ICD tree for the contrastive loss (this project's choice).

[`Hierarchy`] wants groups that are ranges of codes. Codes that are grouped otherwise are put in another order in front of the
loss, and nowhere else: model, tokenizer and config stay in the order of the tree.
"""

import dataclasses

import torch
from torch import Tensor

from ..errors import InputError
from ..icd import LEVELS
from ..icd.groupings import ccs, ccsr
from ..modeling_mera import Readout
from .losses import DecisionTargets


HIERARCHIES = ("icd", "ccs", "ccsr", "shuffled")


def grouped_codes(config, hierarchy: str, seed: int) -> tuple[dict[str, list[int]], Tensor | None]:
    """The groups of a model's codes at the levels of a hierarchy, and the order of codes in which groups are ranges.

    Args:
        config (`MeraConfig`): of a model with code tokens.
        hierarchy (`str`):
            `"icd"`, the tree; `"ccs"` or `"ccsr"`, one level of that name with the groups of AHRQ, -1 for a code without
            one; `"shuffled"`, the groups of the tree with codes dealt out at random among its places, so that sizes and
            nesting stay: the control.
        seed (`int`): of `"shuffled"`.

    Returns:
        `dict[str, list[int]]`: for each level, coarsest first, the group of the code at each place.
        `Tensor` of shape `(C,)`, int64: the code at each place; `None` where codes stay in the order of the tree.

    Raises:
        [`InputError`]: for `"ccsr"` where the model has ICD-9-CM codes.
    """
    if hierarchy in ("icd", "shuffled"):
        # A config that was saved has its levels in alphabetical order
        groups = {level: config.level_groups[level] for level in LEVELS if level in config.level_groups}
        if hierarchy == "icd":
            return groups, None
        return groups, torch.randperm(config.num_codes, generator=torch.Generator().manual_seed(seed))
    foreign = [code for code in config.codes if not code.startswith("ICD10CM:")]
    if hierarchy == "ccsr" and foreign:
        raise InputError(
            f"`hierarchy` is ccsr, which groups ICD-10-CM codes alone, and {len(foreign)} of the {config.num_codes} codes of "
            f"this model are others, such as {foreign[0]}; set `hierarchy: ccs`, which groups both versions."
        )
    names = [(ccs if hierarchy == "ccs" else ccsr)(code) for code in config.codes]
    number = {name: at for at, name in enumerate(dict.fromkeys(name for name in names if name is not None))}
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
    # The last entry is what the index -1, padding, finds
    place = torch.cat([order.argsort(), order.new_tensor([count, count + 1, -1])])  # (C + 3,)
    readout = dataclasses.replace(
        readout,
        rows=readout.rows[rows],
        bias=None if readout.bias is None else readout.bias[rows],
        history_codes=None if readout.history_codes is None else place[readout.history_codes],
    )
    return readout, dataclasses.replace(targets, codes=place[targets.codes])
