"""The losses of method.md as loops over decisions, codes, levels and groups, one scalar at a time.

Each decision is `(s, e, true, given)`: code logits, EOV logit, the codes of Y and the codes of K.
"""

import torch


def log_sum_exp(values: list) -> torch.Tensor:
    return torch.logsumexp(torch.stack(values), 0)


def false_codes(s, true, given) -> list[int]:
    return [code for code in range(len(s)) if code not in true and code not in given]


def contrastive(s, e, true, given, levels, weights, tau, softmax):
    false = false_codes(s, true, given)
    per_code = []
    for code in true:
        total, total_weight = torch.zeros_like(e), 0.0
        for level, groups in levels.items():
            if groups is None:
                pool = false
            else:
                pool = [other for other in false if groups[other] == groups[code] and groups[code] != -1]
            if not pool:
                continue
            rivals = pool + (true if softmax and groups is None else [code])
            weight = weights.get(level, 1.0)
            total = total + weight * -(s[code] / tau - log_sum_exp([s[rival] / tau for rival in rivals]))
            total_weight += weight
        per_code.append(total / total_weight if total_weight else total)
    return sum(per_code) / len(per_code) if per_code else torch.zeros_like(e)


def atlop(s, e, true, given):
    false = false_codes(s, true, given)
    loss = -(e - log_sum_exp([e, *(s[code] for code in false)]))
    if true:
        above = log_sum_exp([e, *(s[code] for code in true)])
        loss = loss - sum(s[code] - above for code in true) / len(true)
    return loss


def zlpr(s, e, true, given):
    zero = torch.zeros_like(e)
    below = log_sum_exp([zero, *(s[code] - e for code in false_codes(s, true, given))])
    return below + log_sum_exp([zero, *(e - s[code] for code in true)])


def count(s, e, true, given):
    zero, s = torch.zeros_like(e), s.detach()
    over = [torch.maximum(zero, s[code] - e) for code in false_codes(s, true, given)]
    under = [torch.maximum(zero, e - s[code]) for code in true]
    return sum([zero, *over, *under]) / max(1, len(true))


def group(s, e, true, given, levels, tau):
    per_level = []
    for groups in levels.values():
        if groups is None:
            continue
        members = {}
        for code, name in enumerate(groups):
            if name != -1 and code not in given:
                members.setdefault(name, []).append(s[code] / tau)
        scores = {name: log_sum_exp(values) for name, values in members.items()}
        own = {groups[code] for code in true if groups[code] != -1}
        others = [score for name, score in scores.items() if name not in own]
        if own:
            terms = [log_sum_exp([scores[name], *others]) - scores[name] for name in sorted(own)]
            per_level.append(sum(terms) / len(terms))
    return sum(per_level) / len(per_level) if per_level else torch.zeros_like(e)


def mean_over_patients(losses: list, places: list[tuple[int, int, int]], first_weight: float):
    """`places`: patient, visit and number of given codes of each decision."""
    tree = {}
    for loss, (patient, visit, given) in zip(losses, places, strict=True):
        tree.setdefault(patient, {}).setdefault(visit, []).append((first_weight if given == 0 else 1.0, loss))
    patients = []
    for visits in tree.values():
        means = [sum(w * loss for w, loss in parts) / sum(w for w, _ in parts) for parts in visits.values()]
        patients.append(sum(means) / len(means))
    return sum(patients) / len(patients)
