"""Hierarchies other than the ICD tree: an order of codes in front of the loss, and nothing else."""

from types import SimpleNamespace

import brute_force
import pytest
import torch
from tiny import CODES, batch_of, patients, tiny_mera

from mera_hf.errors import InputError
from mera_hf.icd import level_groups
from mera_hf.icd.groupings import ccs
from mera_hf.training.code_order import grouped_codes
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer


QUIET = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
CONFIG = SimpleNamespace(codes=CODES, num_codes=len(CODES), level_groups=level_groups(CODES))


def trainer_of(family, folder, **options):
    model, tokenizer = tiny_mera(family)
    args = MeraTrainerConfig(str(folder), **{**QUIET, "per_device_train_batch_size": 4, **options})
    return MeraTrainer(model.double(), args, patients(4, seed=11), processing_class=tokenizer)


def of_tree_order(groups, order) -> dict[str, list[int]]:
    """The group of each code, codes in the order of the tree again."""
    order = torch.arange(len(CODES)) if order is None else order
    return {level: torch.tensor(values)[order.argsort()].tolist() for level, values in groups.items()}


def test_the_tree_is_as_it_is():
    groups, order = grouped_codes(CONFIG, "icd", seed=0)
    assert order is None and groups == CONFIG.level_groups
    backwards = SimpleNamespace(**{**vars(CONFIG), "level_groups": dict(reversed(CONFIG.level_groups.items()))})
    assert list(grouped_codes(backwards, "icd", 0)[0]) == list(CONFIG.level_groups)  # coarsest first


def test_ccs_groups_are_those_of_the_codes():
    groups, order = grouped_codes(CONFIG, "ccs", seed=0)
    assert sorted(order.tolist()) == list(range(len(CODES)))
    found = of_tree_order(groups, order)["ccs"]
    wanted = [ccs(code) for code in CODES]
    for ours, ours_name in zip(found, wanted, strict=True):
        for theirs, theirs_name in zip(found, wanted, strict=True):
            assert (ours == theirs) == (ours_name == theirs_name)
    assert len(set(found)) < len(CODES)


def test_ccsr_groups_by_hand_and_codes_without_a_group():
    codes = ["ICD10CM:E11", "ICD10CM:E11.9", "ICD10CM:I10", "ICD10CM:Z79.4", "ICD10CM:E13.9"]
    groups, order = grouped_codes(SimpleNamespace(codes=codes, num_codes=5), "ccsr", seed=0)
    # E11 stands for codes of several groups; E11.9 and E13.9 are END002
    assert order.tolist() == [0, 1, 4, 2, 3] and groups == {"ccsr": [-1, 0, 0, 1, 2]}


def test_shuffled_groups_keep_their_sizes_and_nesting():
    groups, order = grouped_codes(CONFIG, "shuffled", seed=3)
    assert groups == CONFIG.level_groups and sorted(order.tolist()) == list(range(len(CODES)))
    assert not torch.equal(order, torch.arange(len(CODES)))
    assert torch.equal(order, grouped_codes(CONFIG, "shuffled", seed=3)[1])
    assert not torch.equal(order, grouped_codes(CONFIG, "shuffled", seed=4)[1])


@pytest.mark.parametrize(
    "options",
    [
        {"hierarchy": "ccs", "levels": ["space", "ccs"], "level_weights": {"ccs": 2.0}, "tau": 0.5},
        {"hierarchy": "ccs", "levels": ["ccs"], "group_weight": 0.5},
        {"hierarchy": "shuffled"},
        {"hierarchy": "shuffled", "group_weight": 0.5, "eov_loss": "zlpr"},
        {"hierarchy": "shuffled", "levels": ["space", "category"], "softmax": True, "layout": "tree", "orders": 2},
    ],
    ids=lambda options: "-".join(f"{value}" for value in options.values()),
)
@pytest.mark.parametrize("family", ["llama", "gemma2", "llama_tied"])
def test_loss_and_gradients_are_those_of_the_formulas(family, options, tmp_path):
    """In float64, with code bias, history term and (gemma2) capped logits; groups are looked up by hand in tree order."""
    trainer = trainer_of(family, tmp_path, **options)
    model = trainer.model
    timelines = [trainer.train_dataset[0, row] for row in range(4)]
    batch = batch_of(model, timelines)
    fused = trainer.compute_loss(model, batch)
    fused.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    groups = {"space": None, **of_tree_order(*grouped_codes(model.config, options["hierarchy"], trainer.args.seed))}
    levels = {name: groups[name] for name in options.get("levels", groups)}
    _, output = trainer.compute_loss(model, batch, return_outputs=True)
    tau, losses, places = options.get("tau", 1.0), [], []
    for patient, timeline in enumerate(timelines):
        for visit, given in zip(timeline.decision_visits, timeline.decision_given, strict=True):
            at, codes = len(places), timeline.visits[visit]
            decision = (output.code_logits[at], output.eov_logits[at], codes[given:], codes[:given])
            part = brute_force.contrastive(
                *decision, levels, options.get("level_weights", {}), tau, options.get("softmax", False)
            )
            part = part + options.get("group_weight", 0.0) * brute_force.group(*decision, levels, tau)
            losses.append(part + getattr(brute_force, options.get("eov_loss", "atlop"))(*decision))
            places.append((patient, visit, given))
    wanted = brute_force.mean_over_patients(losses, places, 1.0)
    torch.testing.assert_close(fused, wanted, rtol=1e-9, atol=1e-9)
    wanted.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert found[name] is None or not found[name].any(), name
        else:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-10, msg=name)


def test_dealing_every_code_its_own_place_is_the_tree(tmp_path):
    shuffled = trainer_of("llama", tmp_path, hierarchy="shuffled")
    icd = trainer_of("llama", tmp_path)
    batch = batch_of(icd.model, [icd.train_dataset[0, row] for row in range(4)])
    losses = {}
    for name, trainer in (("dealt", shuffled), ("icd", icd), ("identity", shuffled)):
        if name == "identity":
            trainer.code_order = torch.arange(len(CODES))
        loss = trainer.compute_loss(trainer.model, batch)
        losses[name] = (loss, *torch.autograd.grad(loss, list(trainer.model.parameters()), allow_unused=True))
    assert (losses["dealt"][0] - losses["icd"][0]).abs() > 1e-3
    assert all(
        ours is theirs or torch.equal(ours, theirs)
        for ours, theirs in zip(losses["identity"], losses["icd"], strict=True)
    )


@pytest.mark.parametrize("hierarchy", ["ccs", "shuffled"])
def test_micro_batches_change_neither_loss_nor_step(hierarchy, tmp_path):
    results = []
    for size, steps in ((4, 1), (1, 4)):
        trainer = trainer_of(
            "llama",
            tmp_path,
            hierarchy=hierarchy,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=0.5,
            num_train_epochs=1,
            max_grad_norm=0.0,
        )
        results.append((trainer.train().training_loss, dict(trainer.model.named_parameters())))
    (loss, whole), (split_loss, split) = results
    assert split_loss == pytest.approx(loss, abs=1e-10)
    for name, parameter in whole.items():
        torch.testing.assert_close(split[name], parameter, rtol=0, atol=1e-10)


def test_a_wrong_hierarchy_is_refused(tmp_path):
    with pytest.raises(InputError, match="`hierarchy` is 'drg'; choose one of icd, ccs, ccsr, shuffled"):
        MeraTrainerConfig(str(tmp_path), **QUIET, hierarchy="drg")
    with pytest.raises(InputError, match=r"`levels` is space alone, .* such as `levels: \[space, ccs\]`"):
        MeraTrainerConfig(str(tmp_path), **QUIET, hierarchy="ccs", levels=["space"])
    with pytest.raises(InputError, match="19 of the 19 codes of this model are others, .*; set `hierarchy: ccs`"):
        trainer_of("llama", tmp_path, hierarchy="ccsr")
    with pytest.raises(InputError, match="`levels` names 'chapter'; the codes of this model have space, ccs"):
        trainer_of("llama", tmp_path, hierarchy="ccs", levels=["space", "chapter"])
