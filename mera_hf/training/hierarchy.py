"""The levels of the ICD tree as nested runs of codes, which makes a hierarchical loss cheap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mera_hf.errors import InputError


SPACE = "space"  # level 0: all codes of the candidate space
_LONGEST_SEGMENT = 64  # codes; longer runs are cut, so that reductions over segments have rows to share among threads
# Looking up the groups of a visit's codes costs as much as summing this many groups for each code of a group, as
# measured on a CPU
_LOOK_UP = 64


@dataclass(frozen=True)
class Tile:
    """Whole adjacent segments.

    Attributes:
        codes (`slice`): their codes.
        segments (`slice`): the segments.
        lengths (`Tensor`, int64): number of codes of each.
        segment_of (`Tensor`, int64): for each code its segment, counted from the first of the tile.
    """

    codes: slice
    segments: slice
    lengths: Tensor
    segment_of: Tensor


class Hierarchy:
    """
    Levels of the tree over codes in depth-first order.

    Every group of every level is a contiguous range of codes. At coarse levels, whole groups are summed: *segments*
    are the finest partition that no coarse level cuts; sums over groups are sums over segments first, then each
    coarser level is summed from the finer one, so that only one pass is as long as the list of codes. At fine
    levels, groups are many and small, and it is cheaper to look up the few groups of the true codes.

    Args:
        level_groups (`dict[str, list[int]]`): for each level, coarsest first, the group of every code; -1 for none.
        num_codes (`int`): number of codes `C`.
        levels (`list[str]`, *optional*): levels to keep, with or without [`SPACE`]; defaults to all.
        contrast_groups (`bool`, *optional*, defaults to `False`): whether groups are contrasted with groups, which
            needs all of them. Otherwise a group of a single code has no rivals and is not needed.

    Attributes:
        levels: names of the levels that have groups, coarsest first, without [`SPACE`].
        has_space: whether the whole space is a level.
        coarse: those of `levels` whose groups are summed whole.
        lengths (`Tensor` of shape `(S,)`, int64): number of codes of each segment.
        segment_of (`Tensor` of shape `(C,)`, int64): the segment of each code.
        runs (`dict[str, int]`): number of runs of each coarse level: its groups, and what lies between them.
        run_of_finer (`dict[str, Tensor]`): for each coarse level, the run of every run of the next finer one (of every
            segment at the finest): int64.
        run_of_code (`dict[str, Tensor]`): for each coarse level, the run that is the group of each code, -1 for none.
        first (`dict[str, Tensor]`), size (`dict[str, Tensor]`): for each fine level, the first code of the group of each
            code, and the size of that group, 0 for none. These and `run_of_code` are int64 of shape `(C + 2,)`: codes,
            EOV, and the spare entry that stands for padding.
        fine: the others of `levels`.

    Raises:
        [`InputError`]: for a level that the codes do not have, or a group that is not a contiguous range.
    """

    def __init__(
        self,
        level_groups: dict[str, list[int]],
        num_codes: int,
        levels: list[str] | None = None,
        contrast_groups: bool = False,
    ):
        unknown = [name for name in levels or () if name != SPACE and name not in level_groups]
        if unknown:
            known = ", ".join([SPACE, *level_groups])
            raise InputError(f"`levels` names {unknown[0]!r}; the codes of this model have {known}.")
        self.num_codes, self.has_space = num_codes, levels is None or SPACE in levels
        self.levels, self.coarse, self.fine = [], [], []
        self.runs, self.run_of_finer, self.run_of_code = {}, {}, {}
        self.first, self.size = {}, {}

        starts = torch.zeros(num_codes, dtype=torch.bool)  # where a run of codes with the same groups begins
        starts[:1] = True
        boundaries = {}
        for level in level_groups:
            if levels is not None and level not in levels:
                continue
            groups = torch.tensor(level_groups[level])
            sizes = _sizes(groups)  # (C,)
            if not contrast_groups:
                groups = torch.where(sizes > 1, groups, -1)
            inside = groups >= 0
            if not inside.any():
                continue
            self.levels.append(level)
            cuts = starts.clone()
            cuts[1:] |= groups[1:] != groups[:-1]
            runs = cuts.cumsum(0) - 1
            if len(runs[inside].unique()) != len(groups[inside].unique()):
                raise InputError(
                    f"the groups of level {level!r} are not contiguous ranges of codes; codes have to stand in the "
                    "depth-first order of the tree, as `add_code_tokens` puts them."
                )
            if not contrast_groups and _LOOK_UP * sizes.double().mean() < runs[-1]:
                self.fine.append(level)
                begins = cuts.nonzero()[:, 0][runs]
                self.first[level] = _with_spare(torch.where(inside, begins, 0), 0)
                self.size[level] = _with_spare(torch.where(inside, sizes, 0), 0)
                continue
            self.coarse.append(level)
            starts = boundaries[level] = cuts
            self.runs[level] = int(runs[-1]) + 1
            self.run_of_code[level] = _with_spare(torch.where(inside, runs, -1), -1)
        self.lengths = _cut(starts)
        self.segment_of = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        finer = torch.zeros(num_codes, dtype=torch.bool)
        finer[self.lengths.cumsum(0) - self.lengths] = True
        for level in reversed(self.coarse):
            runs = boundaries[level].cumsum(0) - 1
            self.run_of_finer[level] = runs[finer]
            finer = boundaries[level]
        self._tiles: dict[int, list[Tile]] = {}

    def tiles(self, most: int) -> list[Tile]:
        """The codes in tiles of at most `most` codes, unless a single segment is longer."""
        if most not in self._tiles:
            tiles, ends = [], self.lengths.cumsum(0).tolist()
            first = begin = 0
            for segment, end in enumerate(ends, start=1):
                if segment == len(ends) or ends[segment] - begin > most:
                    tiles.append(self._tile(slice(begin, end), slice(first, segment)))
                    first, begin = segment, end
            self._tiles[most] = tiles
        return self._tiles[most]

    def _tile(self, codes: slice, segments: slice) -> Tile:
        return Tile(codes, segments, self.lengths[segments], self.segment_of[codes] - segments.start)

    def rivals(self, level: str, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Where the codes of the group of each of `codes` `(M, P)` at a fine level stand in a flattened table `(C + 2, P)`,
        and for each the place in the flattened `codes` that it belongs to, ascending; int64 of shape `(N,)` both."""
        width = codes.shape[1]
        sizes = self.size[level][codes].flatten()  # (M * P,)
        owner = torch.repeat_interleave(sizes)  # (N,)
        # Start at the group's first code in the owner's column and go down, counting from where the owner begins
        begin = self.first[level][codes] * width + torch.arange(width, device=codes.device)  # (M, P)
        begin = begin.flatten() - (sizes.cumsum(0) - sizes) * width
        number = torch.arange(len(owner), device=codes.device)
        return begin.index_select(0, owner).add_(number, alpha=width), owner

    def to(self, device) -> Hierarchy:
        """Move the tensors to a device, in place."""
        if self.lengths.device == torch.device(device):
            return self
        self._tiles = {}
        self.lengths, self.segment_of = self.lengths.to(device), self.segment_of.to(device)
        for tensors in (self.run_of_code, self.run_of_finer, self.first, self.size):
            tensors.update({level: tensor.to(device) for level, tensor in tensors.items()})
        return self


def _sizes(groups: Tensor) -> Tensor:
    """Number of codes in the group of each code; 0 for none."""
    inside = groups.clamp(min=0)
    return torch.where(groups < 0, 0, torch.bincount(groups[groups >= 0], minlength=int(inside.max()) + 1)[inside])


def _with_spare(of_code: Tensor, value: int) -> Tensor:
    return torch.cat([of_code, torch.full((2,), value)])


def _cut(starts: Tensor) -> Tensor:
    """Lengths of the runs that begin where `starts` is true, cut into pieces of `_LONGEST_SEGMENT` at most."""
    borders = torch.cat([starts.nonzero()[:, 0], torch.tensor([len(starts)])]).tolist()
    lengths = []
    for begin, end in zip(borders, borders[1:], strict=False):
        lengths += [min(_LONGEST_SEGMENT, end - at) for at in range(begin, end, _LONGEST_SEGMENT)]
    return torch.tensor(lengths)
