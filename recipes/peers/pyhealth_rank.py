"""Train PyHealth's models on an exported split and rank the codes of the test patients' next visit.

Runs in PyHealth's environment (`requirements.txt` beside this file); imports nothing of mera_hf.

    python pyhealth_rank.py --export runs/peers/export --output-dir runs/peers/rankings

The models are PyHealth's, and so is the training loop, both with PyHealth's defaults. What this script adds:

- Every visit but the first of a training patient is a target, with the visits before it as history. Codes are the only input.
- Epoch and threshold are chosen on the last visits of the validation patients, by recall@20 and by weighted F1. PyHealth's
  multi-label metrics are not used: they cut at 0.3, which flatters an untrained model, whose probabilities are near 0.5.
- `shipped` leaves the output bias where PyHealth starts it, near zero; `log-odds` starts it at the log-odds of each code among
  the training targets.
- The test patients are ranked once, by the chosen epoch. Their last visit is not in the export.

A run writes `<model>-<start>-<seed>.parquet`, a row a test patient: `patient_id`, `codes` (all, best first), `probabilities`,
`set_size` (codes above the threshold), and a line into `log.jsonl` with its settings and validation figures. A run whose
ranking is there already is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np


MODELS = ("retain", "transformer", "gru")
STARTS = ("shipped", "log-odds")
K = 20
# PyHealth's defaults are written out, so that the log says them: width and dropout of its models, optimizer of its trainer.
SETTINGS = {
    "embedding_dim": 128,
    "dropout": 0.5,
    "optimizer": "Adam",
    "learning_rate": 1e-3,
    "batch_size": 64,
    "epochs": 60,
    "patience": 5,
}


def make_samples(patients: list[dict], split: str) -> list[dict]:
    """The samples of a split in PyHealth's form: `patient_id`, `history` (list of list of codes), `target` (list of codes).

    train: every visit but the first; validation: the last visit; test: all visits are history and nothing is the target.
    """
    samples = []
    for patient in patients:
        visits = patient["visits"]
        if patient["split"] != split:
            continue
        if split == "test":
            targets = [len(visits)]
        elif split == "validation":
            targets = range(max(1, len(visits) - 1), len(visits))
        else:
            targets = range(1, len(visits))
        for t in targets:
            target = [] if split == "test" else visits[t]
            samples.append({"patient_id": patient["patient_id"], "history": visits[:t], "target": target})
    return samples


def rank(scores: np.ndarray) -> np.ndarray:
    """Columns of `scores` (patients, codes) by falling score; of equal scores the lower column comes first."""
    return np.argsort(-scores, axis=1, kind="stable")


def recall(scores: np.ndarray, truth: np.ndarray, k: int = K) -> float:
    """recall@k: mean over patients of the share of the true codes (patients, codes; 0 or 1) among the first k."""
    hits = np.take_along_axis(truth, rank(scores)[:, :k], axis=1).sum(axis=1)  # (patients,)
    return float((hits / truth.sum(axis=1)).mean())


def fit_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The score at which to cut so that the weighted F1 of the sets is the best possible; all cuts are tried."""
    support = truth.sum(axis=0)
    order = np.argsort(-scores, axis=0, kind="stable")  # (patients, codes): one ranking of the patients per code
    ranked = np.take_along_axis(scores, order, axis=0)
    hits = np.take_along_axis(truth, order, axis=0).cumsum(axis=0)
    predicted = np.arange(1, len(scores) + 1)[:, None]
    f1 = 2 * hits / (predicted + support) * support / support.sum()  # (patients, codes): weighted, if cut here
    gain = np.diff(f1, axis=0, prepend=0).ravel()
    falling = np.argsort(-ranked.ravel(), kind="stable")
    total, ranked = gain[falling].cumsum(), ranked.ravel()[falling]
    between = np.append(ranked[1:] != ranked[:-1], True)  # a cut lies between scores that differ
    return float(ranked[np.where(between, total, -1).argmax()])


def write_rankings(patient_ids: list[str], codes: list[str], logits: np.ndarray, threshold: float, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = rank(logits)  # (patients, codes)
    probabilities = 1 / (1 + np.exp(-np.take_along_axis(logits, order, axis=1).astype(np.float64)))
    table = pa.table(
        {
            "patient_id": pa.array(patient_ids, pa.string()),
            "codes": pa.array([[codes[code] for code in row] for row in order.tolist()], pa.list_(pa.string())),
            "probabilities": pa.array(list(probabilities.astype(np.float32)), pa.list_(pa.float32())),
            "set_size": pa.array((logits >= threshold).sum(axis=1), pa.int32()),
        }
    )
    unfinished = path.with_name(path.name + ".unfinished")
    pq.write_table(table, unfinished, compression="zstd")
    os.replace(unfinished, path)


def make_datasets(patients: list[dict], codes: list[str]) -> dict:
    """PyHealth's datasets of the three splits, all with the same processors."""
    from pyhealth.datasets import create_sample_dataset
    from pyhealth.processors import MultiLabelProcessor, NestedSequenceProcessor

    samples = {split: make_samples(patients, split) for split in ("train", "validation", "test")}
    # Fitted on the list of codes, not on patients: the candidates are those of every other ranker. The second call sets the
    # width of the padding alone, so that no visit is cut short.
    history, target = NestedSequenceProcessor(), MultiLabelProcessor()
    history.fit([{"history": [[code] for code in codes]}], "history")
    history.fit([sample for split in samples.values() for sample in split], "history")
    target.fit([{"target": codes}], "target")
    return {
        split: create_sample_dataset(
            samples=rows,
            input_schema={"history": "nested_sequence"},
            output_schema={"target": "multilabel"},
            input_processors={"history": history},
            output_processors={"target": target},
        )
        for split, rows in samples.items()
    }


def make_model(name: str, start: str, train):
    import torch
    from pyhealth.models import RETAIN, RNN, Transformer

    kind, options = {"retain": (RETAIN, {}), "transformer": (Transformer, {}), "gru": (RNN, {"rnn_type": "GRU"})}[name]
    model = kind(dataset=train, embedding_dim=SETTINGS["embedding_dim"], dropout=SETTINGS["dropout"], **options)
    if start == "log-odds":
        count = sum(sample["target"] for sample in train) + 0.5  # (codes,) half a visit added to both sides
        with torch.no_grad():
            model.fc.bias.copy_(torch.log(count / (len(train) + 1 - count)))
    return model


def make_trainer(model):
    """PyHealth's trainer, which measures recall@20 after an epoch instead of PyHealth's metrics."""
    from pyhealth.trainer import Trainer

    class RecallTrainer(Trainer):
        def __init__(self, model):
            super().__init__(model, enable_logging=False, device="cpu")
            self.recalls = []

        def logits(self, loader):
            truth, _, _, more, ids = self.inference(loader, additional_outputs=["logit"], return_patient_ids=True)
            return more["logit"], truth, ids

        def evaluate(self, loader):
            scores, truth, _ = self.logits(loader)
            self.recalls.append(recall(scores, truth))
            return {"recall": self.recalls[-1]}

    return RecallTrainer(model)


def run(name: str, start: str, seed: int, datasets: dict, path: Path) -> dict:
    """Train, choose, rank the test patients into `path`; return what the log says of it."""
    import torch
    from pyhealth.datasets import get_dataloader

    started = time.perf_counter()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    # RETAIN's probabilities depend on the longest history of the batch, so batches of validation and test are fixed: the order
    # of the export, 64 patients each.
    loaders = {
        split: get_dataloader(dataset, SETTINGS["batch_size"], shuffle=split == "train", seed=seed)
        for split, dataset in datasets.items()
    }
    model = make_model(name, start, datasets["train"])
    trainer = make_trainer(model)
    trainer.train(
        loaders["train"],
        loaders["validation"],
        epochs=SETTINGS["epochs"],
        optimizer_class=getattr(torch.optim, SETTINGS["optimizer"]),
        optimizer_params={"lr": SETTINGS["learning_rate"]},
        monitor="recall",
        patience=SETTINGS["patience"],
    )
    scores, truth, _ = trainer.logits(loaders["validation"])
    threshold = fit_threshold(scores, truth)
    test_scores, _, patient_ids = trainer.logits(loaders["test"])
    codes = sorted(datasets["train"].output_processors["target"].label_vocab)
    write_rankings(patient_ids, codes, test_scores, threshold, path)
    return {
        "model": name,
        "output_bias": start,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs_trained": len(trainer.recalls),
        "epoch_chosen": int(np.argmax(trainer.recalls)) + 1,
        f"validation_recall@{K}": [round(value, 5) for value in trainer.recalls],
        "validation_recall_chosen": round(recall(scores, truth), 5),
        "threshold_probability": float(1 / (1 + np.exp(-threshold))),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--export", type=Path, required=True, help="folder that export.py wrote")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the rankings and log.jsonl")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, help="where the output bias starts")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()

    import logging

    import pyarrow.parquet as pq
    import pyhealth
    import torch

    logging.getLogger(pyhealth.__name__).setLevel(logging.WARNING)  # it prints every model and every vocabulary
    patients = pq.read_table(arguments.export / "visits.parquet").to_pylist()
    datasets = make_datasets(patients, json.loads((arguments.export / "codes.json").read_text(encoding="utf-8")))
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    every_run = {
        "settings": SETTINGS,
        "samples": {split: len(dataset) for split, dataset in datasets.items()},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("pyhealth", "torch", "numpy", "pyarrow")},
        "threads": torch.get_num_threads(),
    }
    for start, seed, name in itertools.product(arguments.starts, arguments.seeds, arguments.models):
        path = arguments.output_dir / f"{name}-{start}-{seed}.parquet"
        if path.exists():
            print(f"{path.name} is there already", flush=True)
            continue
        outcome = run(name, start, seed, datasets, path)
        with (arguments.output_dir / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(outcome | every_run) + "\n")
        print(
            f"{path.name}: epoch {outcome['epoch_chosen']}, validation recall@{K} "
            f"{100 * outcome['validation_recall_chosen']:.2f}, {outcome['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
