import random

import brute_force
import pytest
import torch

from mera_hf.errors import InputError
from mera_hf.modeling_mera import Readout
from mera_hf.timeline_mera import Timeline, collate_timelines
from mera_hf.training.fused_loss import FusedLoss
from mera_hf.training.hierarchy import SPACE, Hierarchy
from mera_hf.training.losses import (
    DecisionTargets,
    Pools,
    confidence_loss,
    contrastive_loss,
    decision_weights,
    group_loss,
    segment_logsumexp,
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


def pick(*names):
    return {name: LEVELS[name] for name in names}


def hierarchy_of(levels, contrast_groups=False, fine=False):
    """A hierarchy whose groups are all summed up whole, or all looked up from the true codes."""
    groups = {name: values for name, values in levels.items() if values is not None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mera_hf.training.hierarchy._LOOK_UP", 0 if fine else 1000)
        hierarchy = Hierarchy(groups, CODES, list(levels), contrast_groups)
    assert hierarchy.coarse == ([] if fine and not contrast_groups else hierarchy.levels)
    return hierarchy


def losses_of(kind: str, levels, weights, tau, softmax=False, fine=False):
    """The vectorised losses and the loop of one kind, with the same arguments."""
    hierarchy = hierarchy_of(levels, kind == "group", fine)
    if kind == "contrastive":
        return (
            hierarchy,
            lambda pools, targets: contrastive_loss(pools, targets, hierarchy, weights, softmax)[None],
            lambda s, e, true, given: brute_force.contrastive(s, e, true, given, levels, weights, tau, softmax),
        )
    if kind == "group":
        return (
            hierarchy,
            lambda pools, targets: group_loss(pools, targets, hierarchy)[None],
            lambda s, e, true, given: brute_force.group(s, e, true, given, levels, tau),
        )
    return hierarchy, lambda pools, targets: confidence_loss(pools, targets, kind)[None], getattr(brute_force, kind)


def random_readout(decisions, batch, dtype, spread, softcap=None, seed=0):
    """A readout of all parts whose logits spread over about `spread`, and its tensors."""
    generator = torch.Generator().manual_seed(seed)
    hidden, rows = (torch.randn(size, 6, generator=generator) for size in (decisions, CODES + 1))
    rows = rows * spread / (hidden @ rows.T).abs().max() / 4
    history = torch.tensor([[0, 3, -1, 10], [-1, -1, -1, -1], [5, 4, 1, 2]])
    history = history[torch.randint(3, (decisions,), generator=generator)]
    terms = torch.randn(decisions, 4, generator=generator)
    bias = torch.randn(CODES + 1, generator=generator) * (spread / 20)
    tensors = [tensor.to(dtype).requires_grad_() for tensor in (hidden, rows, bias, terms)]
    return Readout(tensors[0], tensors[1], 2.0, softcap, tensors[2], history, tensors[3]), tensors


def check(kind, levels, dtype, spread, weights=None, tau=1.0, first_weight=1.0, seed=0, whole_space=False, **options):
    """Losses of the fused kernel and of the table of logits, with their gradients, against the loop in float64."""
    softcap = options.pop("softcap", None)
    hierarchy, vectorised, loop = losses_of(kind, levels, weights or {}, tau, **options)
    batch, places, sets = make_batch(seed, whole_space=whole_space)
    targets = DecisionTargets.from_batch(batch, CODES, first_weight)
    readout, tensors = random_readout(len(places), batch, dtype, spread, softcap, seed)
    fused = FusedLoss(hierarchy, vectorised, tau, excess=kind == "count")(readout, targets).sum()
    results = [(fused, torch.autograd.grad(fused, tensors))]
    pools = Pools.from_logits(readout.logits(), targets, hierarchy, tau)
    table = (vectorised(pools, targets) * targets.weights.to(dtype)).sum()
    results.append((table, torch.autograd.grad(table, tensors)))

    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    logits = Readout(wide[0], wide[1], 2.0, softcap, wide[2], readout.history_codes, wide[3]).logits()
    losses = [loop(logits[row, :-1], logits[row, -1], true, given) for row, (true, given) in enumerate(sets)]
    wanted = brute_force.mean_over_patients(losses, places, first_weight) * (batch["visit_patient"][-1] + 1)
    gradients = torch.autograd.grad(wanted, wide)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for loss, found in results:
        assert loss.dtype == dtype
        torch.testing.assert_close(loss.double(), wanted, rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(found, gradients, strict=True):
            assert ours.isfinite().all()
            reach = tolerance * max(1, theirs.abs().max())
            torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=reach)


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
        for fine in (False, True):
            check("contrastive", levels, dtype, spread, weights, tau, softmax=softmax, fine=fine)


@pytest.mark.parametrize("form", ["atlop", "zlpr", "count"])
@pytest.mark.parametrize("spread", [4.0, 600.0])
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_confidence_loss_is_that_of_the_formula(form, spread, tau):
    """EOV is compared at temperature 1 whatever the temperature of the contrast."""
    for dtype in (torch.float64, torch.float32):
        check(form, LEVELS, dtype, spread, tau=tau)


@pytest.mark.parametrize("tau", [1.0, 0.1])
@pytest.mark.parametrize("levels", [pick("chapter"), pick("subcategory1"), LEVELS], ids="-".join)
def test_group_loss_is_that_of_the_formula(levels, tau):
    for dtype, spread in ((torch.float64, 4.0), (torch.float64, 600.0), (torch.float32, 4.0 * tau)):
        check("group", levels, dtype, spread, tau=tau)


@pytest.mark.parametrize("kind", ["contrastive", "atlop", "count", "group"])
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_logits_that_the_base_caps(kind, tau):
    check(kind, LEVELS, torch.float64, 40.0, tau=tau, softcap=5.0)


@pytest.mark.parametrize(("kind", "fine"), [("contrastive", False), ("contrastive", True), ("group", False)])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.03])
def test_widely_spread_logits_in_float32(kind, fine, tau):
    """Logits over 600, divided by tau."""
    hierarchy, vectorised, loop = losses_of(kind, LEVELS, {}, tau, fine=fine)
    batch, places, sets = make_batch(5)
    targets = DecisionTargets.from_batch(batch, CODES)
    table = torch.linspace(-300, 300, CODES + 1)[torch.rand(len(places), CODES + 1).argsort(1)]
    # Exact in float32, so that the losses are compared and not the products
    table = table.round()
    readout = Readout(table.clone().requires_grad_(), torch.eye(CODES + 1))
    loss = FusedLoss(hierarchy, vectorised, tau)(readout, targets).sum()
    (gradient,) = torch.autograd.grad(loss, readout.hidden)
    wide = table.double().requires_grad_()
    losses = [loop(wide[row, :-1], wide[row, -1], true, given) for row, (true, given) in enumerate(sets)]
    wanted = brute_force.mean_over_patients(losses, places, 1.0) * (batch["visit_patient"][-1] + 1)
    (expected,) = torch.autograd.grad(wanted, wide)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("first_weight", [1.0, 3.0, 0.5])
def test_averages_over_decisions_visits_and_patients(first_weight):
    for seed in range(3):
        check("atlop", LEVELS, torch.float64, 4.0, first_weight=first_weight, seed=seed)


@pytest.mark.parametrize("kind", ["contrastive", "softmax", "atlop", "zlpr", "count", "group"])
def test_visits_that_hold_every_code_give_no_nan(kind):
    """All codes true, then all codes given: no negative is left anywhere, and at the end no positive either."""
    options = {"softmax": True} if kind == "softmax" else {}
    kind = "contrastive" if kind == "softmax" else kind
    for spread in (4.0, 600.0):
        for tau in (1.0, 0.1):
            for fine in (False, True):
                check(kind, LEVELS, torch.float64, spread, tau=tau, whole_space=True, fine=fine, **options)


def test_chunks_of_decisions_change_nothing():
    """More codes than one chunk has room for: 301 decisions in chunks of 256, the last one of 45; many tiles of codes, a
    coarse and a fine level."""
    generator = torch.Generator().manual_seed(0)
    codes, decisions, width = 40_000, 301, 8
    groups = {"chapter": (torch.arange(codes) // 9100).tolist(), "category": (torch.arange(codes) // 7).tolist()}
    hierarchy = Hierarchy(groups, codes)
    assert hierarchy.coarse == ["chapter"] and hierarchy.fine == ["category"]
    assert hierarchy.lengths.max() == 64 and hierarchy.lengths.sum() == codes and len(hierarchy.tiles(1000)) > 40
    targets = DecisionTargets(
        torch.randint(codes, (3, decisions), generator=generator),
        torch.ones(3, decisions, dtype=torch.bool),
        torch.rand(decisions, generator=generator),
    )
    hidden = torch.randn(decisions, width, generator=generator).requires_grad_()
    rows = torch.randn(codes + 1, width, generator=generator).requires_grad_()

    def losses(pools, targets):
        contrast = contrastive_loss(pools, targets, hierarchy, {})
        return torch.stack([contrast, *(confidence_loss(pools, targets, form) for form in ("atlop", "count"))])

    loss = FusedLoss(hierarchy, losses, 0.5, excess=True)(Readout(hidden, rows), targets)
    found = torch.autograd.grad(loss.sum(), (hidden, rows))
    pools = Pools.from_logits(Readout(hidden, rows).logits(), targets, hierarchy, 0.5)
    table = (losses(pools, targets) * targets.weights).sum(1)
    wanted = torch.autograd.grad(table.sum(), (hidden, rows))
    torch.testing.assert_close(loss, table, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_needs_no_gradient_gets_none_and_the_rest_stays():
    """Frozen code rows, no bias, no history; and without gradients the loss is the same number."""
    batch, places, _ = make_batch(1)
    targets, hierarchy = DecisionTargets.from_batch(batch, CODES), hierarchy_of(LEVELS)
    readout, (hidden, rows, _, _) = random_readout(len(places), batch, torch.float64, 4.0)

    def losses(pools, targets):
        return contrastive_loss(pools, targets, hierarchy, {})[None]

    whole = FusedLoss(hierarchy, losses, 1.0)(Readout(hidden, rows), targets)
    (wanted,) = torch.autograd.grad(whole, hidden)
    frozen = FusedLoss(hierarchy, losses, 1.0)(Readout(hidden, rows.detach()), targets)
    (found,) = torch.autograd.grad(frozen, hidden)
    assert torch.equal(found, wanted)
    with torch.no_grad():
        silent = FusedLoss(hierarchy, losses, 1.0)(readout.at(torch.arange(len(places))), targets)
    assert not silent.requires_grad
    assert silent != whole  # bias and history term are in this one
    assert torch.equal(silent, FusedLoss(hierarchy, losses, 1.0)(readout, targets).detach())


def test_half_precision_is_computed_in_float32():
    """bfloat16 weights: the logits are those of the rounded weights, and nothing else is rounded."""
    batch, places, _ = make_batch(2)
    targets, hierarchy = DecisionTargets.from_batch(batch, CODES), hierarchy_of(LEVELS)

    def losses(pools, targets):
        return confidence_loss(pools, targets, "atlop")[None]

    def of(hidden, rows):
        loss = FusedLoss(hierarchy, losses, 1.0)(Readout(hidden, rows), targets)
        return loss, *torch.autograd.grad(loss, (hidden, rows))

    _, (hidden, rows, _, _) = random_readout(len(places), batch, torch.float32, 8.0)
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, rows)]
    rounded = [tensor.detach().float().requires_grad_() for tensor in half]
    found, wanted = of(*half), of(*rounded)
    assert found[0].dtype == torch.float32 and found[1].dtype == torch.bfloat16
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(ours, theirs.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = of(*[tensor.detach().requires_grad_() for tensor in (hidden, rows)])
    torch.testing.assert_close(cast[0], wanted[0], rtol=1e-6, atol=0)
    assert cast[1].dtype == torch.float32


def test_hand_computed_contrastive_loss():
    """Three codes, the first true: levels space {1, 2} and chapter {1}."""
    batch = {
        "visit_codes": torch.tensor([[0]]),
        "visit_patient": torch.tensor([0]),
        "decision_visit": torch.tensor([0, 0]),
        "decision_given": torch.tensor([0, 1]),
    }
    targets = DecisionTargets.from_batch(batch, 3)
    assert targets.codes.tolist() == [[0, 0]]
    assert targets.true.tolist() == [[True, False]]
    assert targets.weights.tolist() == [0.5, 0.5]
    hierarchy = Hierarchy({"chapter": [0, 0, 1]}, 3)
    logits = torch.tensor([[3.0, 2.0, 1.0, 1.0]]).log().expand(2, -1)
    pools = Pools.from_logits(logits, targets, hierarchy, 1.0)
    assert pools.false.exp().tolist() == pytest.approx([3.0, 3.0])
    loss = contrastive_loss(pools, targets, hierarchy, {})
    space, chapter = torch.tensor(6 / 3).log(), torch.tensor(5 / 3).log()
    torch.testing.assert_close(loss, torch.stack([(space + chapter) / 2, torch.tensor(0.0)]))
    weighted = contrastive_loss(pools, targets, hierarchy, {"chapter": 3.0})[0]
    torch.testing.assert_close(weighted, (space + 3 * chapter) / 4)


def test_a_code_without_a_rival_at_the_only_level_counts_as_zero():
    """Codes 0 and 2 are true, and of the chapters {0, 1} and {2} the second has nothing to contrast."""
    batch = {
        "visit_codes": torch.tensor([[0, 2]]),
        "visit_patient": torch.tensor([0]),
        "decision_visit": torch.tensor([0, 0]),
        "decision_given": torch.tensor([0, 1]),
    }
    targets = DecisionTargets.from_batch(batch, 3)
    hierarchy = Hierarchy({"chapter": [0, 0, 1]}, 3, ["chapter"])
    logits = torch.tensor([[3.0, 2.0, 1.0, 1.0]]).log().repeat(2, 1).requires_grad_()
    loss = contrastive_loss(Pools.from_logits(logits, targets, hierarchy, 1.0), targets, hierarchy, {})
    torch.testing.assert_close(loss, torch.stack([torch.tensor(5 / 3).log() / 2, torch.tensor(0.0)]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient[0, :2].all() and not gradient[0, 2:].any() and not gradient[1].any()


def test_hand_computed_confidence_loss():
    batch = {
        "visit_codes": torch.tensor([[0, 2]]),
        "visit_patient": torch.tensor([0]),
        "decision_visit": torch.tensor([0, 0, 0]),
        "decision_given": torch.tensor([0, 1, 2]),
    }
    targets, hierarchy = DecisionTargets.from_batch(batch, 3), Hierarchy({}, 3)
    logits = torch.tensor([[3.0, 2.0, 1.0, 2.0]]).log().expand(3, -1)  # EOV last
    below = torch.tensor(4 / 2).log()  # EOV 2 against the false code's 2
    above = [(torch.tensor(6 / 3).log() + torch.tensor(6 / 1).log()) / 2, torch.tensor(3 / 1).log(), torch.tensor(0.0)]
    loss = confidence_loss(Pools.from_logits(logits, targets, hierarchy, 1.0), targets, "atlop")
    torch.testing.assert_close(loss, below + torch.stack(above))


def test_segment_logsumexp_of_empty_segments():
    values = torch.tensor([[1.0], [-torch.inf], [500.0], [500.0]], requires_grad=True)
    found = segment_logsumexp(values, torch.tensor([0, 1, 2, 2]), 3)
    assert found[:, 0].tolist() == pytest.approx([1.0, -torch.inf, 500.6931472])
    found[[0, 2]].sum().backward()
    assert values.grad[:, 0].tolist() == [1.0, 0.0, 0.5, 0.5]


def test_hierarchy_by_hand():
    hierarchy = hierarchy_of(LEVELS)
    assert hierarchy.levels == ["chapter", "category", "subcategory1"] and hierarchy.has_space
    # subcategory 1 cuts 0-1 from 2, and has no other group of two but 6-7, which is category 3 whole
    assert hierarchy.lengths.tolist() == [2, 1, 2, 1, 2, 1, 2]
    assert hierarchy.run_of_code["chapter"].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, -1, -1, -1, -1]
    assert hierarchy.run_of_code["subcategory1"].tolist() == [0, 0, -1, -1, -1, -1, 4, 4, -1, -1, -1, -1, -1]
    assert hierarchy.run_of_finer["chapter"].tolist() == [0, 0, 0, 1, 1, 2]
    fine = hierarchy_of(pick("category", "subcategory1"), fine=True)
    assert fine.coarse == [] and not fine.has_space and fine.lengths.tolist() == [11]
    assert fine.fine == ["category", "subcategory1"]
    assert fine.size["category"].tolist() == [3, 3, 3, 2, 2, 0, 2, 2, 0, 0, 0, 0, 0]
    places, owner = fine.rivals("category", torch.tensor([[1, 4], [5, 12]]))  # 5 is alone, 12 is padding
    assert (places // 2).tolist() == [0, 1, 2, 3, 4] and (places % 2).tolist() == [0, 0, 0, 1, 1]
    assert owner.tolist() == [0, 0, 0, 1, 1]
    whole = hierarchy_of(LEVELS, contrast_groups=True)
    assert whole.run_of_code["chapter"].tolist()[9:11] == [2, 3]
    alone = Hierarchy({"chapter": [0, 0, 0], "category": [0, 1, 2]}, 3)
    assert alone.levels == ["chapter"]  # nobody has a rival in its category
    tiles = hierarchy.tiles(4)
    assert [(tile.codes.start, tile.codes.stop) for tile in tiles] == [(0, 3), (3, 6), (6, 9), (9, 11)]
    assert tiles[1].segment_of.tolist() == [0, 0, 1] and tiles[1].lengths.tolist() == [2, 1]
    assert hierarchy_of(pick("chapter")).levels == ["chapter"] and not hierarchy_of(pick("chapter")).has_space


def test_hierarchy_refuses_what_is_no_tree():
    with pytest.raises(InputError, match="`levels` names 'kingdom'; the codes of this model have space, chapter"):
        Hierarchy({"chapter": [0, 0, 1]}, 3, ["kingdom"])
    with pytest.raises(InputError, match="the groups of level 'chapter' are not contiguous"):
        Hierarchy({"chapter": [0, 1, 0, 1]}, 4)


def test_a_patient_weighs_the_same_whatever_the_number_of_visits_and_codes():
    batch, places, _ = make_batch(3)
    weights = decision_weights(batch, first_weight=2.0)
    for patient in range(4):
        own = [weight for weight, place in zip(weights.tolist(), places, strict=True) if place[0] == patient]
        assert sum(own) == pytest.approx(1.0)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("kind", ["contrastive", "group", "atlop", "zlpr"])
@pytest.mark.parametrize("fused", [False, True])
def test_what_is_not_a_number_is_in_the_loss(kind, softmax, fine, fused):
    """In a hidden state, in a true code alone, and in false codes alone: no decision that reads it is dropped."""
    batch, places, sets = make_batch(3)
    hierarchy, losses, _ = losses_of(kind, LEVELS, {}, 1.0, softmax, fine)
    targets = DecisionTargets.from_batch(batch, CODES)
    true, given = sets[0]
    for code in (None, true[0], next(code for code in range(CODES) if code not in (*true, *given))):
        generator = torch.Generator().manual_seed(0)
        hidden, rows = (torch.randn(count, 8, generator=generator) for count in (len(places), CODES + 1))
        bias = torch.zeros(CODES + 1)
        if code is None:
            hidden[0] = torch.nan
        else:
            bias[code] = torch.nan
        readout = Readout(hidden.requires_grad_(), rows, bias=bias)
        if fused:
            loss = FusedLoss(hierarchy, losses, 1.0)(readout, targets)
            assert loss.isnan().all(), code
        else:
            per_decision = losses(Pools.from_logits(readout.logits(), targets, hierarchy, 1.0), targets)[0]
            assert per_decision[0].isnan(), code
            if code is None:
                assert not per_decision[1:].isnan().any()
