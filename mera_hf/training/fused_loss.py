"""Linear layer and ranking loss fused, without a table of positions x codes (this project's choice).

The table of logits is the largest thing in training: 4,096 decisions x 15,000 codes are 240 MB, and autograd on nested groups
keeps several. So decisions are split into chunks. A chunk's logits are made transposed, codes x decisions, in one
buffer; log-sum-exps over the segments of the tree are taken in place, which leaves the exponentials; plain autograd
computes the losses from those few numbers ([`Pools`]); the gradients of the logits are the exponentials times what
autograd gives for their segment, again in place. Two more matrix products carry them to hidden states and code rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mera_hf.modeling_mera import Readout
from mera_hf.training.hierarchy import Hierarchy
from mera_hf.training.losses import DecisionTargets, Pools, temperatures


_LOG2E = math.log2(math.e)


class FusedLoss:
    """
    Sums of losses over decisions, with gradients of their total.

    Computed in float32 whatever the precision of the model (in float64 for float64). The gradients are made in the forward
    pass, chunk by chunk, in buffers reused from step to step; the backward pass scales them.

    Args:
        hierarchy ([`Hierarchy`]): segments of the tree.
        losses (`Callable[[Pools, DecisionTargets], Tensor]`):
            gets the pools and targets of a chunk of `p` decisions and returns losses `(L, p)`, to be minimised together.
        tau (`float`): temperature of the contrast, which the losses read from [`Pools`]; may change between steps.
        excess (`bool`, *optional*, defaults to `False`): whether the losses read `Pools.excess`, another pass over the codes.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        losses: Callable[[Pools, DecisionTargets], Tensor],
        tau: float,
        excess: bool = False,
    ):
        self.hierarchy, self.losses, self.tau, self.excess = hierarchy, losses, tau, excess
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, readout: Readout, targets: DecisionTargets) -> Tensor:
        """
        Args:
            readout ([`~mera_hf.modeling_mera.Readout`]): what the logits at `P` decisions are computed from.
            targets ([`DecisionTargets`]): what is true there, and how much each decision weighs.

        Returns:
            `Tensor` of shape `(L,)`: each loss, weighted and summed over the decisions. Only the gradient of their plain sum
            is known: all must be scaled alike. The backward pass can run once.
        """
        hidden, rows, device_type = readout.hidden, readout.rows, readout.hidden.device.type
        if torch.is_autocast_enabled(device_type):
            dtype = torch.get_autocast_dtype(device_type)
            hidden, rows = hidden.to(dtype), rows.to(dtype)
        with torch.autocast(device_type, enabled=False):
            inputs = (hidden, rows, readout.bias, readout.history_terms)
            return _Fused.apply(*inputs, readout, targets, self, torch.is_grad_enabled())


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, rows, bias, terms, readout, targets, loss, learning):
        inputs = (hidden, rows, bias, terms)
        learning = learning and any(ctx.needs_input_grad)
        chunk = _Chunk(*inputs, readout, loss)
        grads = [
            torch.empty(tensor.shape, dtype=chunk.dtype, device=tensor.device) if learning and needed else None
            for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=False)
        ]
        total = 0.0
        for at in range(0, len(hidden), chunk.size):
            decisions = slice(at, at + chunk.size)
            some = targets.at(decisions)
            true, eov, segments, rivals, excess = chunk.forward(decisions, some)
            with torch.set_grad_enabled(learning):
                numbers = [
                    tensor.requires_grad_(learning)
                    for tensor in (true, eov, excess, *segments, *(some for some, _ in rivals))
                ]
                pools = Pools.reduce(true, eov, segments, rivals, some, loss.hierarchy, loss.tau, excess)
                sums = (loss.losses(pools, some) * some.weights.to(chunk.dtype)).sum(1)  # (L,)
            total = total + sums.detach()
            if learning:
                slopes = torch.autograd.grad(sums, numbers, torch.ones_like(sums), materialize_grads=True)
                chunk.backward(decisions, some, slopes, *grads)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        ctx.grads = grads
        return total

    @staticmethod
    def backward(ctx, grad):
        scale = grad[0]  # see `FusedLoss.__call__`: all are scaled alike
        grads = [
            None if saved is None else saved.mul_(scale).to(dtype)
            for saved, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        del ctx.grads  # given away
        return *grads, None, None, None, None


class _Chunk:
    """The transposed logits of `p` decisions at a time, in one buffer of shape (C + 2, p): codes, EOV, and a spare row that
    padding points to. They are in units of log 2, since 2**x is the exponential that hardware has."""

    def __init__(self, hidden, rows, bias, terms, readout, loss):
        self.dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.on_gpu = hidden.device.type != "cpu"
        # A half-precision product with a float32 result is fast on GPUs, and does not exist on CPUs
        self.rows = rows if self.on_gpu else rows.to(self.dtype)  # (C + 1, d)
        self.hidden = hidden.to(self.rows.dtype)  # (P, d)
        self.bias = None if bias is None else bias.to(self.dtype)[:, None] * _LOG2E  # (C + 1, 1)
        self.terms, self.history_codes = terms, readout.history_codes
        self.scale, self.softcap = readout.scale, readout.softcap
        self.hierarchy, self.codes, self.buffers = loss.hierarchy, loss.hierarchy.num_codes, loss.buffers
        self.taus = temperatures(loss.tau)
        self.excess = loss.excess
        # Anything smaller is a denormal number, which costs fifty times more
        self.least = -120.0 if self.dtype == torch.float32 else -1000.0
        # Enough decisions for matrix products at full speed; on CPUs, few enough codes for a tile to stay in the cache
        room, most = (256 << 20, 8192) if self.on_gpu else (32 << 20, 1024)
        fit = room // (self.dtype.itemsize * (self.codes + 2)) // 64 * 64  # round sizes make products faster
        self.size = min(max(fit, 256), most, len(hidden))
        tile = (4 << 20) // (self.dtype.itemsize * self.size)
        # A power of two: the last chunks of steps differ in size, and the tiles of each size are kept
        self.tiles = loss.hierarchy.tiles(self.codes if self.on_gpu else 1 << (tile.bit_length() - 1))

    def _buffer(self, name: str, height: int) -> Tensor:
        """Memory of shape (height, p) that every chunk of every step reuses."""
        buffer = self.buffers.get(name)
        need = height * self.width
        if buffer is None or buffer.numel() < need or buffer.dtype != self.dtype or buffer.device != self.rows.device:
            self.buffers.pop(name, None)
            buffer = self.buffers[name] = torch.empty(need, dtype=self.dtype, device=self.rows.device)
        return buffer[:need].view(height, self.width)

    def forward(self, decisions: slice, targets: DecisionTargets) -> tuple[Tensor, Tensor, list, list, Tensor]:
        """What `Pools.reduce` takes: true logits (M, p), EOV logits (p,), log-sum-exps of the false codes of each segment
        (S, p) at each temperature, at each fine level the logits of rivals (N,), and whose they are (N,), and by how much
        false codes are above EOV, (p,), of which EOV alone gets a gradient."""
        chunk = self.hidden[decisions]
        self.width = len(chunk)
        z = self.z = self._buffer("z", self.codes + 2)
        if self.softcap is None:
            _product(self.rows, chunk.T, z[:-1], self.scale * _LOG2E, plus=self.bias)
        else:  # s = cap tanh(z / cap), so that ds / dz = 1 - tanh^2
            _product(self.rows, chunk.T, z[:-1], self.scale / self.softcap)
            z.tanh_()
            self.slope = torch.mul(z, z, out=self._buffer("slope", len(z))).neg_().add_(1.0)
            z.mul_(self.softcap * _LOG2E)
            if self.bias is not None:
                z[:-1].add_(self.bias)
        z[-1] = 0.0
        if self.terms is not None:
            codes = self.history_codes[decisions].T  # (H, p), -1 is padding
            self.history = torch.where(codes < 0, self.codes + 1, codes)
            z.scatter_add_(0, self.history, self.terms[decisions].T.to(self.dtype) * _LOG2E)
        true, eov = z.gather(0, targets.codes) / _LOG2E, z[-2] / _LOG2E
        z.scatter_(0, targets.codes, -torch.inf)
        excess = torch.zeros_like(eov)
        self.above = torch.zeros_like(eov)  # number of false codes above EOV, (p,)
        for tile in self.tiles if self.excess else ():
            over = torch.sub(z[tile.codes], z[-2], out=self._buffer("of_code", len(tile.segment_of)))
            self.above += (over > 0).sum(0)
            excess += over.clamp_(min=0).sum(0)
        excess /= _LOG2E
        places = [self.hierarchy.rivals(level, targets.codes) for level in self.hierarchy.fine]
        self.places = [place for place, _ in places]
        rivals = [(z.view(-1).index_select(0, place).div_(_LOG2E), owner) for place, owner in places]

        count = len(self.hierarchy.lengths)
        top = self._buffer("top", count)
        # Not named after the temperature, which may change from step to step
        self.sums = [self._buffer(f"sums {place}", count) for place in range(len(self.taus))]
        self.powers = [self._buffer("powers", self.codes) for _ in self.taus[:-1]] + [z[: self.codes]]
        for tile in self.tiles:
            table = z[tile.codes]
            highest = self._maximum(table, tile)  # (s, p)
            top[tile.segments] = highest
            table.sub_(self._of_code(highest.masked_fill_(highest == -torch.inf, 0.0), tile))
            for powers, sums, tau in zip(self.powers, self.sums, self.taus, strict=True):
                # The last temperature is 1 and takes the place of the table
                powers = table if tau == 1.0 else torch.div(table, tau, out=powers[tile.codes])
                sums[tile.segments] = self._total(powers.clamp_(min=self.least).exp2_(), tile)
        # Segments without a false code keep -inf, the maximum of nothing
        segments = [(sums.log2() + top / tau).div_(_LOG2E) for sums, tau in zip(self.sums, self.taus, strict=True)]
        return true, eov, segments, rivals, excess

    def backward(self, decisions, targets, slopes, hidden_grad, rows_grad, bias_grad, terms_grad) -> None:
        """Turn gradients of what `forward` returned into gradients of the inputs, in the last four."""
        true, eov, excess, *slopes = slopes
        segments, rivals = slopes[: len(self.taus)], slopes[len(self.taus) :]
        shares = [grad / (sums * tau) for grad, sums, tau in zip(segments, self.sums, self.taus, strict=True)]
        for tile in self.tiles:
            for powers, share in zip(self.powers, shares, strict=True):
                powers[tile.codes].mul_(self._of_code(share[tile.segments], tile))
            if len(self.powers) > 1:
                self.powers[-1][tile.codes].add_(self.powers[0][tile.codes])
        z = self.z
        for place, slope in zip(self.places, rivals, strict=True):
            z.view(-1).index_add_(0, place, slope)
        z[-2] = eov - self.above * excess
        z.scatter_(0, targets.codes, true)
        z[-1] = 0.0
        if terms_grad is not None:
            terms_grad[decisions] = z.gather(0, self.history).T
        first = decisions.start == 0
        if bias_grad is not None:
            bias_grad.copy_(z[:-1].sum(1) + (0.0 if first else bias_grad))
        if self.softcap is not None:
            z.mul_(self.slope)
        if hidden_grad is not None:
            _product(z[:-1].T, self.rows, hidden_grad[decisions], self.scale)
        if rows_grad is not None:
            _product(z[:-1], self.hidden[decisions], rows_grad, self.scale, plus=None if first else rows_grad)

    def _of_code(self, per_segment: Tensor, tile) -> Tensor:
        """For every code of a tile, the row of its segment: (s, p) -> (c, p)."""
        out = self._buffer("of_code", len(tile.segment_of))
        return torch.index_select(per_segment, 0, tile.segment_of, out=out)

    # Sums and maxima over adjacent rows. On CPUs a scatter along the first axis runs at the speed of memory; on
    # GPUs it would need atomics, whose order is random, and a reduction over ranges does not

    def _maximum(self, table: Tensor, tile) -> Tensor:
        if self.on_gpu:
            return torch.segment_reduce(table, "max", lengths=tile.lengths, unsafe=True)
        top = table.new_full((len(tile.lengths), self.width), -torch.inf)
        return top.scatter_reduce_(0, tile.segment_of[:, None].expand_as(table), table, "amax")

    def _total(self, table: Tensor, tile) -> Tensor:
        if self.on_gpu:
            return torch.segment_reduce(table, "sum", lengths=tile.lengths, unsafe=True)
        return table.new_zeros(len(tile.lengths), self.width).index_add_(0, tile.segment_of, table)


def _product(left: Tensor, right: Tensor, out: Tensor, alpha: float, plus: Tensor | None = None) -> None:
    """`out = alpha * left @ right + plus`, accumulated in the precision of `out`."""
    if left.dtype == right.dtype == out.dtype:
        torch.addmm(out if plus is None else plus, left, right, alpha=alpha, beta=0 if plus is None else 1, out=out)
        return
    half = left.dtype if left.dtype != out.dtype else right.dtype
    product = torch.mm(left.to(half), right.to(half), out_dtype=out.dtype).mul_(alpha)
    out.copy_(product if plus is None else product.add_(plus))
