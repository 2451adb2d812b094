"""The levels of the ICD tree as nested runs of codes, which is what makes a hierarchical loss cheap."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


SPACE = "space"  # level 0: all codes of the candidate space
_LONGEST_SEGMENT = 64  # codes; longer runs are cut, so that reductions over segments have rows to share among threads


class Hierarchy:
    """
    Levels of the tree over codes in depth-first order.

    Every group of every level is a contiguous range of codes. The finest partition that no level cuts consists of
    *segments*: whatever is summed over a group is summed over segments first, and each coarser level is summed from the
    finer one, so that one pass alone is as long as the list of codes.

    Args:
        level_groups (`dict[str, list[int]]`): for each level, coarsest first, the group of every code; -1 without one.
        levels (`list[str]`, *optional*): levels to keep, [`SPACE`] among them or not; all without it.
        num_codes (`int`): number of codes `C`.
        singletons (`bool`, *optional*, defaults to `False`): whether groups of one code are groups. For a contrast within
            groups they are not: such a code has no rival. For a contrast between groups they are.

    Attributes:
        levels: names of the levels, coarsest first, without [`SPACE`].
        has_space: whether the whole space is a level.
        lengths (`Tensor` of shape `(S,)`, int64): number of codes of each segment.
        segment_of (`Tensor` of shape `(C,)`, int64): the segment of each code.
        run_of_code (`dict[str, Tensor]`): for each level, the run that is the group of each code, -1 without one, and -1
            for the spare entry behind the codes and EOV, which stands for padding: shape `(C + 2,)`, int64.
        run_of_finer (`dict[str, Tensor]`): for each level, the run of every run of the next finer level (of every segment at
            the finest): int64.
        runs (`dict[str, int]`): number of runs of each level.

    Raises:
        [`InputError`]: for a level that the codes do not have, or a group that is not a contiguous range.
    """

    def __init__(
        self,
        level_groups: dict[str, list[int]],
        num_codes: int,
        levels: list[str] | None = None,
        singletons: bool = False,
    ):
        unknown = [name for name in levels or () if name != SPACE and name not in level_groups]
        if unknown:
            known = ", ".join([SPACE, *level_groups])
            raise InputError(f"`levels` names {unknown[0]!r}; the codes of this model have {known}.")
        self.num_codes, self.has_space = num_codes, levels is None or SPACE in levels
        self.levels = [name for name in level_groups if levels is None or name in levels]

        starts = torch.zeros(num_codes, dtype=torch.bool)  # where a run of codes with the same groups begins
        starts[:1] = True
        boundaries = {}
        self.run_of_code, self.run_of_finer, self.runs = {}, {}, {}
        for level in self.levels:
            groups = _without_singletons(level_groups[level]) if not singletons else torch.tensor(level_groups[level])
            starts = starts.clone()
            starts[1:] |= groups[1:] != groups[:-1]
            boundaries[level] = starts
            runs = starts.cumsum(0) - 1
            _check_contiguous(level, groups, runs)
            self.runs[level] = int(runs[-1]) + 1
            spare = torch.full((2,), -1)
            self.run_of_code[level] = torch.cat([torch.where(groups < 0, -1, runs), spare])
        self.lengths = _cut(starts)
        self.segment_of = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        finer = torch.zeros(num_codes, dtype=torch.bool)
        finer[self.lengths.cumsum(0) - self.lengths] = True
        for level in reversed(self.levels):
            runs = boundaries[level].cumsum(0) - 1
            self.run_of_finer[level] = runs[finer]
            finer = boundaries[level]

    def to(self, device) -> Hierarchy:
        """Move the tensors to a device, in place."""
        self.lengths, self.segment_of = self.lengths.to(device), self.segment_of.to(device)
        for tensors in (self.run_of_code, self.run_of_finer):
            tensors.update({level: tensor.to(device) for level, tensor in tensors.items()})
        return self


def _without_singletons(groups: list[int]) -> Tensor:
    groups = torch.tensor(groups)
    counts = torch.bincount(groups.clamp(min=0))
    return torch.where((groups >= 0) & (counts[groups.clamp(min=0)] > 1), groups, -1)


def _check_contiguous(level: str, groups: Tensor, runs: Tensor) -> None:
    inside = groups >= 0
    if len(runs[inside].unique()) != len(groups[inside].unique()):
        raise InputError(
            f"the groups of level {level!r} are not contiguous ranges of codes; codes have to stand in the depth-first "
            "order of the tree, as `add_code_tokens` puts them."
        )


def _cut(starts: Tensor) -> Tensor:
    """Lengths of the runs that begin where `starts` is true, cut into pieces of `_LONGEST_SEGMENT` at most."""
    borders = torch.cat([starts.nonzero()[:, 0], torch.tensor([len(starts)])]).tolist()
    lengths = []
    for begin, end in zip(borders, borders[1:], strict=False):
        lengths += [min(_LONGEST_SEGMENT, end - at) for at in range(begin, end, _LONGEST_SEGMENT)]
    return torch.tensor(lengths)
