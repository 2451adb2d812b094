r"""The ranking losses of MERA beside their formulas (paper; the exact forms where it is silent are this project's choice).

At one decision position: s are the code logits, e the EOV logit, Y the true codes not yet given, K the codes given,
N = all codes \ (Y u K), anc_l(c) the ancestor of c at level l.

    L_CL  = mean over c in Y, weighted mean over levels l of
            -log( exp(s_c/tau) / (exp(s_c/tau) + sum_{n in N_l(c)} exp(s_n/tau)) )               [`contrastive_loss`]
            N_0(c) = N;  N_l(c) = {n in N : anc_l(n) = anc_l(c)};  levels where N_l(c) is empty are skipped
            (`softmax`: the other codes of Y stand in the sum at level 0 too, so that P(c) is the share of c in the visit)
    L_DCE = - mean_{c in Y} log( exp(s_c) / (exp(e) + sum_{y in Y} exp(s_y)) )                   [`confidence_loss`]
            - log( exp(e) / (exp(e) + sum_{n in N} exp(s_n)) )
    L_G   = mean over levels, mean over the groups g of Y at that level, with S_g = log sum_{c in g \ K} exp(s_c/tau), of
            -log( exp(S_g) / (exp(S_g) + sum_{g' not a group of Y} exp(S_g')) )                  [`group_loss`]

Positions average within their visit, visits within their patient, then patients, so that neither batch size nor gradient
accumulation changes the loss.

Axes: decisions `P`, codes `C`, codes of a visit `M`, groups of a level `G`, target visits `V`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


SPACE = "space"  # level 0: all codes of the candidate space
EOV_LOSSES = ("atlop", "zlpr", "none")


@dataclass
class DecisionTargets:
    """What is true at `P` decisions.

    Attributes:
        codes (`Tensor` of shape `(P, M)`): code indices of the visit; 0 where there is none.
        true (`Tensor` of shape `(P, M)`, bool): the codes of Y.
        known (`Tensor` of shape `(P, C)`, bool): the codes of Y and K, which are negatives nowhere.
        given (`Tensor` of shape `(P, C)`, bool): the codes of K.
    """

    codes: Tensor
    true: Tensor
    known: Tensor
    given: Tensor

    @classmethod
    def from_batch(cls, batch: dict, num_codes: int) -> "DecisionTargets":
        """Read the targets of a batch of `collate_timelines`."""
        codes = batch["visit_codes"][batch["decision_visit"]]  # (P, M), -1 is padding
        written = codes >= 0
        given = written & (torch.arange(codes.shape[1], device=codes.device) < batch["decision_given"][:, None])
        return cls(
            codes=codes.clamp(min=0),
            true=written & ~given,
            known=_as_mask(codes, written, num_codes),
            given=_as_mask(codes, given, num_codes),
        )


def _as_mask(codes: Tensor, chosen: Tensor, num_codes: int) -> Tensor:
    mask = torch.zeros(codes.shape[0], num_codes + 1, dtype=torch.bool, device=codes.device)
    return mask.scatter_(1, torch.where(chosen, codes, num_codes), True)[
        :, :num_codes
    ]  # the spare column takes padding


def contrastive_loss(
    logits: Tensor,
    targets: DecisionTargets,
    levels: dict[str, Tensor | None],
    weights: dict[str, float],
    tau: float,
    softmax: bool = False,
) -> Tensor:
    """Hierarchical InfoNCE L_CL of each decision, shape `(P,)`; 0 where Y is empty.

    Args:
        logits: code logits s, shape `(P, C)`.
        targets: see [`DecisionTargets`].
        levels: for each level the group of every code, int64 of shape `(C,)`, -1 without one; `None` for the whole space.
        weights: weight of each level; 1 where it is not named.
        tau: temperature.
        softmax: whether the other true codes compete at the level of the whole space (this project's choice).
    """
    scaled = logits / tau
    positives = scaled.gather(1, targets.codes)  # (P, M)
    negatives = scaled.masked_fill(targets.known, -torch.inf)  # (P, C)
    total, total_weight = torch.zeros_like(positives), torch.zeros_like(positives)
    for level, groups in levels.items():
        if groups is None:
            pool = _logsumexp(negatives)[:, None].expand_as(positives)  # (P, M)
        else:
            own = groups[targets.codes]  # (P, M)
            pool = group_logsumexp(negatives, groups).gather(1, own.clamp(min=0)).masked_fill(own < 0, -torch.inf)
        weight = weights.get(level, 1.0) * (targets.true & (pool > -torch.inf))
        if groups is None and softmax:
            everyone = _logsumexp(scaled.masked_fill(targets.given, -torch.inf))[:, None]  # (P, 1)
            term = torch.where(targets.true, everyone - positives, 0.0)
        else:
            # -log(exp(s_c) / (exp(s_c) + exp(pool))) = softplus(pool - s_c)
            term = _softplus(torch.where(weight > 0, pool - positives, 0.0))
        total = total + weight * term
        total_weight = total_weight + weight
    per_code = total / torch.where(total_weight > 0, total_weight, 1.0)
    return _mean_over_true(per_code, targets)


def confidence_loss(logits: Tensor, eov: Tensor, targets: DecisionTargets, form: str) -> Tensor:
    """EOV loss L_DCE of each decision, shape `(P,)`: true codes above EOV, false ones below.

    Args:
        logits: code logits s, shape `(P, C)`.
        eov: EOV logits e, shape `(P,)`.
        targets: see [`DecisionTargets`].
        form: `"atlop"`, the formula above, or `"zlpr"`: log(1 + sum_N exp(s - e)) + log(1 + sum_Y exp(e - s)).
    """
    positives = logits.gather(1, targets.codes)  # (P, M)
    false_pool = _logsumexp(logits.masked_fill(targets.known, -torch.inf))  # (P,)
    below = _softplus(false_pool - eov)
    if form == "zlpr":
        gaps = (eov[:, None] - positives).masked_fill(~targets.true, -torch.inf)
        zero = torch.zeros_like(eov[:, None])
        return below + torch.cat([zero, gaps], dim=1).logsumexp(1)
    above = torch.cat([eov[:, None], positives.masked_fill(~targets.true, -torch.inf)], dim=1).logsumexp(1)
    return below + _mean_over_true(above[:, None] - positives, targets)


def group_loss(logits: Tensor, targets: DecisionTargets, levels: dict[str, Tensor | None], tau: float) -> Tensor:
    """InfoNCE of the true groups against the other groups of their level, L_G of each decision, shape `(P,)`."""
    scaled = (logits / tau).masked_fill(targets.given, -torch.inf)
    true_codes = _as_mask(targets.codes, targets.true, logits.shape[1])  # (P, C)
    total, count = logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    for groups in levels.values():
        if groups is None:
            continue
        scores = group_logsumexp(scaled, groups)  # (P, G)
        member = torch.where(groups < 0, scores.shape[1], groups).expand_as(true_codes)
        is_true = torch.zeros(len(scores), scores.shape[1] + 1, device=scores.device)
        is_true = is_true.scatter_add_(1, member, true_codes.float())[:, :-1] > 0  # (P, G)
        others = _logsumexp(scores.masked_fill(is_true, -torch.inf))[:, None]  # (P, 1)
        use = is_true & (others > -torch.inf)
        terms = use * _softplus(torch.where(use, others - scores, 0.0))
        any_true = is_true.any(1)
        total = total + torch.where(any_true, terms.sum(1) / is_true.sum(1).clamp(min=1), 0.0)
        count = count + any_true
    return total / count.clamp(min=1)


def group_logsumexp(values: Tensor, groups: Tensor) -> Tensor:
    """Log-sum-exp of `values` (P, C) over the codes of each group (C,), shape `(P, G)`; -inf for an empty group.

    Stabilised by the maximum of each group, so that widely spread logits stay exact. Codes of group -1 count nowhere.
    """
    inside = groups >= 0
    values, groups = values[:, inside], groups[inside]
    shape = (len(values), int(groups.max()) + 1 if len(groups) else 0)
    index = groups.expand_as(values)
    top = values.new_full(shape, -torch.inf).scatter_reduce(1, index, values.detach(), "amax")
    safe_top = torch.where(top > -torch.inf, top, 0.0)
    total = values.new_zeros(shape).scatter_add(1, index, (values - safe_top[:, groups]).exp())
    return torch.where(total > 0, safe_top + torch.where(total > 0, total, 1.0).log(), -torch.inf)


def _logsumexp(values: Tensor) -> Tensor:
    """Log-sum-exp of each row, -inf for a row without entries and with no gradient there, where torch gives NaN."""
    empty = (values == -torch.inf).all(1)
    return torch.where(empty, -torch.inf, torch.where(empty[:, None], 0.0, values).logsumexp(1))


def _softplus(values: Tensor) -> Tensor:
    return -logsigmoid(-values)  # torch's softplus is the identity above 20, which float64 would notice


def _mean_over_true(per_code: Tensor, targets: DecisionTargets) -> Tensor:
    counts = targets.true.sum(1)
    return torch.where(targets.true, per_code, 0.0).sum(1) / counts.clamp(min=1)


def mean_over_patients(per_decision: Tensor, batch: dict, first_weight: float = 1.0) -> Tensor:
    """Average decisions within visits, visits within patients, then patients.

    Args:
        per_decision: loss of each decision, shape `(P,)`.
        batch: the batch of `collate_timelines`.
        first_weight: weight of the decision before the first code of a visit against 1 for each later one.
    """
    weights = torch.where(batch["decision_given"] == 0, first_weight, 1.0).to(per_decision)
    visits = _weighted_mean(per_decision, weights, batch["decision_visit"])
    patients = _weighted_mean(visits, torch.ones_like(visits), batch["visit_patient"].unique(return_inverse=True)[1])
    return patients.mean()


def _weighted_mean(values: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    size = int(index.max()) + 1
    total = values.new_zeros(size).index_add(0, index, values * weights)
    return total / values.new_zeros(size).index_add(0, index, weights)
