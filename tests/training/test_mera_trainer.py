import copy
import math
import random

import brute_force
import pytest
import torch
from tiny import CODES, batch_of, encoder_of, patients, randomise_head, save_base, tiny_mera

from mera_hf.data.timelines import LengthSampler
from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.model import trainer_metrics
from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import collate_timelines
from mera_hf.training.code_tokens import add_code_tokens, load_base
from mera_hf.training.from_scratch import word_tokenizer
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.moving_average import MovingAverage


QUIET = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}


def trainer_of(model, tokenizer, folder, rows, eval_rows=None, trainer=MeraTrainer, compute_metrics=None, **arguments):
    args = MeraTrainerConfig(str(folder), **{**QUIET, "per_device_train_batch_size": 4, **arguments})
    return trainer(
        copy.deepcopy(model), args, rows, eval_rows, processing_class=tokenizer, compute_metrics=compute_metrics
    )


def weights(model) -> dict:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal_weights(ours: dict, theirs: dict, tolerance: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        where = {"msg": lambda text, name=name: f"{name}: {text}"}
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=tolerance, **where)


# -- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"levels": ["chapter", "category"], "level_weights": {"category": 2.0}, "tau": 0.1, "contrastive_weight": 0.5},
        {"levels": ["space"], "softmax": True, "confidence_weight": 0.25, "first_weight": 3.0},
        {"eov_loss": "zlpr", "group_weight": 0.5},
        {"eov_loss": "none", "group_weight": 2.0, "contrastive_weight": 0.0, "tau": 0.5},
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_loss_of_a_batch_is_that_of_the_formulas(family, options, tmp_path):
    model, tokenizer = tiny_mera(family)
    rows = patients(4, seed=11)
    trainer = trainer_of(model, tokenizer, tmp_path, rows, **options)
    timelines = [trainer.train_dataset[0, row] for row in range(4)]
    batch = batch_of(model, timelines)
    loss, output = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    wanted = sum(parts_by_formula(model.config, timelines, output, options).values())
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)


def parts_by_formula(config, timelines, output, options) -> dict[str, torch.Tensor]:
    """The weighted parts of the loss, mean over patients, by loops."""
    groups = {"space": None, **config.level_groups}
    levels = {name: groups[name] for name in options.get("levels", groups)}
    tau, losses, places = options.get("tau", 1.0), {}, []
    for patient, timeline in enumerate(timelines):
        for visit, given in zip(timeline.decision_visits, timeline.decision_given, strict=True):
            at, codes = len(places), timeline.visits[visit]
            decision = (output.code_logits[at].double(), output.eov_logits[at].double(), codes[given:], codes[:given])
            contrast = (levels, options.get("level_weights", {}), tau, options.get("softmax", False))
            parts = {
                "contrastive": options.get("contrastive_weight", 1.0) * brute_force.contrastive(*decision, *contrast),
                "group": options.get("group_weight", 0.0) * brute_force.group(*decision, levels, tau),
            }
            if options.get("eov_loss") != "none":
                form = getattr(brute_force, options.get("eov_loss", "atlop"))
                parts["confidence"] = options.get("confidence_weight", 1.0) * form(*decision)
            for name, part in parts.items():
                losses.setdefault(name, []).append(part)
            places.append((patient, visit, given))
    first_weight = options.get("first_weight", 1.0)
    return {name: brute_force.mean_over_patients(parts, places, first_weight) for name, parts in losses.items()}


def test_every_part_of_the_loss_follows_a_tau_that_changes(llama, tmp_path):
    """As a schedule would set it before a step: losses and gradients are those of the new temperature alone."""
    weights = {"group_weight": 0.5, "confidence_weight": 0.25}
    trainer = trainer_of(*llama, tmp_path, patients(4, seed=11), **weights)
    timelines = [trainer.train_dataset[0, row] for row in range(4)]
    batch = batch_of(trainer.model, timelines)

    def gradients(trainer):
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, batch).backward()
        return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}

    buffers = None
    for tau in (1.0, 0.3, 2.0, 1.0, 0.1):
        trainer.fused_loss.tau = tau
        loss, output = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        wanted = parts_by_formula(trainer.model.config, timelines, output, weights | {"tau": tau})
        found = trainer._named(trainer._parts["train"][-1][1])
        assert found == pytest.approx({f"loss_{name}": part.item() for name, part in wanted.items()}, rel=1e-5)
        torch.testing.assert_close(loss.double(), sum(wanted.values()), rtol=1e-5, atol=1e-5)
        fixed = trainer_of(*llama, tmp_path, patients(4, seed=11), tau=tau, **weights)
        assert_equal_weights(gradients(trainer), gradients(fixed))
        if tau == 2.0:
            buffers = set(trainer.fused_loss.buffers)
    assert buffers == set(trainer.fused_loss.buffers), "no memory for each temperature that was"


@pytest.mark.parametrize(("family", "history_text"), [("llama", "code"), ("llama", "description"), ("t5", "code")])
def test_micro_batches_change_neither_loss_nor_step(family, history_text, tmp_path):
    """Batches of 4 x 1, 2 x 2 and 1 x 4 patients; the rows differ in length, number of visits and codes."""
    model, tokenizer = tiny_mera(family, history_text=history_text)
    rows = patients(4, seed=2)
    results = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        trainer = trainer_of(
            model,
            tokenizer,
            tmp_path,
            rows,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=0.5,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            max_grad_norm=0.0,
            group_weight=0.5,
        )
        result = trainer.train()
        assert result.global_step == 1
        results.append((result.training_loss, weights(trainer.model)))
    start = weights(model)
    moved = max((results[0][1][name] - start[name]).abs().max() for name in start)
    assert moved > 0.01
    for loss, after in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-5)
        assert_equal_weights(after, results[0][1], 1e-5)


# -- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_every_parameter_trains(family, tmp_path):
    model, tokenizer = tiny_mera(family)
    rows = patients(8, seed=1)
    trainer = trainer_of(
        model, tokenizer, tmp_path, rows, learning_rate=1e-2, head_learning_rate=3e-2, num_train_epochs=15, seed=1
    )
    trainer.train()
    before = dict(model.named_parameters())
    for name, parameter in trainer.model.named_parameters():
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, before[name]), f"{name} did not move"
    assert torch.equal(trainer.model.ranking_head.log_prevalence, model.ranking_head.log_prevalence)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(logged["loss_contrastive"] + logged["loss_confidence"], abs=1e-3)


def test_the_head_has_a_learning_rate_of_its_own_and_no_weight_decay(llama, tmp_path):
    trainer = trainer_of(*llama, tmp_path, patients(4), learning_rate=1e-3, head_learning_rate=2e-2, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            assert group["lr"] == (2e-2 if "ranking_head" in name else 1e-3)
            if "ranking_head" in name or "norm" in name:
                assert group["weight_decay"] == 0.0
            else:
                assert group["weight_decay"] == 0.1
    assert sorted(seen) == sorted(names.values())


class Recorder(MeraTrainer):
    """Keeps the visits of every batch that it trains on."""

    def training_step(self, model, inputs, *args):
        self.seen = getattr(self, "seen", [])
        self.seen.append(inputs["visit_codes"].tolist())
        return super().training_step(model, inputs, *args)


def test_codes_are_reshuffled_each_epoch(llama, tmp_path):
    rows = patients(8, seed=4)
    trainer = trainer_of(*llama, tmp_path, rows, trainer=Recorder, num_train_epochs=3)
    trainer.train()
    assert len(trainer.seen) == 6
    epochs = [trainer.seen[at] + trainer.seen[at + 1] for at in (0, 2, 4)]
    ordered = [sorted([code for code in visit if code >= 0] for visit in epoch) for epoch in epochs]
    assert ordered[0] != ordered[1] != ordered[2]
    as_sets = [sorted(sorted(visit) for visit in epoch) for epoch in ordered]
    assert as_sets[0] == as_sets[1] == as_sets[2]
    assert isinstance(trainer._get_train_sampler(), LengthSampler)


@pytest.mark.parametrize("layout", ["timeline", "tree"])
def test_codes_stay_in_tree_order_where_orders_are_not_perturbed(layout, llama, tmp_path):
    trainer = trainer_of(
        *llama,
        tmp_path,
        patients(8, seed=4),
        trainer=Recorder,
        num_train_epochs=2,
        perturb_orders=False,
        layout=layout,
    )
    trainer.train()
    visits = [[code for code in visit if code >= 0] for step in trainer.seen for visit in step]
    assert visits == [sorted(visit) for visit in visits] and max(map(len, visits)) > 2


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_training_equals_an_unbroken_one(ema_decay, tmp_path):
    """With dropout, shuffled codes, thinned decisions and a schedule; the break lies in the middle of an epoch."""
    model, tokenizer = tiny_mera("llama", hidden_dropout=0.2)
    rows = patients(12, seed=7)
    options = {
        "save_strategy": "steps",
        "save_steps": 4,
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "prefix_share": 0.5,
        "ema_decay": ema_decay,
    }
    whole = trainer_of(model, tokenizer, tmp_path, rows, trainer=Recorder, **options)
    whole.train()
    assert whole.state.global_step == 9
    resumed = trainer_of(model, tokenizer, tmp_path, rows, trainer=Recorder, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.seen == whole.seen[4:]
    assert_equal_weights(weights(resumed.model), weights(whole.model))


def test_a_training_resumed_from_another_folder_finds_its_average(llama, tmp_path):
    rows = patients(8, seed=7)
    options = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2, "ema_decay": 0.9}
    whole = trainer_of(*llama, tmp_path / "one", rows, **options)
    whole.train()
    resumed = trainer_of(*llama, tmp_path / "two", rows, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "one" / "checkpoint-2"))
    assert_equal_weights(weights(resumed.model), weights(whole.model))


def test_moving_average_by_hand():
    from types import SimpleNamespace

    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    state, average = SimpleNamespace(global_step=0), MovingAverage(0.5)
    average.on_train_begin(None, state, None, model=model)
    expected = 1.0
    for step, value in ((1, 2.0), (2, 4.0), (30, 8.0)):
        state.global_step = step
        model.weight.data.fill_(value)
        average.on_step_end(None, state, None, model=model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert model.weight.item() == 8.0
    average.on_train_end(None, state, None, model=model)
    assert model.weight.item() == pytest.approx(expected)


def test_single_visit_patients_train_where_the_first_visit_is_predicted(llama, tmp_path):
    model, tokenizer = llama
    rows = patients(6, seed=1, fewest_visits=1, most_visits=1) + patients(2)
    trainer = trainer_of(model, tokenizer, tmp_path, rows, rows, predict_first_visit=True, num_train_epochs=1)
    assert len(trainer.train_dataset) == 8 and trainer.train_dataset.left_out == 0
    assert len(trainer.eval_dataset) == 2  # the first visit is never evaluated
    assert math.isfinite(trainer.train().training_loss)
    with pytest.raises(InputError, match="none of the 6 patients"):
        trainer_of(model, tokenizer, tmp_path, rows[:6])


def test_thinned_decisions_stay_finite_whatever_the_weights(llama, tmp_path):
    """A visit may keep nothing but its first decision, which then may not weigh nothing."""
    with pytest.raises(InputError, match="`first_weight` is 0"):
        trainer_of(*llama, tmp_path, patients(4), first_weight=0.0, prefix_share=0.01)
    trainer = trainer_of(*llama, tmp_path, patients(4), prefix_share=0.01, first_weight=0.1, num_train_epochs=1)
    assert math.isfinite(trainer.train().training_loss)


def test_without_partial_outputs_eov_trains_at_the_first_decision(llama, tmp_path):
    """One decision a visit: L_DCE there has every code of the visit above EOV and all others below."""
    trainer = trainer_of(*llama, tmp_path, patients(4), prefix_share=0.0, num_train_epochs=1, contrastive_weight=0.0)
    timelines = [trainer.train_dataset[0, row] for row in range(4)]
    batch = batch_of(trainer.model, timelines)
    assert batch["decision_given"].tolist() == [0] * len(batch["visit_patient"])
    loss, output = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    places = [(patient, visit, 0) for patient, timeline in enumerate(timelines) for visit in timeline.decision_visits]
    losses = [
        brute_force.atlop(output.code_logits[at], output.eov_logits[at], timelines[patient].visits[visit], [])
        for at, (patient, visit, _) in enumerate(places)
    ]
    torch.testing.assert_close(loss, brute_force.mean_over_patients(losses, places, 1.0).float())
    (slope,) = torch.autograd.grad(loss, trainer.model.ranking_head.code_bias)
    assert slope[-1] != 0
    assert math.isfinite(trainer.train().training_loss)


# -- evaluation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "batch_size"), [("llama", 1), ("llama", 3), ("llama", 8), ("t5", 3)])
def test_evaluation_ranks_as_rank_does(family, batch_size, tmp_path):
    model, tokenizer = tiny_mera(family, calibration=[0.4, 0.6, 1.0, -0.5, 0.1, 0.3], rerank_depth=5, eov_value=0.3)
    rows = patients(7, seed=9)
    trainer = trainer_of(
        model, tokenizer, tmp_path, rows, rows, compute_metrics=trainer_metrics, per_device_eval_batch_size=batch_size
    )
    prediction = trainer.predict(trainer.eval_dataset)
    wanted = trainer.model.rank([{**row, "visits": row["visits"][:-1]} for row in rows], tokenizer)
    order, set_sizes = prediction.predictions
    assert torch.equal(torch.from_numpy(order), wanted.order)
    assert torch.equal(torch.from_numpy(set_sizes), wanted.set_sizes)
    for row, labels in zip(rows, prediction.label_ids, strict=True):
        assert [CODES[code] for code in labels if code >= 0] == sorted(row["visits"][-1]["codes"], key=CODES.index)
        assert set(labels[labels < 0]) <= {-100}


def test_evaluation_gives_loss_and_metrics(llama, tmp_path):
    rows = patients(6, seed=9)
    trainer = trainer_of(*llama, tmp_path, rows, rows, compute_metrics=trainer_metrics, per_device_eval_batch_size=6)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_recall@10", "eval_weighted_f1", "eval_weighted_f1_eov"} <= metrics.keys()
    order = trainer.model.rank([{**row, "visits": row["visits"][:-1]} for row in rows], llama[1], top_k=10).order
    recall = []
    for row, ranked in zip(rows, order.tolist(), strict=True):
        true = row["visits"][-1]["codes"]
        recall.append(sum(CODES[code] in true for code in ranked) / len(true))
    assert metrics["eval_recall@10"] == pytest.approx(sum(recall) / 6)
    # The loss is that of all visits, in tree order
    batch = collate_timelines([encoder_of(*llama).encode(row) for row in rows], 0)
    with torch.no_grad():
        assert metrics["eval_loss"] == pytest.approx(trainer.compute_loss(trainer.model, batch).item(), abs=1e-5)
    logged = trainer.state.log_history[-1]
    parts = logged["eval_loss_contrastive"] + logged["eval_loss_confidence"]
    assert parts == pytest.approx(metrics["eval_loss"], abs=1e-5)


def test_evaluation_does_not_depend_on_the_padding_side(llama, tmp_path):
    model, tokenizer = llama
    tokenizer = copy.deepcopy(tokenizer)
    rows = patients(5)
    right = trainer_of(model, tokenizer, tmp_path, rows, rows).evaluate()
    tokenizer.padding_side = "left"
    left = trainer_of(model, tokenizer, tmp_path, rows, rows).evaluate()
    assert left["eval_loss"] == pytest.approx(right["eval_loss"], abs=1e-5)


def test_a_reloaded_checkpoint_has_the_same_loss(llama, tmp_path):
    """A saved config has its keys in alphabetical order; levels go from coarse to fine all the same."""
    from transformers import AutoModel

    model, tokenizer = llama
    model.save_pretrained(tmp_path / "saved")
    rows = patients(4)
    trainers = [
        trainer_of(m, tokenizer, tmp_path, rows, rows) for m in (model, AutoModel.from_pretrained(tmp_path / "saved"))
    ]
    assert list(trainers[1].model.config.level_groups) != trainers[1].hierarchy.levels == trainers[0].hierarchy.levels
    losses = [trainer.evaluate()["eval_loss"] for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_several_evaluation_sets(llama, tmp_path):
    rows = patients(6)
    trainer = trainer_of(*llama, tmp_path, rows, {"old": rows[:3], "new": rows[3:]})
    metrics = trainer.evaluate()
    assert {"eval_old_loss", "eval_new_loss"} <= metrics.keys()


def test_raw_rows_can_be_evaluated_later(llama, tmp_path):
    rows = patients(6)
    trainer = trainer_of(*llama, tmp_path, rows, rows[:3])
    assert trainer.evaluate(rows[:3])["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"])
    assert trainer.predict(rows[3:]).predictions[0].shape == (3, len(CODES))


# -- what is refused, and what is told to whom ----------------------------------------------------------------------


def test_errors_name_the_argument(llama, tmp_path):
    from mera_hf.modeling_mera import MeraForDiagnosis

    model, tokenizer = llama
    rows = patients(2)
    with pytest.raises(InputError, match="`levels` names 'kingdom'; the codes of this model have space, chapter"):
        trainer_of(model, tokenizer, tmp_path, rows, levels=["space", "kingdom"])
    with pytest.raises(InputError, match="`level_weights` names 'kingdom', which is not one of space, chapter"):
        trainer_of(model, tokenizer, tmp_path, rows, level_weights={"kingdom": 2.0})
    with pytest.raises(InputError, match=r"`level_weights` names 'block', which is not one of space\.$"):
        trainer_of(model, tokenizer, tmp_path, rows, levels=["space"], level_weights={"block": 2.0})
    alone = copy.deepcopy(model)
    alone.config.level_groups = {"chapter": [0] * len(CODES), "category": list(range(len(CODES)))}
    with pytest.raises(InputError, match="`levels` is category, where no two codes of this model share a group"):
        trainer_of(alone, tokenizer, tmp_path, rows, levels=["category"])
    trainer_of(alone, tokenizer, tmp_path, rows, levels=["chapter", "category"], level_weights={"category": 2.0})
    with pytest.raises(InputError, match="`tokenizer` does not belong to this model"):
        trainer_of(model, word_tokenizer(["word"]), tmp_path, rows)
    bare = MeraForDiagnosis(type(model.config)(text_config=model.config.text_config))
    with pytest.raises(InputError, match="no code tokens yet; add them"):
        trainer_of(bare, tokenizer, tmp_path, rows)
    for arguments, message in (
        ({"eov_loss": "softmax"}, "`eov_loss` is 'softmax'; choose one of atlop, zlpr, count, none"),
        ({"tau": 0.0}, "`tau` is 0.0; a temperature is above 0"),
        ({"group_weight": -1.0}, "`group_weight` is -1.0; a weight is 0 or more"),
        ({"prefix_share": -0.1}, "`prefix_share` is -0.1; a share lies between 0 and 1"),
        ({"layout": "tree", "orders": 2, "perturb_orders": False}, "all are the same without `perturb_orders`"),
        ({"ema_decay": 1.0}, "`ema_decay` is 1.0; a decay lies between 0 and 1"),
        ({"levels": []}, "`levels` is empty; name one level at least"),
        ({"contrastive_weight": 0.0, "eov_loss": "none"}, "`contrastive_weight`, .* leave no loss; raise one"),
    ):
        with pytest.raises(InputError, match=message):
            MeraTrainerConfig(str(tmp_path), **QUIET, **arguments)


@pytest.mark.parametrize("options", [{"layout": "tree", "orders": 2}, {"max_batch_tokens": 100}])
def test_layouts_of_decoders_are_refused_for_encoder_decoders(options, tmp_path):
    with pytest.raises(InputError, match="are for decoders alone; an encoder-decoder takes a row for each visit"):
        trainer_of(*tiny_mera("t5"), tmp_path, patients(3), **options)


def test_nothing_is_reported_to_anyone(llama, tmp_path, monkeypatch):
    import trl.trainer.base_trainer

    def fail(*args, **kwargs):
        raise AssertionError("telemetry was sent")

    for name in ("CI", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", fail)
    trainer_of(*llama, tmp_path, patients(2))


def test_model_card_is_honest_and_names_no_patient(llama, tmp_path):
    rows = patients(4)
    trainer = trainer_of(*llama, tmp_path, rows)
    trainer.create_model_card(dataset_name="a cohort")
    card = (tmp_path / "README.md").read_text()
    for words in ("MERA", "https://huggingface.co/papers/2501.17326", "ma2025memorize", "clinical decisions"):
        assert words in card, words
    assert "text-generation" not in card and "pipeline(" not in card
    assert not any(code in card for code in CODES)


def test_head_starts_once(tmp_path):
    model, tokenizer = tiny_mera("llama", head=False)
    rows = patients(8)
    started = trainer_of(model, tokenizer, tmp_path, rows).model
    assert started.ranking_head.log_prevalence.any() and started.ranking_head.code_bias.any()
    again = trainer_of(started, tokenizer, tmp_path, patients(8, seed=5)).model
    assert torch.equal(again.ranking_head.code_bias, started.ranking_head.code_bias)
    unstarted = trainer_of(model, tokenizer, tmp_path, rows, start_head=False).model
    assert not unstarted.ranking_head.is_trained
    randomise_head(unstarted)
    kept = trainer_of(unstarted, tokenizer, tmp_path, rows).model
    assert torch.equal(kept.ranking_head.code_bias, unstarted.ranking_head.code_bias)


def test_zero_readout_leaves_the_first_word_to_the_head(tmp_path):
    from trl import ModelConfig

    from mera_hf.training.checkpoints import wrap_with_adapter

    model, tokenizer = tiny_mera("llama", head=False)
    started = trainer_of(model, tokenizer, tmp_path, patients(8), zero_readout=True).model
    assert not started.code_rows().any()
    ranking = started.rank([{"visits": []}], tokenizer)
    by_code = torch.zeros(len(CODES)).scatter(0, ranking.order[0], ranking.logits[0])
    torch.testing.assert_close(by_code, started.ranking_head.code_bias[:-1].detach())

    tied, _ = tiny_mera("llama_tied", head=False)
    with pytest.raises(InputError, match="`zero_readout` needs a model whose input and output .* are not tied"):
        trainer_of(tied, tokenizer, tmp_path, patients(8), zero_readout=True)
    # The config of Flan-T5 says that its matrices are tied, and they are not
    _, tokenizer = save_base(tmp_path / "flan", "flan_t5")
    flan = load_base(str(tmp_path / "flan"))
    add_code_tokens(flan, tokenizer, CODES)
    assert not trainer_of(flan, tokenizer, tmp_path, patients(8), zero_readout=True).model.code_rows().any()
    adapted = wrap_with_adapter(model, ModelConfig(use_peft=True, lora_r=2))
    with pytest.raises(InputError, match="`zero_readout` needs full training: an adapter has a copy"):
        trainer_of(adapted, tokenizer, tmp_path, patients(8), zero_readout=True)


def test_forward_inputs_are_what_the_collator_gives(llama):
    batch = collate_timelines([encoder_of(*llama).encode(patients(1)[0], 1, random.Random(0))], 0)
    assert set(FORWARD_INPUTS) - {"decoder_input_ids"} <= batch.keys()


def test_a_saved_step_is_whole_once_its_state_is_there(llama, tmp_path, monkeypatch):
    """`--resume` takes a step with a state for whole, so that the average has to be there before it."""
    from transformers import TrainerState

    seen = []

    def save(state, path):
        seen.append((tmp_path / f"checkpoint-{state.global_step}" / MovingAverage.FILE).is_file())

    monkeypatch.setattr(TrainerState, "save_to_json", save)
    options = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1, "ema_decay": 0.9}
    trainer_of(*llama, tmp_path, patients(8), **options).train()
    assert seen and all(seen)


# -- a loss that is not a number ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"eov_loss": "none"}, {}, {"group_weight": 1.0, "contrastive_weight": 0.0}])
@pytest.mark.parametrize("steps", [1, 500], ids=["at each step", "at the end"])
def test_a_loss_that_is_not_a_number_stops_the_training(llama, tmp_path, options, steps):
    model, tokenizer = llama
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.visit_token_id] = torch.nan
    arguments = {"max_steps": 2, "logging_steps": steps, **options}
    trainer = trainer_of(model, tokenizer, tmp_path, patients(8), patients(4), **arguments)
    with pytest.raises(
        InputError, match=rf"not a number at step {min(steps, 2)} .*loss\w* nan.*lower `learning_rate`"
    ):
        trainer.train()
    assert any(math.isnan(line.get("loss", line.get("train_loss", 0.0))) for line in trainer.state.log_history)
    with pytest.raises(InputError, match="eval_loss nan"):
        trainer.evaluate()


def test_the_log_shows_every_loss_and_waits_for_none(tmp_path):
    assert not MeraTrainerConfig(str(tmp_path)).logging_nan_inf_filter
