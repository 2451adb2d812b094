"""Where code bias and history term start: a regression with a handful of weights on the training visits.

This project's choice. A softmax regression s_c = t * log prevalence_c + a . f_c with an EOV level e, fitted to the decisions
before the first code of each training visit, knows how often codes repeat before the language model has learned anything.
The prevalence used for a patient leaves that patient out: with few patients a code may be common only because this
patient has it, and the fit would trust prevalence far too much.
"""

import itertools
from collections import Counter

import torch

from mera_hf.data.timelines import TimelineDataset
from mera_hf.timeline_mera import Patient, collate_timelines
from mera_hf.training.hierarchy import Hierarchy
from mera_hf.training.losses import DecisionTargets, Pools, confidence_loss, contrastive_loss


_LARGEST_TABLE = 3_000_000  # decisions x codes in the fit: plenty for its handful of weights


def start_ranking_head(head, dataset: TimelineDataset, config, eov_loss: str = "atlop") -> None:
    """Start a [`RankingHead`] from the training visits, in place.

    Args:
        head (`RankingHead`): its `log_prevalence`, and where it has them `code_bias` and `patient_gate.bias`, are set.
        dataset (`TimelineDataset`): the training patients.
        config (`MeraConfig`): of the model.
        eov_loss (`str`, *optional*, defaults to `"atlop"`): of the training. With `"count"`, EOV starts where the sets of all
            decisions together are as large as the true ones.
    """
    patients_with: Counter[int] = Counter()
    for row in range(len(dataset)):
        patients_with.update(_codes(dataset.patients[row]))
    counts = torch.tensor([patients_with[code] for code in range(config.num_codes)], dtype=torch.float64)  # (C,)
    head.log_prevalence.copy_(_log_share(counts, len(dataset)))
    if not (hasattr(head, "code_bias") or hasattr(head, "patient_gate")):
        return

    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    batch, chosen = _first_decisions(dataset, rows, max(64, _LARGEST_TABLE // config.num_codes))
    without = counts.expand(len(chosen), -1).clone()  # (P, C)
    for decision, row in enumerate(chosen):
        without[decision, list(_codes(dataset.patients[row]))] -= 1
    log_prevalence = _log_share(without, len(dataset) - 1)
    targets = DecisionTargets.from_batch(batch, config.num_codes)
    weights_of = targets.weights / targets.weights.sum()
    space = Hierarchy({}, config.num_codes)
    codes = batch["history_codes"]  # (P, H): here each decision has one target visit
    prevalence_of = log_prevalence.gather(1, codes.clamp(min=0))[:, :, None]  # (P, H, 1)
    values = torch.cat([batch["history_values"].double(), prevalence_of], dim=-1) * (codes >= 0)[:, :, None]

    by_code = log_prevalence.T.contiguous()  # (C, P): the order in which the losses read it

    temperature = torch.ones((), dtype=torch.float64, requires_grad=True)
    weights = torch.zeros(values.shape[-1], dtype=torch.float64, requires_grad=True)
    eov = torch.zeros((), dtype=torch.float64, requires_grad=True)
    fitted = [temperature, eov] + ([weights] if hasattr(head, "patient_gate") else [])
    optimizer = torch.optim.LBFGS(fitted, max_iter=60, line_search_fn="strong_wolfe")

    def code_logits() -> torch.Tensor:
        return (temperature * by_code).scatter_add(0, codes.clamp(min=0).T, (values @ weights).T)  # (C, P)

    def closure():
        optimizer.zero_grad()
        logits = torch.cat([code_logits(), eov.expand(1, len(chosen))])  # (C + 1, P)
        pools = Pools.from_logits(logits.T, targets, space, tau=1.0)
        losses = contrastive_loss(pools, targets, space, {}) + confidence_loss(pools, targets, "atlop")
        loss = (losses * weights_of).sum() + 1e-4 * sum((parameter**2).sum() for parameter in fitted)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        if eov_loss == "count":
            eov.copy_(code_logits().flatten().topk(int(targets.true.sum()) + 1).values[-2:].mean())
        if hasattr(head, "code_bias"):
            head.code_bias[:-1] = temperature * head.log_prevalence
            head.code_bias[-1] = eov
        if hasattr(head, "patient_gate"):
            head.patient_gate.bias.copy_(weights)


def _codes(patient: Patient) -> set[int]:
    return set(itertools.chain.from_iterable(patient.visits))


def _log_share(counts: torch.Tensor, patients: int) -> torch.Tensor:
    return ((counts + 0.5) / (patients + 1)).log()


def _first_decisions(dataset: TimelineDataset, rows: list[int], most: int) -> tuple[dict, list[int]]:
    """The decisions before the first code of a visit, at most `most`, and the dataset row of each."""
    timelines = []
    chosen: list[int] = []
    for row in rows:
        if len(chosen) >= most:
            break
        timeline = dataset[row]
        firsts = [at for at, given in enumerate(timeline.decision_given) if given == 0]
        timeline.decisions = [timeline.decisions[at] for at in firsts]
        timeline.decision_visits = [timeline.decision_visits[at] for at in firsts]
        timeline.decision_given = [0] * len(firsts)
        timelines.append(timeline)
        chosen += [row] * len(firsts)
    return collate_timelines(timelines, 0), chosen
