"""Linear layer and ranking loss in one, without a table of positions x codes (this project's choice).

The table of logits is the largest thing in training: 4,096 decisions x 15,000 codes are 240 MB, and autograd on nested groups
keeps several of them. Here decisions go in chunks. A chunk's logits are made transposed, codes x decisions, in one buffer;
their log-sum-exps over the segments of the tree are taken in place, which leaves the exponentials behind; the losses are
computed by plain autograd on those few numbers ([`Pools`]); and the gradients of the logits are exponentials times what
autograd gives for their segment, again in place. Two more matrix products carry them to hidden states and code rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..modeling_mera import Readout
from .hierarchy import Hierarchy
from .losses import DecisionTargets, Pools, logsumexp


_LOG2E = math.log2(math.e)


def fused_loss(
    readout: Readout,
    targets: DecisionTargets,
    hierarchy: Hierarchy,
    losses: Callable[[Pools, DecisionTargets], Tensor],
    tau: float,
) -> Tensor:
    """
    Sums of losses over decisions, with gradients of their total.

    Computed in float32 whatever the precision of the model (in float64 for float64). The gradients are made in the forward
    pass, chunk by chunk; the backward pass scales them.

    Args:
        readout ([`~mera_hf.modeling_mera.Readout`]): what the logits at `P` decisions are made of.
        targets ([`DecisionTargets`]): what is true there, and how much each decision weighs.
        hierarchy ([`Hierarchy`]): segments of the tree.
        losses (`Callable`): gets the pools and targets of a chunk and returns losses `(L, p)`, to be minimised together.
        tau (`float`): temperature of `Pools.segments`.

    Returns:
        `Tensor` of shape `(L,)`: each loss, weighted and summed over the decisions. Only the gradient of their plain sum is
        known: they must be scaled alike.
    """
    hidden, rows, device_type = readout.hidden, readout.rows, readout.hidden.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        hidden, rows = hidden.to(dtype), rows.to(dtype)
    with torch.autocast(device_type, enabled=False):
        inputs = (hidden, rows, readout.bias, readout.history_terms)
        return _FusedLoss.apply(*inputs, readout, targets, hierarchy, losses, tau, torch.is_grad_enabled())


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, rows, bias, terms, readout, targets, hierarchy, losses, tau, learning):
        inputs = (hidden, rows, bias, terms)
        learning = learning and any(ctx.needs_input_grad)
        chunk = _Chunk(*inputs, readout, hierarchy, tau)
        grads = [
            torch.zeros(tensor.shape, dtype=chunk.dtype, device=tensor.device) if learning and needed else None
            for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=False)
        ]
        total = 0.0
        for at in range(0, len(hidden), chunk.size):
            decisions = slice(at, at + chunk.size)
            some = targets.at(decisions)
            true, eov, segments = chunk.forward(decisions, some)
            with torch.set_grad_enabled(learning):
                numbers = [tensor.requires_grad_(learning) for tensor in (true, eov, *segments)]
                pools = Pools(true, eov, segments[0], logsumexp(segments[-1]))
                sums = (losses(pools, some) * some.weights.to(chunk.dtype)).sum(1)  # (L,)
            total = total + sums.detach()
            if learning:
                slopes = torch.autograd.grad(sums, numbers, torch.ones_like(sums), materialize_grads=True)
                chunk.backward(some, *slopes[:2], slopes[2:], decisions, *grads)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs]
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx, grad):
        scale = grad[0]  # see `fused_loss`: all are scaled alike
        grads = [
            None if saved is None else (saved * scale).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None, None, None, None


class _Chunk:
    """The transposed logits of `p` decisions at a time, in one buffer of shape (C + 2, p): codes, EOV, and a spare row that
    padding points to. They are in units of log 2, since 2**x is the exponential that machines have."""

    def __init__(self, hidden, rows, bias, terms, readout, hierarchy, tau):
        self.dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.on_gpu = hidden.device.type != "cpu"
        # A product of half precision with a float32 result is fast on GPUs, and not there on CPUs
        self.rows = rows if self.on_gpu else rows.to(self.dtype)  # (C + 1, d)
        self.hidden = hidden.to(self.rows.dtype)  # (P, d)
        self.bias, self.terms, self.history_codes = bias, terms, readout.history_codes
        self.scale, self.softcap = readout.scale, readout.softcap
        self.hierarchy, self.codes = hierarchy, hierarchy.num_codes
        self.taus = (1.0,) if tau == 1.0 else (tau, 1.0)  # of the contrast, and of EOV
        # Anything smaller is a denormal number, which costs fifty times more
        self.least = -120.0 if self.dtype == torch.float32 else -1000.0
        # Decisions enough for matrix products at full speed, in a buffer that stays in the cache of a CPU
        room, most = (256 << 20, 8192) if self.on_gpu else (16 << 20, 512)
        self.size = min(max(room // (self.dtype.itemsize * (self.codes + 2)), 128), most, len(hidden))
        self.buffers = {}

    def _buffer(self, name: str, height: int) -> Tensor:
        """Memory of shape (height, p) that every chunk uses again."""
        if name not in self.buffers:
            self.buffers[name] = torch.empty(height * self.size, dtype=self.dtype, device=self.hidden.device)
        return self.buffers[name][: height * self.width].view(height, self.width)

    def forward(self, decisions: slice, targets: DecisionTargets) -> tuple[Tensor, Tensor, list[Tensor]]:
        """True logits (M, p), EOV logits (p,), and log-sum-exps of the false codes of each segment (S, p) at each tau."""
        chunk = self.hidden[decisions]
        self.width = len(chunk)
        z = self.z = self._buffer("z", self.codes + 2)
        _product(self.rows, chunk.T, z[:-1])
        z[-1] = 0.0
        if self.softcap is None:
            z.mul_(self.scale * _LOG2E)
        else:  # s = cap tanh(z / cap), so that ds / dz = 1 - tanh^2
            z.mul_(self.scale / self.softcap).tanh_()
            self.slope = torch.mul(z, z, out=self._buffer("slope", len(z))).neg_().add_(1.0)
            z.mul_(self.softcap * _LOG2E)
        if self.bias is not None:
            z[:-1].add_(self.bias.to(self.dtype)[:, None] * _LOG2E)
        if self.terms is not None:
            codes = self.history_codes[decisions].T  # (H, p), -1 is padding
            self.history = torch.where(codes < 0, self.codes + 1, codes)
            z.scatter_add_(0, self.history, self.terms[decisions].T.to(self.dtype) * _LOG2E)
        true, eov = z.gather(0, targets.codes) / _LOG2E, z[-2] / _LOG2E
        z.scatter_(0, targets.codes, -torch.inf)

        table = z[: self.codes]
        top = self._maximum(table)  # (S, p)
        empty = top == -torch.inf
        top.masked_fill_(empty, 0.0)
        table.sub_(self._of_code(top))
        self.powers, self.sums, segments = [], [], []
        for tau in self.taus:
            powers = table if tau == self.taus[-1] else self._buffer("powers", self.codes).copy_(table)
            powers = powers.div_(tau) if tau != 1.0 else powers
            powers.clamp_(min=self.least).exp2_()
            sums = self._total(powers)  # (S, p)
            self.powers.append(powers)
            self.sums.append(sums)
            segments.append((sums.log2() + top / tau).div_(_LOG2E).masked_fill_(empty, -torch.inf))
        return true, eov, segments

    def backward(self, targets, true, eov, segments, decisions, hidden_grad, rows_grad, bias_grad, terms_grad) -> None:
        """Turn gradients of what `forward` returned into gradients of the inputs, added to the last four."""
        z = self.z
        for powers, sums, slope, tau in zip(self.powers, self.sums, segments, self.taus, strict=True):
            powers.mul_(self._of_code(slope / (sums * tau)))
        if len(self.powers) > 1:
            self.powers[-1].add_(self.powers[0])
        z[-2] = eov
        z.scatter_(0, targets.codes, true)
        z[-1] = 0.0
        if terms_grad is not None:
            terms_grad[decisions] = z.gather(0, self.history).T
        if bias_grad is not None:
            bias_grad += z[:-1].sum(1)
        if self.softcap is not None:
            z.mul_(self.slope)
        if self.scale != 1.0:
            z.mul_(self.scale)
        z = z[:-1]
        if hidden_grad is not None:
            _product(z.T, self.rows, hidden_grad[decisions])
        if rows_grad is not None:
            chunk = self.hidden[decisions]
            if chunk.dtype == z.dtype:
                rows_grad.addmm_(z, chunk)
            else:
                rows_grad += torch.mm(z.to(chunk.dtype), chunk, out_dtype=self.dtype)

    def _of_code(self, per_segment: Tensor) -> Tensor:
        """The row of its segment for every code: (S, p) -> (C, p)."""
        return torch.index_select(per_segment, 0, self.hierarchy.segment_of, out=self._buffer("of_code", self.codes))

    # Sums and maxima over rows that lie together. On CPUs a scatter along the first axis runs at the speed of memory; on
    # GPUs it would need atomics, whose order is random, and a reduction over ranges does not

    def _maximum(self, table: Tensor) -> Tensor:
        if self.on_gpu:
            return torch.segment_reduce(table, "max", lengths=self.hierarchy.lengths, unsafe=True)
        index = self.hierarchy.segment_of[:, None].expand_as(table)
        top = table.new_full((len(self.hierarchy.lengths), self.width), -torch.inf)
        return top.scatter_reduce_(0, index, table, "amax")

    def _total(self, table: Tensor) -> Tensor:
        if self.on_gpu:
            return torch.segment_reduce(table, "sum", lengths=self.hierarchy.lengths, unsafe=True)
        total = table.new_zeros(len(self.hierarchy.lengths), self.width)
        return total.index_add_(0, self.hierarchy.segment_of, table)


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """`left @ right` in the precision of `out`."""
    if left.dtype == right.dtype == out.dtype:
        torch.mm(left, right, out=out)
    else:
        half = left.dtype if left.dtype != out.dtype else right.dtype
        out.copy_(torch.mm(left.to(half), right.to(half), out_dtype=out.dtype))
