"""The first stage from a recipe to a checkpoint: memorize what the codes mean (paper, stage 'memorize')."""

import contextlib
import json
import sys
import time

from tqdm import tqdm

from .hardware import hardware
from .memorization_trainer import MemorizationTrainer, exact_match
from .mera_trainer import base_model
from .output_folder import OutputFolder
from .provenance import trained_on
from .sharded import whole_model
from .stages import load_model, save_checkpoint, wrap_with_adapter
from .tracked_run import TrackedRun


def memorize(
    training_args, model_args, mera_args, dataset, codes: list[str], output: OutputFolder, report: dict | None = None
) -> dict[str, float] | None:
    """Train the stage and write its checkpoint with `memorization.json`, the exact match, which it returns, and
    `memorize_run.json`, the log. Of several processes the main one does all but training, and the others return `None`.
    `report` is `prepare.json` of the dataset."""
    started = time.perf_counter()
    training_args.output_dir = str(output.checkpoints)

    def load():
        model, tokenizer = load_model(model_args, mera_args, dataset, codes, training_args.seed)
        return wrap_with_adapter(model, model_args), tokenizer

    model, tokenizer = load()
    trainer = MemorizationTrainer(model=model, args=training_args, processing_class=tokenizer)
    tracked = TrackedRun()
    trainer.add_callback(tracked)
    output.open(trainer.accelerator)
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log to standard output
        trainer.train(resume_from_checkpoint=output.last)
    model = whole_model(trainer, lambda: load()[0])
    if model is None:
        return None
    if model_args.model_name_or_path is None and mera_args.use_visit_text:
        # The words of patients' texts are in the vocabulary that was made for the model
        config = base_model(model).config
        config.provenance = trained_on(config.provenance, report)
    metrics = exact_match(
        model,
        tokenizer,
        trainer.codes,
        training_args.groups,
        training_args.per_device_eval_batch_size,
        lambda batches: tqdm(batches, desc="asking every question", unit="batch"),
    )
    run = {
        "seed": training_args.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "hardware": hardware(training_args.world_size),
        "tracker": tracked.run,
        "log": trainer.state.log_history,
    }

    def write(folder):
        save_checkpoint(model, tokenizer, folder)
        (folder / "memorize_run.json").write_text(json.dumps(run, indent=2) + "\n")
        (folder / "memorization.json").write_text(json.dumps(metrics, indent=2) + "\n")

    output.finish(write)
    return metrics
