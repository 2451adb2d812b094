"""Cross-validation over patients, for cohorts too small to spare a test split."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.bootstrap import intervals
from mera_hf.evaluation.calibration import calibrate
from mera_hf.evaluation.checkpoint import peak_memory_mb, versions
from mera_hf.evaluation.metrics import KS, evaluate_ranking
from mera_hf.evaluation.model_ranking import rank_samples
from mera_hf.evaluation.reference import fit_references
from mera_hf.evaluation.results import build_metrics


if TYPE_CHECKING:
    from datasets import DatasetDict
    from trl import ModelConfig

    from mera_hf.training.arguments import MeraArguments
    from mera_hf.training.mera_config import MeraTrainerConfig


def cross_validate(
    training_args: MeraTrainerConfig,
    model_args: ModelConfig,
    mera_args: MeraArguments,
    dataset: DatasetDict,
    codes: Sequence[str],
    description: dict,
    recipe: str,
    folds: int = 5,
    references: Sequence[str] = ("prevalence", "copy_history", "ridge"),
) -> dict:
    """Train on all folds but one, rank every visit from the second on in the one left out, and measure all together.

    Nothing is fitted on the patients that are ranked: prevalence, repetition, log-odds and the EOV cut are those of the
    training folds.

    Args:
        training_args, model_args, mera_args: a recipe, see `parse_recipe`; `training_args.seed` also draws the folds.
        dataset (`DatasetDict`): a prepared dataset; its splits are put together.
        codes (`Sequence[str]`): its codes.
        description (`dict`): its `prepare.json`.
        recipe (`str`): name of the recipe.
        folds (`int`, defaults to 5): number of folds.
        references (`Sequence[str]`): reference rankers, fitted on the same folds.

    Returns:
        the content of a `metrics.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: for fewer than 2 folds, or more folds than patients.
    """
    import numpy as np
    from datasets import concatenate_datasets
    from sklearn.model_selection import KFold
    from tqdm import tqdm

    from mera_hf.training.mera_trainer import MeraTrainer
    from mera_hf.training.stages import load_model, wrap_with_adapter

    started = time.perf_counter()
    patients = concatenate_datasets([split for split in dataset.values() if len(split)])
    patients = patients.filter(lambda row: len(row["visits"]) > 1, keep_in_memory=True)
    if not 2 <= folds <= len(patients):
        raise InputError(
            f"`folds` is {folds}; choose 2 to {len(patients)}, the number of patients with two visits or more."
        )
    samples, orders, sizes = [], {}, {}
    splitter = KFold(folds, shuffle=True, random_state=training_args.seed)
    for train_rows, test_rows in tqdm(list(splitter.split(range(len(patients)))), desc="folds", unit="fold"):
        train, test = patients.select(train_rows), patients.select(test_rows)
        model, tokenizer = load_model(model_args, mera_args, dataset, list(codes), training_args.seed)
        model = wrap_with_adapter(model, model_args)
        trainer = MeraTrainer(
            model=model, args=dataclasses.replace(training_args), train_dataset=train, processing_class=tokenizer
        )
        trainer.train()
        calibrate(model, tokenizer, train, mera_args.rerank_depth)
        candidates = model.config.codes
        fold = prediction_samples(test, candidates, "every")
        fitting = prediction_samples(train, candidates, "every")
        ranking = rank_samples(model, tokenizer, fold)
        ranked = {"mera": (ranking.order.numpy(), ranking.set_sizes.numpy())}
        for name, reference in fit_references(
            fitting, len(candidates), fitting, training_args.seed, references
        ).items():
            ranked[name] = reference(fold)
        for name, (order, set_sizes) in ranked.items():
            orders.setdefault(name, []).append(order)
            sizes.setdefault(name, []).append(set_sizes)
        samples += fold
    ks = [k for k in KS if k <= len(codes)]
    orders = {name: np.concatenate(parts) for name, parts in orders.items()}
    sizes = {name: np.concatenate(parts) for name, parts in sizes.items()}
    return build_metrics(
        dataset={
            "name": description["source"],
            "fingerprint": description["fingerprint"],
            "split": f"{folds} folds over {len(patients)} patients",
            "patients": len(patients),
            "codes": len(codes),
        },
        protocol={"target": "every visit from the second on", "candidates": "cohort", "history": "codes"},
        rankers={name: evaluate_ranking(orders[name], sizes[name], samples, ks) for name in orders},
        controls={},
        run={
            "recipe": recipe,
            "seed": training_args.seed,
            "versions": versions(),
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_mb": round(peak_memory_mb()),
        },
        intervals={"mera": intervals(orders["mera"], sizes["mera"], samples, ks)},
    )
