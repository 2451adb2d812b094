"""Cross-validation over patients, for cohorts too small to spare a test split."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mera_hf.data.prepared import Prepared
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.bootstrap import intervals
from mera_hf.evaluation.metrics import evaluate_ranking, ks_up_to
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.rankings.ranked import Ranking
from mera_hf.evaluation.rankings.reference import fit_references
from mera_hf.evaluation.rankings.setting import protocol
from mera_hf.evaluation.results import Metrics, build_metrics
from mera_hf.machine import run_record
from mera_hf.training.calibrate import fit_cut
from mera_hf.training.checkpoints import load_model, wrap_with_adapter
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.recipe import parse_recipe, recipe_name


def cross_validate(
    recipe: str | Path,
    dataset: str | Path,
    *,
    folds: int = 5,
    references: Sequence[str] = ("prevalence", "copy_history", "ridge"),
    overrides: Sequence[str] = (),
    **fields,
) -> Metrics:
    """Train on all folds but one, rank every visit from the second on in the held-out fold, and pool the results:
    `mera cross-validate`. No checkpoint is kept.

    Nothing is fitted on the patients that are ranked: prevalence, repetition, log-odds, the EOV cut and the words that a model
    from scratch knows are those of the training folds. A checkpoint to start from brings what it was made with.

    Args:
        recipe, overrides, fields: as in [`~mera_hf.train`]; the recipe's seed also draws the folds.
        dataset (`str` or `Path`): a prepared dataset; its splits are combined.
        folds (`int`, *optional*, defaults to 5): number of folds.
        references (`Sequence[str]`, *optional*): reference rankers, fitted on the same folds.

    Returns:
        the content of a `metrics.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: as [`~mera_hf.train`], and for fewer than 2 folds, or more folds than patients.
    """
    import numpy as np
    from datasets import concatenate_datasets
    from sklearn.model_selection import KFold
    from tqdm import tqdm

    training_args, model_args, mera_args = parse_recipe(recipe, overrides, MeraTrainerConfig, fields)
    prepared = Prepared.open(dataset)
    splits, codes = prepared.splits, prepared.codes
    started = time.perf_counter()
    patients = concatenate_datasets([split for split in splits.values() if len(split)])
    patients = patients.filter(lambda row: len(row["visits"]) > 1, keep_in_memory=True)
    if not 2 <= folds <= len(patients):
        raise InputError(
            f"`folds` is {folds}; choose 2 to {len(patients)}, the number of patients with two visits or more."
        )
    samples, patient = [], []
    fold_orders: dict[str, list[np.ndarray]] = {}
    fold_sizes: dict[str, list[np.ndarray]] = {}
    splitter = KFold(folds, shuffle=True, random_state=training_args.seed)
    for train_rows, test_rows in tqdm(list(splitter.split(range(len(patients)))), desc="folds", unit="fold"):
        train, test = patients.select(train_rows), patients.select(test_rows)
        model, tokenizer = load_model(model_args, mera_args, train, codes, training_args.seed)
        model = wrap_with_adapter(model, model_args)
        # The Trainer prints its log to standard output
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
            args = dataclasses.replace(training_args, output_dir=scratch)
            MeraTrainer(model=model, args=args, train_dataset=train, processing_class=tokenizer).train()
        fit_cut(model, tokenizer, train, mera_args.rerank_depth)
        candidates = model.config.codes
        fold = prediction_samples(test, candidates, "every")
        fitting = prediction_samples(train, candidates, "every")
        ranked: dict[str, Ranking] = {"mera": rank_samples(model, tokenizer, fold)}
        for name, reference in fit_references(
            fitting, len(candidates), fitting, training_args.seed, references
        ).items():
            ranked[name] = reference(fold)
        for name, ranking in ranked.items():
            assert ranking.set_sizes is not None
            fold_orders.setdefault(name, []).append(ranking.order)
            fold_sizes.setdefault(name, []).append(ranking.set_sizes)
        samples += fold
        patient += [int(test_rows[sample.patient]) for sample in fold]
    ks = ks_up_to(len(codes))
    orders = {name: np.concatenate(parts) for name, parts in fold_orders.items()}
    sizes = {name: np.concatenate(parts) for name, parts in fold_sizes.items()}
    return build_metrics(
        dataset={
            "name": prepared.report["source"],
            "fingerprint": prepared.report["fingerprint"],
            "split": f"{folds} folds over {len(patients)} patients",
            "patients": len(patients),
            "codes": len(codes),
        },
        protocol=protocol(model.config, codes, "every visit from the second on"),
        rankers={name: evaluate_ranking(orders[name], sizes[name], samples, ks) for name in orders},
        controls={},
        run=run_record(recipe_name(recipe), training_args.seed, started),
        intervals={"mera": intervals(orders["mera"], sizes["mera"], samples, ks, patient=np.array(patient))},
    )
