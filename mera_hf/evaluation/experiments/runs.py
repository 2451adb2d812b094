"""The runs of an experiment: each variant with each seed is trained and measured once, and kept, whichever experiment asks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mera_hf.data.prepare import load_codes, load_prepared, read_report
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.experiments.variants import RECIPE, Variant
from mera_hf.evaluation.results import write_text


if TYPE_CHECKING:
    import numpy as np

# Fields of the trainer's arguments that say where things go and what is printed, not what is trained
UNTOLD = ("output_dir", "logging_dir", "run_name", "seed", "report_to", "disable_tqdm", "logging_steps", "project")


@dataclass(frozen=True)
class Setting:
    """What all runs of an experiment share.

    Attributes:
        recipe (`str`): path of the training recipe.
        memorizing (`str`, *optional*): path of the memorizing recipe.
        dataset (`str`): folder of the prepared dataset.
        folder (`Path`): where runs are kept, `runs/<variant>-<seed>`.
        overrides (`tuple[str, ...]`): options that change the recipe for all variants.
        threads (`int`, *optional*): threads of each run; what torch takes without it.
    """

    recipe: str
    memorizing: str | None
    dataset: str
    folder: Path
    overrides: tuple[str, ...] = ()
    threads: int | None = None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder (`Path`): its checkpoint is in `model/`.
        result (`dict`): `variant`, `seed`, `settings`, `seconds`, and the metrics on `validation`, on `test`, and on
            `test_at_eov` with the set cut at EOV's own logit, as the paper has it.
    """

    folder: Path
    result: dict

    def ranking(self) -> tuple[np.ndarray, np.ndarray]:
        """The ranking of the test patients: order (patients, codes) and set sizes (patients,)."""
        import numpy as np

        with np.load(self.folder / "test.npz") as arrays:
            return arrays["order"].astype(np.int32), arrays["set_sizes"]


def arguments_of(setting: Setting, variant: Variant, seed: int, output_dir: str = "unused") -> tuple:
    """The recipe's arguments for one run, see `parse_recipe`."""
    from mera_hf.training.mera_config import MeraTrainerConfig
    from mera_hf.training.recipe import parse_recipe

    options = [*setting.overrides, *variant.overrides, "--seed", str(seed), "--output-dir", output_dir]
    if variant.memorized:
        options += ["--model-name-or-path", str(_memorized(setting, seed))]
    return parse_recipe(setting.recipe, options, MeraTrainerConfig)


def fingerprint(setting: Setting, variant: Variant) -> dict:
    """What a run depends on but for its seed: a hash of the arguments, of the dataset, and of what it starts from."""
    from mera_hf.training.memorization_config import MemorizationTrainerConfig
    from mera_hf.training.recipe import parse_recipe

    trainer, *others = (asdict(part) for part in arguments_of(setting, variant, 0))
    told = {key: value for key, value in trainer.items() if key not in UNTOLD}
    for part in others:
        part.pop("dataset", None)
        if variant.memorized:
            part.pop("model_name_or_path", None)
    known = {"arguments": _hash([told, *others]), "dataset": read_report(setting.dataset)["fingerprint"]}
    if variant.memorized:
        memorizing = parse_recipe(setting.memorizing, ["--output-dir", "unused"], MemorizationTrainerConfig)
        trainer, *others = (asdict(part) for part in memorizing)
        known["memorizing"] = _hash([{k: v for k, v in trainer.items() if k not in UNTOLD}, *others])
    return known


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def finish_runs(
    setting: Setting, variants: Sequence[Variant], seeds: Sequence[int], jobs: int = 1
) -> dict[str, list[Run]]:
    """Train and measure what is not there yet, `jobs` runs at a time, each in a process of its own.

    A run that was stopped starts anew, or goes on where its recipe saves steps. Variants that a recipe already is are not
    trained a second time.

    Returns:
        the runs of each variant's name, in the order of `seeds`.

    Raises:
        [`~mera_hf.errors.InputError`]: for a variant that starts from a memorized checkpoint without a memorizing recipe, or
            a run in the folder that was made with other settings.
    """
    from tqdm import tqdm

    if any(variant.memorized for variant in variants) and setting.memorizing is None:
        raise InputError("this experiment memorizes first; name the recipe of that stage with `--memorize-config`.")
    recipe = fingerprint(setting, Variant(RECIPE, ""))
    known = {variant.name: fingerprint(setting, variant) for variant in variants}
    same = {name: RECIPE if print_ == recipe else name for name, print_ in known.items()}
    todo = {}  # folder -> task
    for variant in variants:
        for seed in seeds:
            folder = run_folder(setting, same[variant.name], seed)
            if not (folder / "result.json").is_file():
                todo[folder] = (setting, variant, seed, known[variant.name], folder)
                continue
            found = json.loads((folder / "result.json").read_text())["settings"]
            if found != known[variant.name]:
                differing = ", ".join(key for key in known[variant.name] if found.get(key) != known[variant.name][key])
                raise InputError(
                    f"{folder} was run with another recipe or dataset (it differs in its {differing}); choose another "
                    "`--output-dir`, or delete that folder to run it again."
                )
    (setting.folder / "runs").mkdir(parents=True, exist_ok=True)
    if any(variant.memorized for _, variant, *_ in todo.values()):
        tasks = [(setting, seed) for seed in seeds if not (_memorized(setting, seed) / "memorization.json").is_file()]
        _in_processes(_memorize, tasks, jobs, "memorizing")
    _in_processes(_train, list(todo.values()), jobs, "training")
    runs = {}
    for variant in tqdm(variants, desc="reading runs", unit="variant", delay=2):
        folders = [run_folder(setting, same[variant.name], seed) for seed in seeds]
        runs[variant.name] = [Run(folder, json.loads((folder / "result.json").read_text())) for folder in folders]
    return runs


def run_folder(setting: Setting, name: str, seed: int) -> Path:
    """Where a run is kept."""
    return setting.folder / "runs" / f"{name}-{seed}"


def _memorized(setting: Setting, seed: int) -> Path:
    return setting.folder / "runs" / f"memorizing-{seed}"


def _in_processes(work, tasks: list[tuple], jobs: int, title: str) -> None:
    """Do `work(*task)` for each task, `jobs` at a time; memory goes back to the system with each."""
    from tqdm import tqdm

    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(jobs, len(tasks)), maxtasksperchild=1) as pool:
        results = pool.imap_unordered(_call, [(work, task) for task in tasks])
        for _ in tqdm(results, total=len(tasks), desc=title, unit="run"):
            pass


def _call(job: tuple) -> None:
    work, task = job
    work(*task)


@contextlib.contextmanager
def _logged(setting: Setting, path: Path):
    """What a run prints goes to a file beside it: several at a time would write across each other."""
    import torch

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if setting.threads:
        torch.set_num_threads(setting.threads)
    with path.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def _memorize(setting: Setting, seed: int) -> None:
    from mera_hf.training.memorization_config import MemorizationTrainerConfig
    from mera_hf.training.memorize import memorize
    from mera_hf.training.output_folder import OutputFolder
    from mera_hf.training.recipe import parse_recipe

    folder = _memorized(setting, seed)
    with _logged(setting, folder.with_suffix(".log")):
        options = ["--seed", str(seed), "--output-dir", str(folder)]
        arguments = parse_recipe(setting.memorizing, options, MemorizationTrainerConfig)
        codes = [row["code"] for row in load_codes(setting.dataset)]
        dataset, report = load_prepared(setting.dataset), read_report(setting.dataset)
        memorize(*arguments, dataset, codes, _output(OutputFolder, folder), report)


def _output(output_folder, folder: Path):
    """The folder of a training, which goes on where an earlier one saved a step."""
    resume = any(folder.glob("checkpoints/checkpoint-*/trainer_state.json"))
    return output_folder(folder, resume=resume, overwrite=folder.exists() and not resume)


def _train(setting: Setting, variant: Variant, seed: int, settings: dict, folder: Path) -> None:
    import time

    import numpy as np
    from transformers import AutoModel, AutoTokenizer

    import mera_hf  # noqa: F401  registers the model
    from mera_hf.evaluation.metrics import KS, evaluate_ranking
    from mera_hf.evaluation.model_ranking import rank_samples
    from mera_hf.evaluation.training_run import train
    from mera_hf.training.output_folder import OutputFolder
    from mera_hf.training.recipe import recipe_name

    partial = folder.with_name(f"{folder.name}.unfinished")
    with _logged(setting, folder.with_suffix(".log")):
        started = time.perf_counter()
        dataset = load_prepared(setting.dataset)
        codes = [row["code"] for row in load_codes(setting.dataset)]
        arguments = arguments_of(setting, variant, seed, str(partial / "model"))
        output = _output(OutputFolder, partial / "model")
        train(*arguments, dataset, codes, output, recipe_name(setting.recipe), read_report(setting.dataset))
        model = AutoModel.from_pretrained(partial / "model").eval()
        tokenizer = AutoTokenizer.from_pretrained(partial / "model")
        result = {
            "variant": variant.name,
            "seed": seed,
            "settings": settings,
            "options": [*setting.overrides, *variant.overrides],
            "seconds": round(time.perf_counter() - started, 1),
        }

        def measured(split: str) -> tuple:
            samples = prediction_samples(dataset[split], model.config.codes, "last")
            if not samples:
                raise InputError(f"the split {split!r} of {setting.dataset} has no patient with two visits.")
            ranking = rank_samples(model, tokenizer, samples, description=split)
            order, sizes = ranking.order.numpy(), ranking.set_sizes.numpy()
            return evaluate_ranking(order, sizes, samples, [k for k in KS if k <= len(codes)]), order, sizes

        result["validation"] = measured("validation")[0]
        result["test"], order, sizes = measured("test")
        model.config.calibration, model.config.eov_value, model.config.rerank_depth = None, 0.5, 0
        model.ranking_head.value_weight.fill_(1.0)
        model.ranking_head.value_threshold.zero_()
        result["test_at_eov"] = measured("test")[0]
        kind = np.uint16 if order.shape[1] < 2**16 else np.uint32
        np.savez_compressed(partial / "test.npz", order=order.astype(kind), set_sizes=sizes)
        write_text(json.dumps(result, indent=2) + "\n", partial / "result.json")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    print(f"{folder.name}: {result['seconds']:,.0f} s", file=sys.stderr)
