"""The second stage from a recipe to a checkpoint: train to rank, then fit probabilities and the EOV cut on validation."""

import contextlib
import json
import sys
import time
from pathlib import Path

from mera_hf.errors import InputError
from mera_hf.evaluation.calibration import calibrate, enough_to_calibrate, measure
from mera_hf.evaluation.conformal import fit_conformal
from mera_hf.evaluation.model_ranking import trainer_metrics
from mera_hf.training.hardware import hardware
from mera_hf.training.mera_trainer import MeraTrainer, base_model
from mera_hf.training.output_folder import OutputFolder
from mera_hf.training.provenance import trained_on
from mera_hf.training.sharded import whole_model
from mera_hf.training.stages import load_model, save_checkpoint, wrap_with_adapter
from mera_hf.training.tracked_run import TrackedRun


def train(
    training_args,
    model_args,
    mera_args,
    dataset,
    codes: list[str],
    output: OutputFolder,
    recipe: str,
    report: dict | None = None,
) -> tuple[dict[str, float], bool] | None:
    """Train the stage, fit the cut on validation and write the checkpoint; returns the figures on validation, and whether
    there were visits enough to fit the cut. Of several processes the main one does all but training, and the others
    return `None`. `report` is `prepare.json` of the dataset, for the provenance of the checkpoint."""
    if not len(dataset["validation"]) and training_args.eval_strategy != "no":
        raise InputError("`eval_strategy` needs validation patients, and there are none; set `--eval-strategy no`.")
    started = time.perf_counter()
    training_args.output_dir = str(output.checkpoints)

    def load():
        model, tokenizer = load_model(model_args, mera_args, dataset, codes, training_args.seed)
        return wrap_with_adapter(model, model_args), tokenizer

    model, tokenizer = load()
    provenance = trained_on(base_model(model).config.provenance, report)
    trainer = MeraTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"] if len(dataset["validation"]) else None,
        processing_class=tokenizer,
        compute_metrics=trainer_metrics,
    )
    tracked = TrackedRun()
    trainer.add_callback(tracked)
    output.open(trainer.accelerator)
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log to standard output
        trainer.train(resume_from_checkpoint=output.last)
    model = whole_model(trainer, lambda: load()[0])
    if model is None:
        return None
    base_model(model).config.provenance = provenance
    fitted = calibrate(model, tokenizer, enough_to_calibrate(dataset), mera_args.rerank_depth)
    fit_conformal(model, tokenizer, dataset["validation"])
    metrics = measure(model, tokenizer, dataset["validation"])
    start = model_args.model_name_or_path
    memorized = Path(start, "memorization.json") if start else None
    log = {
        "recipe": recipe,
        "seed": training_args.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "hardware": hardware(training_args.world_size),
        "validation": metrics,
        "memorization": json.loads(memorized.read_text()) if memorized and memorized.is_file() else None,
        "tracker": tracked.run,
        "log": trainer.state.log_history,
    }

    def write(folder):
        save_checkpoint(model, tokenizer, folder)
        (folder / "training.json").write_text(json.dumps(log, indent=2) + "\n")

    output.finish(write)
    return metrics, fitted
