"""Trainings that give the same result however many processes share them: `python device_runs.py FOLDER` runs them all.

The test runs them in one process, and under `accelerate launch` in two, which write their results to `FOLDER/results.pt`.
"""

import os
import sys
from pathlib import Path

import torch


WORLD = int(os.environ.get("WORLD_SIZE", 1))
SHARDED = any(os.environ.get(f"ACCELERATE_USE_{engine}") == "true" for engine in ("FSDP", "DEEPSPEED"))


def let_cpus_shard() -> None:
    """Accelerate has FSDP and DeepSpeed for accelerators alone, though PyTorch has them for CPUs: let these pass as such."""
    import transformers.training_args
    from accelerate.state import DistributedType, PartialState

    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


def arguments(config, folder, batch: int, **options):
    """Arguments of a trainer whose processes together have batches of so many rows."""
    defaults = {
        "report_to": "none",
        "use_cpu": not SHARDED,
        "disable_tqdm": True,
        "logging_steps": 1,
        "per_device_train_batch_size": batch // WORLD,
        "per_device_eval_batch_size": 4 // WORLD,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return config(str(folder), **{**defaults, **options})


def ranker(folder, family="llama", dropout=0.0, adapter=False, **options):
    """A trainer on 21 patients in batches of 4, two to a step: the last one of an epoch holds a single patient."""
    from tiny import patients, tiny_mera

    from mera_hf.evaluation.rankings.model import trainer_metrics
    from mera_hf.training.mera_config import MeraTrainerConfig
    from mera_hf.training.mera_trainer import MeraTrainer

    def load():
        model, tokenizer = tiny_mera(family, head=False, hidden_dropout=dropout)
        return (adapted(model) if adapter else model), tokenizer

    model, tokenizer = load()
    args = arguments(MeraTrainerConfig, folder, 4, **options)
    rows, few = patients(21, seed=3), patients(11, seed=5)
    trainer = MeraTrainer(model, args, rows, few, processing_class=tokenizer, compute_metrics=trainer_metrics)
    return trainer, lambda: load()[0]


def adapted(model):
    from trl import ModelConfig

    from mera_hf.training.checkpoints import wrap_with_adapter

    torch.manual_seed(0)
    return wrap_with_adapter(model, ModelConfig(use_peft=True, lora_r=2, lora_dropout=0.0))


def result(trainer, load) -> dict:
    """Weights of the whole model, figures of the log, and what the trainer predicts."""
    from mera_hf.training.distributed import whole_model

    prediction = trainer.predict(trainer.eval_dataset) if hasattr(trainer, "moving_average") else None
    model = whole_model(trainer, load)
    if model is None:
        return {}
    speed = ("runtime", "per_second", "flos", "preparation_time")
    log = [
        {name: x for name, x in line.items() if not any(word in name for word in speed)}
        for line in trainer.state.log_history
    ]
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    found = {"log": log, "weights": weights}
    if prediction is not None:
        found["metrics"] = {
            name: x for name, x in prediction.metrics.items() if not any(word in name for word in speed)
        }
        found["order"], found["set_sizes"] = map(torch.from_numpy, prediction.predictions)
        found["labels"] = torch.from_numpy(prediction.label_ids)
    return found


def run_sgd(folder):
    trainer, load = ranker(folder, optim="sgd", learning_rate=0.1, max_grad_norm=0.5, eval_strategy="epoch")
    trainer.train()
    return result(trainer, load)


def run_adamw(folder):
    rates = {"learning_rate": 1e-3, "head_learning_rate": 3e-3, "weight_decay": 0.1, "lr_scheduler_type": "cosine"}
    trainer, load = ranker(folder, "llama_tied", max_grad_norm=1.0, prefix_share=0.5, **average(), **rates)
    trainer.train()
    return result(trainer, load)


def run_adapter(folder):
    trainer, load = ranker(folder, adapter=True, learning_rate=1e-3, num_train_epochs=1)
    trainer.train()
    return result(trainer, load)


def run_half(folder):
    trainer, load = ranker(folder, optim="sgd", learning_rate=1e-3, num_train_epochs=1, bf16=True)
    trainer.train()
    return result(trainer, load)


def memorizer(folder, **options):
    """A trainer on 48 pairs in batches of 10, two to a step."""
    from tiny import CODES, tiny_mera

    from mera_hf.training.memorization_config import MemorizationTrainerConfig
    from mera_hf.training.memorization_trainer import MemorizationTrainer

    model, tokenizer = tiny_mera()
    args = arguments(MemorizationTrainerConfig, folder, 10, **options)
    return MemorizationTrainer(model, args, tokenizer, CODES[:2]), lambda: tiny_mera()[0]


def run_memorized(folder):
    trainer, load = memorizer(
        folder, learning_rate=1e-3, max_grad_norm=1.0, eval_strategy="epoch", activation_checkpointing=True
    )
    trainer.train()
    return result(trainer, load)


RESUMED = {"save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-3, "lr_scheduler_type": "linear"}


def run_unbroken(folder):
    """With dropout, so that the random numbers of every process have to be restored; six steps, the fourth is saved."""
    trainer, load = ranker(folder / "resumed", dropout=0.2, **RESUMED, **average())
    trainer.train()
    return result(trainer, load)


def run_resumed(folder):
    trainer, load = ranker(folder / "resumed", dropout=0.2, **RESUMED, **average())
    trainer.train(resume_from_checkpoint=str(folder / "resumed" / "checkpoint-4"))
    return result(trainer, load)


def run_memorizing_unbroken(folder):
    """The pairs of the second epoch are in the same order if training resumes in its middle."""
    trainer, load = memorizer(folder / "memorized", **RESUMED)
    trainer.train()
    return result(trainer, load)


def run_memorizing_resumed(folder):
    trainer, load = memorizer(folder / "memorized", **RESUMED)
    trainer.train(resume_from_checkpoint=str(folder / "memorized" / "checkpoint-4"))
    return result(trainer, load)


def average() -> dict:
    zero3 = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return {} if zero3 else {"ema_decay": 0.9}


RUNS = {name[4:]: run for name, run in list(globals().items()) if name.startswith("run_")}


def main(folder: Path) -> dict:
    """Every run, by name; empty in all processes but the first."""
    return {name: run(folder) for name, run in RUNS.items()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if SHARDED:
        let_cpus_shard()
    results = main(Path(sys.argv[1]))
    if int(os.environ["RANK"]) == 0:
        torch.save(results, Path(sys.argv[1]) / "results.pt")
    os._exit(0)  # as `mera` ends of several processes, see `_end` of mera_hf/cli/main.py
