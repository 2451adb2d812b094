r"""The ranking losses of MERA and their formulas (from the paper; forms it leaves open are this project's choice).

At one decision position: s are the code logits, e the EOV logit, Y the true codes not yet given, K the codes given,
N = all codes \ (Y u K), anc_l(c) the ancestor of c at level l.

    L_CL  = mean over c in Y, weighted mean over levels l of
            -log( exp(s_c/tau) / (exp(s_c/tau) + sum_{n in N_l(c)} exp(s_n/tau)) )               [`contrastive_loss`]
            N_0(c) = N;  N_l(c) = {n in N : anc_l(n) = anc_l(c)};  levels where N_l(c) is empty are skipped,
            and a code that has a rival at none counts as 0
            (`softmax`: the other codes of Y are in the sum at level 0 too, so P(c) is the share of c in the visit)
    L_DCE = - mean_{c in Y} log( exp(s_c) / (exp(e) + sum_{y in Y} exp(s_y)) )                   [`confidence_loss`]
            - log( exp(e) / (exp(e) + sum_{n in N} exp(s_n)) )
            (`count`: sum_{n in N} max(0, s_n - e) + sum_{y in Y} max(0, e - s_y), over max(1, |Y|))
    L_G   = mean over levels, mean over the groups g of Y at that level, with S_g = log sum_{c in g \ K} exp(s_c/tau), of
            -log( exp(S_g) / (exp(S_g) + sum_{g' not a group of Y} exp(S_g')) )                  [`group_loss`]

Positions average within their visit, visits within their patient, then patients, so that neither batch size nor gradient
accumulation changes the loss.

All of this is a function of a few numbers: the true logits, e, and log-sum-exps over the false codes of segments of
the tree ([`Pools`]). `fused_loss.py` makes these without a table of positions x codes.

Axes: decisions `P`, codes `C`, codes of a visit `M`, segments `S`, target visits `V`. Decisions come last.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mera_hf.training.hierarchy import SPACE, Hierarchy


EOV_LOSSES = ("atlop", "zlpr", "count", "none")


@dataclass
class DecisionTargets:
    """What is true at `P` decisions.

    Attributes:
        codes (`Tensor` of shape `(M, P)`): code indices of the visit, Y and K, in the order in which they are written;
            `C + 1` (after the codes and EOV) where there is none.
        true (`Tensor` of shape `(M, P)`, bool): which of them are Y.
        weights (`Tensor` of shape `(P,)`): share of each decision in the loss, in patients: they sum to their number.
    """

    codes: Tensor
    true: Tensor
    weights: Tensor

    @classmethod
    def from_batch(cls, batch: dict, num_codes: int, first_weight: float = 1.0) -> "DecisionTargets":
        """Read the targets of a batch of `collate_timelines`.

        Args:
            batch (`dict`): the batch.
            num_codes (`int`): number of codes of the model.
            first_weight (`float`): weight of the decision before the first code of a visit against 1 for each later one.
        """
        codes = batch["visit_codes"][batch["decision_visit"]].T  # (M, P), -1 is padding
        written = codes >= 0
        number = torch.arange(len(codes), device=codes.device)[:, None]
        true = written & (number >= batch["decision_given"])
        return cls(torch.where(written, codes, num_codes + 1), true, decision_weights(batch, first_weight))

    def at(self, decisions: slice) -> "DecisionTargets":
        """The targets of some decisions."""
        return DecisionTargets(self.codes[:, decisions], self.true[:, decisions], self.weights[decisions])


def decision_weights(batch: dict, first_weight: float = 1.0) -> Tensor:
    """Weights `(P,)`, float64, that average decisions within visits and visits within patients, and sum over patients."""
    visit, patient = batch["decision_visit"], batch["visit_patient"]
    weights = torch.where(batch["decision_given"] == 0, first_weight, 1.0).double()
    of_visit = weights.new_zeros(len(patient)).index_add(0, visit, weights)
    # Not `bincount`, which waits for the GPU to report the length of the result
    visits_of_patient = weights.new_zeros(len(patient)).index_add(0, patient, weights.new_ones(len(patient)))
    return weights / of_visit[visit] / visits_of_patient[patient[visit]]


@dataclass
class Pools:
    """What the losses need to know about the logits at `P` decisions.

    Attributes:
        true (`Tensor` of shape `(M, P)`): logits s of the codes of the visit; anything where there is none.
        eov (`Tensor` of shape `(P,)`): EOV logits e.
        rivals (`dict[str, Tensor]`): for each level, log sum exp(s_n / tau) over N_l(c) for each code c of the visit,
            `(M, P)`, and over N for the whole space, `(P,)`; -inf for none.
        runs (`dict[str, Tensor]`): log sum exp(s_n / tau) over the false codes n of each run of each coarse level, `(R, P)`.
        false (`Tensor` of shape `(P,)`): log sum exp(s_n) over all false codes n; -inf for none.
        excess (`Tensor` of shape `(P,)`, *optional*): sum of max(0, s_n - e) over all false codes n, whose logits get
            no gradient from it.
        tau (`float`): temperature of the contrast that these were reduced with; the losses divide the true logits by it.
    """

    true: Tensor
    eov: Tensor
    rivals: dict[str, Tensor]
    runs: dict[str, Tensor]
    false: Tensor
    tau: float
    excess: Tensor | None = None

    @classmethod
    def reduce(
        cls,
        true: Tensor,
        eov: Tensor,
        segments: list[Tensor],
        rivals: list[tuple[Tensor, Tensor]],
        targets: DecisionTargets,
        hierarchy: Hierarchy,
        tau: float,
        excess: Tensor | None = None,
    ) -> "Pools":
        """Pools from the reduced logits.

        Args:
            true, eov: as above.
            segments: log sum exp over the false codes of each segment, `(S, P)`, of s / tau, and of s if tau is not 1.
            rivals: for each fine level, the logits s of `Hierarchy.rivals`, -inf where not false, and whose they are, `(N,)`.
            targets: see [`DecisionTargets`].
            hierarchy: levels of the tree.
            tau: temperature.
            excess: as above.
        """
        runs, space = _reduce_runs(segments[0], hierarchy)
        false = space if len(segments) == 1 else _reduce_runs(segments[1], hierarchy)[1]
        pools = {SPACE: space}
        for level, values in runs.items():
            own = hierarchy.run_of_code[level][targets.codes]  # (M, P)
            pools[level] = values.gather(0, own.clamp(min=0)).masked_fill(own < 0, -torch.inf)
        for level, (values, owner) in zip(hierarchy.fine, rivals, strict=True):
            pools[level] = segment_logsumexp(values[:, None] / tau, owner, true.numel()).view(true.shape)
        return cls(true, eov, pools, runs, false, tau, excess)

    @classmethod
    def from_logits(cls, logits: Tensor, targets: DecisionTargets, hierarchy: Hierarchy, tau: float) -> "Pools":
        """Pools of a table of logits, by plain autograd: for few decisions or codes.

        Args:
            logits: code logits with EOV last, shape `(P, C + 1)`.
            targets: see [`DecisionTargets`].
            hierarchy: segments of the tree.
            tau: temperature.
        """
        logits = torch.nn.functional.pad(logits.T, (0, 0, 0, 1), value=-torch.inf)  # (C + 2, P)
        false = logits.scatter(0, targets.codes, -torch.inf)
        count = len(hierarchy.lengths)
        segments = [
            segment_logsumexp(false[: hierarchy.num_codes] / at, hierarchy.segment_of, count)
            for at in temperatures(tau)
        ]
        places = [hierarchy.rivals(level, targets.codes) for level in hierarchy.fine]
        rivals = [(false.flatten()[place], owner) for place, owner in places]
        true = logits.gather(0, targets.codes).masked_fill(targets.codes > hierarchy.num_codes, 0.0)
        excess = (false[: hierarchy.num_codes].detach() - logits[-2]).clamp(min=0).sum(0)
        return cls.reduce(true, logits[-2], segments, rivals, targets, hierarchy, tau, excess)


def temperatures(tau: float) -> tuple[float, ...]:
    """Of the contrast, and of EOV, which is compared with the logits as they are."""
    return (1.0,) if tau == 1.0 else (tau, 1.0)


def _reduce_runs(segments: Tensor, hierarchy: Hierarchy) -> tuple[dict[str, Tensor], Tensor]:
    """Log-sum-exp over the runs of every coarse level, `(R, P)` each, and over the whole space, `(P,)`."""
    runs, finer = {}, segments
    for level in reversed(hierarchy.coarse):
        if hierarchy.runs[level] < len(finer):
            finer = segment_logsumexp(finer, hierarchy.run_of_finer[level], hierarchy.runs[level])
        runs[level] = finer
    return runs, logsumexp(finer)


def contrastive_loss(
    pools: Pools,
    targets: DecisionTargets,
    hierarchy: Hierarchy,
    weights: dict[str, float],
    softmax: bool = False,
) -> Tensor:
    """Hierarchical InfoNCE L_CL of each decision, shape `(P,)`; 0 where Y is empty.

    Args:
        pools: see [`Pools`].
        targets: see [`DecisionTargets`].
        hierarchy: levels to contrast at.
        weights: weight of each level; 1 where it is not named.
        softmax: whether the other true codes compete at the level of the whole space (this project's choice).
    """
    positives = pools.true / pools.tau  # (M, P)
    total, total_weight = torch.zeros_like(positives), torch.zeros_like(positives)
    for level in [SPACE] * hierarchy.has_space + hierarchy.levels:
        pool = pools.rivals[level].expand_as(positives)  # (M, P)
        weight = weights.get(level, 1.0) * (targets.true & (pool != -torch.inf))  # NaN stays, to be seen
        if level == SPACE and softmax:
            mine = logsumexp(positives.masked_fill(~targets.true, -torch.inf))  # (P,)
            everyone = logsumexp(torch.stack([pools.rivals[SPACE], mine]))  # (P,)
            term = torch.where(weight > 0, everyone - positives, 0.0)
        else:
            # -log(exp(s_c) / (exp(s_c) + exp(pool))) = softplus(pool - s_c)
            term = _softplus(torch.where(weight > 0, pool - positives, 0.0))
        total = total + weight * term
        total_weight = total_weight + weight
    per_code = total / torch.where(total_weight > 0, total_weight, 1.0)
    return _mean_over_true(per_code, targets)


def confidence_loss(pools: Pools, targets: DecisionTargets, form: str) -> Tensor:
    """EOV loss L_DCE of each decision, shape `(P,)`: true codes above EOV, false ones below.

    Args:
        pools: see [`Pools`].
        targets: see [`DecisionTargets`].
        form: `"atlop"`, the formula above, `"zlpr"`: log(1 + sum_N exp(s - e)) + log(1 + sum_Y exp(e - s)), or `"count"`
            (this project's choice): by how much codes are on the wrong side of EOV. Its slope in e is the number of true
            codes less the number of codes above EOV, so that EOV learns to stand where the ranking is as long as the visit.
            The logits of the codes get no gradient: the ranking is left to L_CL.
    """
    eov = pools.eov[None]  # (1, P)
    if form == "count":
        assert pools.excess is not None
        missing = torch.where(targets.true, (eov - pools.true.detach()).clamp(min=0), 0.0).sum(0)
        return (pools.excess + missing) / targets.true.sum(0).clamp(min=1)
    below = _softplus(pools.false - pools.eov)
    if form == "zlpr":
        gaps = (eov - pools.true).masked_fill(~targets.true, -torch.inf)
        return below + torch.cat([torch.zeros_like(eov), gaps]).logsumexp(0)
    above = torch.cat([eov, pools.true.masked_fill(~targets.true, -torch.inf)]).logsumexp(0)
    return below + _mean_over_true(above - pools.true, targets)


def group_loss(pools: Pools, targets: DecisionTargets, hierarchy: Hierarchy) -> Tensor:
    """InfoNCE of the true groups against the other groups of their level, L_G of each decision, shape `(P,)`."""
    positives = (pools.true / pools.tau).masked_fill(~targets.true, -torch.inf)  # (M, P)
    total, count = torch.zeros_like(pools.eov), torch.zeros_like(pools.eov)
    for level in hierarchy.levels:
        runs = pools.runs[level]  # (R, P)
        own = hierarchy.run_of_code[level][targets.codes]  # (M, P)
        belongs = targets.true & (own >= 0)
        slot = torch.where(belongs, own, len(runs))  # the spare group gets the rest
        is_true = torch.zeros(len(runs) + 1, runs.shape[1], dtype=torch.bool, device=runs.device)
        is_true = is_true.scatter_(0, slot, True)[:-1]  # (R, P)
        is_group = torch.zeros(len(runs), 1, dtype=torch.bool, device=runs.device)
        is_group[hierarchy.run_of_code[level].unique()[1:]] = True  # [0] is -1: EOV and the spare entry
        others = logsumexp(runs.masked_fill(is_true | ~is_group, -torch.inf))  # (P,)

        # S_g of each true group, read at each of its true codes: false codes of the run, and the true ones of the group
        same = belongs[:, None] & (slot[:, None] == slot[None])  # (M, M, P): code i, code j of the same group
        own_true = logsumexp(positives[None].expand(same.shape).masked_fill(~same, -torch.inf).transpose(0, 1))
        score = logsumexp(torch.stack([pools.rivals[level], own_true]))  # (M, P)
        use = belongs & (others != -torch.inf)
        terms = use * _softplus(torch.where(use, others - torch.where(use, score, 0.0), 0.0))
        members = same.sum(1)  # (M, P): a group with m true codes is read m times
        groups = is_true.sum(0)  # (P,)
        total = total + (terms / members.clamp(min=1)).sum(0) / groups.clamp(min=1)
        count = count + (groups > 0)
    return total / count.clamp(min=1)


class _SegmentLogSumExp(torch.autograd.Function):
    """Log-sum-exp over segments of the first axis, with one exponential for both directions."""

    @staticmethod
    def forward(ctx, values, segment_of, count):
        index = segment_of[:, None].expand_as(values)
        top = values.new_full((count, values.shape[1]), -torch.inf).scatter_reduce_(0, index, values, "amax")
        top.masked_fill_(top == -torch.inf, 0.0)
        powers = (values - top.index_select(0, segment_of)).exp_()
        total = torch.zeros_like(top).index_add_(0, segment_of, powers)
        ctx.save_for_backward(powers, segment_of, total)
        return total.log() + top  # log 0 = -inf: an empty segment

    @staticmethod
    def backward(ctx, grad):
        powers, segment_of, total = ctx.saved_tensors
        share = grad / total.masked_fill(total == 0, 1.0)
        return powers * share.index_select(0, segment_of), None, None


class _LogSumExp(torch.autograd.Function):
    """Log-sum-exp over the first axis; torch's own gives NaN as the gradient when there are no entries."""

    @staticmethod
    def forward(ctx, values):
        top = values.amax(0)
        top.masked_fill_(top == -torch.inf, 0.0)
        powers = (values - top).exp_()
        total = powers.sum(0)
        ctx.save_for_backward(powers, total)
        return total.log() + top

    @staticmethod
    def backward(ctx, grad):
        powers, total = ctx.saved_tensors
        return powers * (grad / total.masked_fill(total == 0, 1.0))


def segment_logsumexp(values: Tensor, segment_of: Tensor, count: int) -> Tensor:
    """Log-sum-exp of `values` (C, P) over segments of the first axis, shape `(count, P)`; -inf for an empty segment.

    Stabilised by the maximum of each segment, so that widely spread logits stay exact.

    Args:
        values: numbers, -inf among them.
        segment_of: segment of each row, ascending, int64 of shape `(C,)`.
        count: number of segments.
    """
    return _SegmentLogSumExp.apply(values, segment_of, count)


def logsumexp(values: Tensor) -> Tensor:
    """Log-sum-exp over the first axis; -inf without entries, and then no gradient."""
    return _LogSumExp.apply(values)


def _softplus(values: Tensor) -> Tensor:
    return -logsigmoid(-values)  # torch's softplus is the identity above 20, which float64 would notice


def _mean_over_true(per_code: Tensor, targets: DecisionTargets) -> Tensor:
    counts = targets.true.sum(0)
    return torch.where(targets.true, per_code, 0.0).sum(0) / counts.clamp(min=1)
