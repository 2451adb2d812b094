import random

import brute_force
import pytest
import torch

from mera_hf.timeline_mera import Timeline, collate_timelines
from mera_hf.training.losses import (
    SPACE,
    DecisionTargets,
    confidence_loss,
    contrastive_loss,
    group_logsumexp,
    group_loss,
    mean_over_patients,
)


LEVELS = {
    SPACE: None,
    "chapter": [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3],
    "category": [0, 0, 0, 1, 1, 2, 3, 3, 4, 5, -1],
    "subcategory1": [0, 0, 1, 2, -1, -1, 3, 3, -1, -1, -1],
}
CODES = len(LEVELS["chapter"])


def make_batch(seed: int = 0, patients: int = 4, whole_space: bool = False):
    """Random timelines as a batch, and for each decision: patient, visit, true codes, given codes."""
    draw = random.Random(seed)
    timelines, places, sets = [], [], []
    for patient in range(patients):
        visits = [draw.sample(range(CODES), draw.randint(1, 5)) for _ in range(draw.randint(2, 4))]
        if whole_space and patient == 0:
            visits[1] = draw.sample(range(CODES), CODES)  # every code true, and at its end every code given
        histories = dict.fromkeys(range(1, len(visits)), ([], []))
        timeline = Timeline([0], [0], [], [], [], visits, histories)
        for number in range(1, len(visits)):
            for given in range(len(visits[number]) + 1):
                timeline.decisions.append(0)
                timeline.decision_visits.append(number)
                timeline.decision_given.append(given)
                places.append((patient, number, given))
                sets.append((visits[number][given:], visits[number][:given]))
        timelines.append(timeline)
    return collate_timelines(timelines, 0), places, sets


def tensors(levels):
    return {name: None if groups is None else torch.tensor(groups) for name, groups in levels.items()}


def pick(*names):
    return {name: LEVELS[name] for name in names}


def check(vectorised, loop, dtype, spread, first_weight=1.0, whole_space=False, seed=0):
    """Loss and gradients of `vectorised(s, e, targets)` against those of `loop(s, e, true, given)` in float64."""
    batch, places, sets = make_batch(seed, whole_space=whole_space)
    targets = DecisionTargets.from_batch(batch, CODES)
    generator = torch.Generator().manual_seed(seed)
    s = (spread * torch.rand(len(places), CODES, generator=generator) - spread / 2).to(dtype).requires_grad_()
    e = (spread * torch.rand(len(places), generator=generator) - spread / 2).to(dtype).requires_grad_()
    loss = mean_over_patients(vectorised(s, e, targets), batch, first_weight)
    found = torch.autograd.grad(loss, (s, e), allow_unused=True, materialize_grads=True)

    s64, e64 = s.detach().double().requires_grad_(), e.detach().double().requires_grad_()
    losses = [loop(s64[row], e64[row], true, given) for row, (true, given) in enumerate(sets)]
    wanted = brute_force.mean_over_patients(losses, places, first_weight)
    gradients = torch.autograd.grad(wanted, (s64, e64), allow_unused=True, materialize_grads=True)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), wanted, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(found, gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance * max(1, theirs.abs().max()))


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.03])
@pytest.mark.parametrize(
    "levels",
    [pick(SPACE), pick("chapter"), pick("subcategory1"), pick("category", "subcategory1"), LEVELS],
    ids="-".join,
)
def test_contrastive_loss_is_that_of_the_formula(levels, tau, softmax):
    weights = {SPACE: 2.0, "category": 0.25, "subcategory1": 0.0} if len(levels) != 1 else {}
    for dtype, spread in ((torch.float64, 4.0), (torch.float64, 600.0), (torch.float32, 4.0 * tau)):
        check(
            lambda s, e, targets: contrastive_loss(s, targets, tensors(levels), weights, tau, softmax),
            lambda s, e, true, given: brute_force.contrastive(s, e, true, given, levels, weights, tau, softmax),
            dtype,
            spread,
        )


@pytest.mark.parametrize("spread", [6.0, 600.0])
@pytest.mark.parametrize("form", ["atlop", "zlpr"])
def test_confidence_loss_is_that_of_the_formula(form, spread):
    for dtype in (torch.float64, torch.float32):
        check(
            lambda s, e, targets: confidence_loss(s, e, targets, form),
            lambda s, e, true, given: getattr(brute_force, form)(s, e, true, given),
            dtype,
            spread,
        )


@pytest.mark.parametrize("tau", [1.0, 0.1])
@pytest.mark.parametrize("levels", [pick("chapter"), pick("subcategory1"), LEVELS], ids="-".join)
def test_group_loss_is_that_of_the_formula(levels, tau):
    for dtype, spread in ((torch.float64, 4.0), (torch.float64, 600.0), (torch.float32, 4.0 * tau)):
        check(
            lambda s, e, targets: group_loss(s, targets, tensors(levels), tau),
            lambda s, e, true, given: brute_force.group(s, e, true, given, levels, tau),
            dtype,
            spread,
        )


@pytest.mark.parametrize("first_weight", [1.0, 3.0, 0.5])
def test_averages_over_decisions_visits_and_patients(first_weight):
    for seed in range(3):
        check(
            lambda s, e, targets: confidence_loss(s, e, targets, "atlop"),
            brute_force.atlop,
            torch.float64,
            4.0,
            first_weight,
            seed=seed,
        )


@pytest.mark.parametrize("name", ["contrastive", "softmax", "atlop", "zlpr", "group"])
def test_visits_that_hold_every_code_give_no_nan(name):
    """All codes true, then all codes given: no negative is left anywhere, and at the end no positive either."""
    levels, softmax = tensors(LEVELS), name == "softmax"
    if name in ("contrastive", "softmax"):
        pair = (
            lambda s, e, targets: contrastive_loss(s, targets, levels, {}, 0.1, softmax),
            lambda s, e, true, given: brute_force.contrastive(s, e, true, given, LEVELS, {}, 0.1, softmax),
        )
    elif name == "group":
        pair = (
            lambda s, e, targets: group_loss(s, targets, levels, 0.1),
            lambda s, e, true, given: brute_force.group(s, e, true, given, LEVELS, 0.1),
        )
    else:
        pair = (lambda s, e, targets: confidence_loss(s, e, targets, name), getattr(brute_force, name))
    for spread in (4.0, 600.0):
        check(*pair, torch.float64, spread, whole_space=True)


def test_hand_computed_contrastive_loss():
    """Three codes, the first true: levels space {1, 2} and chapter {1}."""
    batch = {
        "visit_codes": torch.tensor([[0]]),
        "decision_visit": torch.tensor([0, 0]),
        "decision_given": torch.tensor([0, 1]),
    }
    targets = DecisionTargets.from_batch(batch, 3)
    assert targets.true.tolist() == [[True], [False]]
    assert targets.known.tolist() == [[True, False, False]] * 2
    assert targets.given.tolist() == [[False] * 3, [True, False, False]]
    levels = {SPACE: None, "chapter": torch.tensor([0, 0, 1])}
    logits = torch.tensor([[2.0, 1.0, 0.0]]).log1p().expand(2, -1)  # exp: 3, 2, 1
    loss = contrastive_loss(logits, targets, levels, {}, 1.0)
    space, chapter = torch.tensor(6 / 3).log(), torch.tensor(5 / 3).log()
    torch.testing.assert_close(loss, torch.stack([(space + chapter) / 2, torch.tensor(0.0)]))
    weighted = contrastive_loss(logits, targets, levels, {"chapter": 3.0}, 1.0)[0]
    torch.testing.assert_close(weighted, (space + 3 * chapter) / 4)


def test_hand_computed_confidence_loss():
    batch = {
        "visit_codes": torch.tensor([[0, 2]]),
        "decision_visit": torch.tensor([0, 0, 0]),
        "decision_given": torch.tensor([0, 1, 2]),
    }
    targets = DecisionTargets.from_batch(batch, 3)
    logits, eov = torch.tensor([[3.0, 2.0, 1.0]]).log().expand(3, -1), torch.full((3,), 2.0).log()
    below = torch.tensor(4 / 2).log()  # EOV 2 against the false code's 2
    above = [(torch.tensor(6 / 3).log() + torch.tensor(6 / 1).log()) / 2, torch.tensor(3 / 1).log(), torch.tensor(0.0)]
    torch.testing.assert_close(confidence_loss(logits, eov, targets, "atlop"), below + torch.stack(above))


def test_group_logsumexp_of_empty_groups_and_missing_codes():
    values = torch.tensor([[1.0, -torch.inf, 500.0, 7.0]], requires_grad=True)
    found = group_logsumexp(values, torch.tensor([0, 1, 2, -1]))
    assert found.tolist() == [[1.0, -torch.inf, 500.0]]
    found[:, [0, 2]].sum().backward()
    assert values.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_a_patient_weighs_the_same_whatever_the_number_of_visits_and_codes():
    batch, places, _ = make_batch(3)
    per_decision = torch.tensor([float(patient) for patient, _, _ in places])
    assert mean_over_patients(per_decision, batch).item() == pytest.approx((0 + 1 + 2 + 3) / 4)
