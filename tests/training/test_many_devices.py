"""Two processes train, evaluate and resume as one does, by the recipes of recipes/accelerate, on CPUs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import device_runs
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from tiny import patients
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import BatchSampler

from mera_hf.data.timelines import LengthSampler
from mera_hf.errors import InputError
from mera_hf.timeline_mera import collate_timelines
from mera_hf.training.distributed import check_engine, keep_precision, own_rows


ROOT = Path(__file__).parents[2]
ENGINES = ("ddp", "fsdp2", "zero2", "zero3")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process")
    return {name: device_runs.RUNS[name](folder) for name in ("sgd", "adamw", "adapter", "memorized", "half")}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Results of all runs under an engine."""
    done = {}

    def run(engine):
        if engine.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
            pytest.skip("deepspeed is not installed")
        if engine not in done:
            done[engine] = None
            folder = tmp_path_factory.mktemp(engine)
            recipe = ROOT / "recipes" / "accelerate" / f"{engine}.yaml"
            launch = [
                sys.executable,
                "-m",
                "accelerate.commands.launch",
                "--config_file",
                recipe,
                "--num_processes",
                "2",
            ]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
            process = subprocess.run(
                [*map(str, launch), device_runs.__file__, str(folder)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert process.returncode == 0, process.stderr[-4000:]
            done[engine] = torch.load(folder / "results.pt", weights_only=False)
        assert done[engine] is not None, f"{engine} failed"
        return done[engine]

    return run


def assert_same(ours: dict, theirs: dict, tolerance: float = 1e-5) -> None:
    assert ours["weights"].keys() == theirs["weights"].keys()
    for name, tensor in ours["weights"].items():
        where = {"msg": lambda text, name=name: f"{name}: {text}"}
        torch.testing.assert_close(tensor, theirs["weights"][name], rtol=0, atol=tolerance, **where)


def assert_same_log(ours: list[dict], theirs: list[dict], tolerance: float = 1e-5) -> None:
    assert len(ours) == len(theirs) > 1
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adapter", "memorized"])
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_train_as_one(engine, name, one_process, two_processes, tmp_path):
    """Loss, its parts, length of the gradient and figures of evaluation in every line of the log; weights at the end."""
    if (engine, name) == ("zero3", "adamw"):
        pytest.skip("a moving average is refused under ZeRO-3")
    ours, theirs = two_processes(engine)[name], one_process[name]
    assert_same(ours, theirs)
    assert_same_log(ours["log"], theirs["log"])
    start = device_runs.ranker(str(tmp_path / "start"))[0] if name == "sgd" else None
    if start is not None:
        before = start.model.state_dict()
        assert max((tensor - before[key]).abs().max() for key, tensor in ours["weights"].items()) > 0.01


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_trains_nearly_alike(engine, one_process, two_processes):
    ours, theirs = (results["half"] for results in (two_processes(engine), one_process))
    assert_same_log(ours["log"], theirs["log"], 0.03)
    for name, tensor in ours["weights"].items():  # DeepSpeed leaves weights in bfloat16 behind
        torch.testing.assert_close(tensor.float(), theirs["weights"][name], rtol=0.01, atol=0.01)
    whole = one_process["sgd"]["log"][0]["loss"]
    assert 0 < abs(theirs["log"][0]["loss"] - whole) < 0.05, "it is bfloat16"


def test_fsdp_rounds_what_it_computes_alone():
    half = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)
    plugin = SimpleNamespace(fsdp_version=2, mixed_precision_policy=half)
    state = SimpleNamespace(fsdp_plugin=plugin)
    keep_precision(SimpleNamespace(is_fsdp_enabled=True, accelerator=SimpleNamespace(state=state)))
    assert plugin.mixed_precision_policy == MixedPrecisionPolicy(torch.bfloat16, torch.float32, None)


@pytest.mark.parametrize("engine", ENGINES)
def test_uneven_shards_are_gathered_as_they_are(engine, one_process, two_processes):
    """Eleven patients on two processes by twos: the last step repeats one, which is in no figure."""
    ours, theirs = two_processes(engine)["sgd"], one_process["sgd"]
    assert ours["order"].shape[0] == ours["labels"].shape[0] == 11
    for name in ("order", "set_sizes", "labels"):
        assert torch.equal(ours[name], theirs[name])
    assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-6)
    assert {"test_loss", "test_loss_contrastive", "test_recall@10"} <= ours["metrics"].keys()


@pytest.mark.parametrize("stage", ["", "memorizing_"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_training_equals_an_unbroken_one(engine, stage, two_processes):
    unbroken, resumed = (two_processes(engine)[stage + name] for name in ("unbroken", "resumed"))
    assert_same(resumed, unbroken, 1e-6)
    # Training in between is in the log of both; the last line has the mean over the steps that were run
    assert_same_log(resumed["log"][:-1], unbroken["log"][:-1], 1e-6)
    assert [line["step"] for line in unbroken["log"]] == [1, 2, 3, 4, 5, 6, 6]


# -- rows of the last batches -------------------------------------------------------------------------------------------


def drawn(sampler, size, processes, process):
    batches = BatchSampler(sampler, size, False)
    return list(batches if processes == 1 else BatchSamplerShard(batches, processes, process))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_row_is_somebodys_own_once(size, processes):
    for rows in range(1, 26):
        own, last_sizes = [], []
        for process in range(processes):
            batches = drawn(range(rows), size, processes, process)
            for at, batch in enumerate(batches):
                state = SimpleNamespace(end_of_dataloader=at == len(batches) - 1)
                accelerator = SimpleNamespace(gradient_state=state, num_processes=processes, process_index=process)
                own += batch[: own_rows(accelerator, len(batch), rows)]
            last_sizes.append(len(batches))
        assert sorted(own) == list(range(rows))
        assert len(set(last_sizes)) == 1


def test_the_batches_of_all_processes_are_those_of_one():
    lengths = torch.randint(5, 60, (203,), generator=torch.Generator().manual_seed(0)).tolist()
    alone = drawn(LengthSampler(lengths, 12, 7), 12, 1, 0)
    shares = [drawn(LengthSampler(lengths, 3 * 4, 7), 4, 3, process) for process in range(3)]
    together = [sum(parts, []) for parts in zip(*shares, strict=True)]
    assert together[:-1] == alone[:-1]
    assert together[-1][: len(alone[-1])] == alone[-1]


def test_repeated_patients_weigh_nothing(tmp_path):
    trainer, _ = device_runs.ranker(tmp_path)
    timelines = [trainer.train_dataset[0, row] for row in range(5)]
    wanted = trainer.compute_loss(trainer.model, collate_timelines(timelines[:3], 0))
    batch = {**collate_timelines(timelines, 0), "own_patients": 3}
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), wanted, rtol=1e-6, atol=0)
    batch["own_patients"] = 0  # a process without a patient of its own takes part all the same
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(3))
    loss.backward()
    assert loss == 0 and all(not parameter.grad.any() for parameter in trainer.model.parameters())


def test_without_any_history_every_weight_has_a_gradient(tmp_path):
    """Processes wait for the gradients of the others."""
    trainer, _ = device_runs.ranker(tmp_path, predict_first_visit=True)
    timelines = [trainer.encoder.encode({**row, "visits": row["visits"][:1]}, 0) for row in patients(2)]
    batch = collate_timelines(timelines, 0)
    assert batch["history_codes"].shape[1] == 0
    trainer.compute_loss(trainer.model, batch).backward()
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())


# -- what an engine cannot do -------------------------------------------------------------------------------------------


def trainer_under(engine, model=None, ema_decay=None):
    plugin = SimpleNamespace(zero_stage=int(engine[-1])) if engine.startswith("zero") else None
    return SimpleNamespace(
        accelerator=SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)),
        is_fsdp_enabled=engine == "fsdp2",
        args=SimpleNamespace(ema_decay=ema_decay),
        model=model or SimpleNamespace(is_quantized=False),
    )


def test_what_an_engine_cannot_do_is_refused():
    quantised = SimpleNamespace(is_quantized=True)
    config = SimpleNamespace(tie_word_embeddings=True)
    tied = SimpleNamespace(is_quantized=False, get_base_model=lambda: None, config=config)
    for engine in ("fsdp2", "zero3"):
        with pytest.raises(InputError, match="a quantised base .* cannot be trained under"):
            check_engine(trainer_under(engine, quantised))
    with pytest.raises(InputError, match="FSDP cannot share out an adapted model whose .* are one matrix"):
        check_engine(trainer_under("fsdp2", tied))
    with pytest.raises(InputError, match="`ema_decay` does not work under ZeRO-3"):
        check_engine(trainer_under("zero3", ema_decay=0.9))
    for engine in ("ddp", "zero2"):
        check_engine(trainer_under(engine, quantised, 0.9))
        check_engine(trainer_under(engine, tied))
    check_engine(trainer_under("fsdp2", ema_decay=0.9))
