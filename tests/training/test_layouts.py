"""Trees, packing and token budgets in training: what they leave unchanged, and what they refuse."""

import copy

import brute_force
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from tiny import patients, tiny_mera
from torch.utils.data import DataLoader

from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.model import trainer_metrics
from mera_hf.timeline_mera import collate_timelines
from mera_hf.training import mera_trainer
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer


QUIET = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}


class Recorder(MeraTrainer):
    """Keeps the shape and the visits of every batch that it trains on."""

    def training_step(self, model, inputs, *args):
        self.seen = getattr(self, "seen", [])
        self.seen.append((tuple(inputs["input_ids"].shape), inputs["visit_codes"].tolist()))
        return super().training_step(model, inputs, *args)


def trainer_of(model_and_tokenizer, folder, rows, eval_rows=None, compute_metrics=None, **arguments):
    model, tokenizer = model_and_tokenizer
    args = MeraTrainerConfig(str(folder), **{**QUIET, "per_device_train_batch_size": 8, **arguments})
    model = copy.deepcopy(model)
    return Recorder(model, args, rows, eval_rows, processing_class=tokenizer, compute_metrics=compute_metrics)


def loss_and_gradients(trainer, batch):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}


def assert_same(ours, theirs) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-5)
    for name, gradient in ours[1].items():
        torch.testing.assert_close(
            gradient, theirs[1][name], rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


# -- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"positions": "visit"}, {"use_visit_text": True}], ids=str)
def test_a_tree_of_codes_has_the_loss_of_the_timeline(fields, tmp_path):
    both, rows = tiny_mera("llama", **fields), patients(5, seed=2)
    options = {"first_weight": 2.0, "group_weight": 0.5}
    timeline = trainer_of(both, tmp_path, rows, **options)
    tree = trainer_of(both, tmp_path, rows, layout="tree", **options)
    batches = [collate_timelines([t.train_dataset[3, row] for row in range(5)], 0) for t in (timeline, tree)]
    assert batches[1]["attention_mask"].ndim == 3 and batches[0]["attention_mask"].ndim == 2
    assert_same(loss_and_gradients(tree, batches[1]), loss_and_gradients(timeline, batches[0]))


def test_loss_of_several_orders_by_hand(tmp_path):
    """Decisions average within an order, orders within their visit, visits within their patient."""
    both, rows = tiny_mera("llama", history_text="code+description"), patients(3, seed=8)
    trainer = trainer_of(both, tmp_path, rows, layout="tree", orders=3, first_weight=2.0)
    trees = [trainer.train_dataset[0, row] for row in range(3)]
    loss, output = trainer.compute_loss(trainer.model, collate_timelines(trees, 0), return_outputs=True)
    levels = {"space": None, **both[0].config.level_groups}
    decision, of_patients = 0, []
    for row, tree in zip(rows, trees, strict=True):
        visits = len(row["visits"]) - 1
        assert len(tree.visits) == 3 * visits
        of_visits = [[] for _ in range(visits)]
        for branch, codes in enumerate(tree.visits):
            total, weights = 0.0, 0.0
            for given in range(len(codes) + 1):
                at = (output.code_logits[decision].double(), output.eov_logits[decision].double())
                part = brute_force.contrastive(*at, codes[given:], codes[:given], levels, {}, 1.0, False)
                part = part + brute_force.atlop(*at, codes[given:], codes[:given])
                weight = 1.0 if given else 2.0
                total, weights, decision = total + weight * part, weights + weight, decision + 1
            of_visits[branch // 3].append(total / weights)
        of_patients.append(sum(sum(orders) / 3 for orders in of_visits) / visits)
    assert decision == len(output.eov_logits)
    torch.testing.assert_close(loss.double(), sum(of_patients) / 3, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"layout": "tree", "orders": 2}], ids=["timeline", "tree"])
@pytest.mark.parametrize(
    ("family", "fields"),
    [("llama", {}), ("llama", {"positions": "visit"}), ("gpt2", {"history_text": "description"})],
    ids=["llama", "shared-positions", "gpt2"],
)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packing_changes_neither_loss_nor_gradients(implementation, family, fields, options, tmp_path):
    both = tiny_mera(family, **fields)
    both[0].language_model.set_attn_implementation(implementation)
    trainer = trainer_of(both, tmp_path, patients(5, seed=2), **options)
    timelines = [trainer.train_dataset[0, row] for row in range(5)]
    padded = loss_and_gradients(trainer, collate_timelines(timelines, 0))
    assert_same(loss_and_gradients(trainer, collate_timelines(timelines, 0, packed=True)), padded)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ({}, {"max_batch_tokens": 60}),
        ({}, {"max_batch_tokens": 60, "packing": True}),
        ({}, {"max_batch_tokens": 1}),
        ({"layout": "tree", "orders": 2}, {"max_batch_tokens": 100}),
        ({"layout": "tree", "orders": 2}, {"max_batch_tokens": 100, "packing": True}),
    ],
    ids=str,
)
def test_a_step_over_batches_of_a_budget_is_the_step_over_all_patients(layout, options, tmp_path):
    both, rows = tiny_mera("llama"), patients(8, seed=2)
    step = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "num_train_epochs": 1}
    results = []
    for how in ({"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 99, **options}):
        trainer = trainer_of(both, tmp_path, rows, **layout, **step, **how, max_grad_norm=0.0)
        result = trainer.train()
        assert result.global_step == 1
        results.append((torch.tensor(result.training_loss), dict(trainer.model.named_parameters())))
    assert len(trainer.seen) > 2
    for shape, _ in trainer.seen:
        assert (
            (shape[0] == 1)
            if options.get("packing")
            else (shape[0] * shape[1] <= options["max_batch_tokens"] or shape[0] == 1)
        )
    moved = max((results[0][1][name] - tensor).abs().max() for name, tensor in both[0].named_parameters())
    assert moved > 0.01
    assert_same(results[1], results[0])


# -- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "tree", "orders": 2},
        {"max_batch_tokens": 80},
        {"layout": "tree", "orders": 2, "max_batch_tokens": 150, "packing": True, "gradient_accumulation_steps": 2},
    ],
    ids=["tree", "budget", "packed-trees"],
)
def test_a_resumed_training_equals_an_unbroken_one(options, tmp_path):
    both = tiny_mera("llama", hidden_dropout=0.2, history_text="code" if "layout" not in options else "description")
    rows = patients(14, seed=7)
    options = {
        "save_strategy": "steps",
        "save_steps": 7,
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "prefix_share": 0.5,
        "per_device_train_batch_size": 4,
        **options,
    }
    whole = trainer_of(both, tmp_path, rows, **options)
    whole.train()
    resumed = trainer_of(both, tmp_path, rows, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    steps_in_epoch = whole.state.max_steps // 3
    assert 7 % steps_in_epoch, "the break should lie in the middle of an epoch"
    done = len(whole.seen) - len(resumed.seen)
    assert done > 0 and resumed.seen == whole.seen[done:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("budget", [None, 80])
def test_the_sampler_knows_its_epoch_where_a_training_resumes_in_several_processes(budget, tmp_path):
    """The data loader that accelerate makes for the rest of an epoch has the sampler too deep for `set_epoch`."""
    trainer = trainer_of(
        tiny_mera("llama"), tmp_path, patients(14), per_device_train_batch_size=2, max_batch_tokens=budget
    )
    loader = trainer.get_train_dataloader()
    shared = prepare_data_loader(
        DataLoader(loader.dataset, batch_sampler=loader.batch_sampler), num_processes=2, process_index=0
    )
    rest = skip_first_batches(shared, 1)
    rest.set_epoch(5)
    assert {epoch for batch in rest.batch_sampler for epoch, _ in batch} == {0}  # once this is 5, the callback can go
    trainer.state.epoch = 5.4
    trainer.callback_handler.train_dataloader = rest
    trainer.callback_handler.on_epoch_begin(trainer.args, trainer.state, trainer.control)
    assert {epoch for batch in rest.batch_sampler for epoch, _ in batch} == {5}


def test_a_tree_trains_and_ranks_as_rank_does(tmp_path):
    both = tiny_mera("llama", head=False, history_text="code+description")
    rows = patients(8, seed=9)
    options = {"layout": "tree", "orders": 2, "max_batch_tokens": 300, "num_train_epochs": 12, "learning_rate": 1e-2}
    trainer = trainer_of(both, tmp_path, rows, rows, trainer_metrics, **options)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    prediction = trainer.predict(trainer.eval_dataset)
    wanted = trainer.model.rank([{**row, "visits": row["visits"][:-1]} for row in rows], both[1])
    assert torch.equal(torch.from_numpy(prediction.predictions[0]), wanted.order)
    assert torch.equal(torch.from_numpy(prediction.predictions[1]), wanted.set_sizes)


def test_tokens_are_counted(tmp_path):
    both, rows = tiny_mera("llama"), patients(8)
    options = {"max_batch_tokens": 60, "num_train_epochs": 1, "include_num_input_tokens_seen": "non_padding"}
    for packing in (False, True):
        trainer = trainer_of(both, tmp_path, rows, packing=packing, **options)
        trainer.train()
        assert trainer.state.num_input_tokens_seen == sum(trainer.train_dataset.lengths)


def test_timelines_above_the_budget_are_counted_in_the_log(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(mera_trainer.logger, "warning", told.append)
    trainer = trainer_of(tiny_mera("llama"), tmp_path, patients(6), max_batch_tokens=1)
    assert told == ["6 timelines are longer than `max_batch_tokens` and are batches of their own."]
    assert [len(batch["input_ids"]) for batch in trainer.get_train_dataloader()] == [1] * 6
    told.clear()
    trainer_of(tiny_mera("llama"), tmp_path, patients(6), max_batch_tokens=500)
    assert told == []


# -- what is refused ------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    for arguments, message in (
        ({"layout": "forest"}, "`layout` is 'forest'; choose one of timeline, tree"),
        ({"orders": 2}, "`orders` is 2; it is 1 or more, and 1 unless `layout` is tree"),
        ({"orders": 0, "layout": "tree"}, "`orders` is 0; it is 1 or more"),
        ({"max_batch_tokens": 0}, "`max_batch_tokens` is 0; it must be 1 or more"),
        ({"packing": True}, "`packing` needs `max_batch_tokens`"),
    ):
        with pytest.raises(InputError, match=message):
            MeraTrainerConfig(str(tmp_path), **QUIET, **arguments)


def test_attention_that_cannot_do_it_is_refused_before_training(tmp_path):
    rows = patients(4)
    tree, packing = {"layout": "tree"}, {"packing": True, "max_batch_tokens": 100}

    def refused(options, message, family="llama", **config):
        both = tiny_mera(family)
        for name, value in config.items():
            setattr(both[0].config.text_config, name, value)
        with pytest.raises(InputError, match=message):
            trainer_of(both, tmp_path, rows, **options)

    refused(tree, "flash_attention_2 has no way to let several orders", _attn_implementation="flash_attention_2")
    for options in (tree, packing):
        refused(options, "flex_attention has no backward pass on CPUs", _attn_implementation="flex_attention")
        refused(options, "looks 8 tokens back, and a sequence has", "mistral", sliding_window=8)
        refused(options, "implementation 'paged' is not known to keep", _attn_implementation="paged")
    # What transformers masks by itself is left to it
    model, tokenizer = tiny_mera("mistral")
    model.config.text_config.sliding_window = 8
    trainer_of((model, tokenizer), tmp_path, rows, max_batch_tokens=100, num_train_epochs=1).train()
