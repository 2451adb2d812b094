"""The runs of an experiment: each variant is trained and measured once per seed, and kept for all experiments."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from mera_hf.data.prepared import Prepared, read_report
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import evaluate_ranking, ks_up_to
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.experiments.held_out import HELD_OUT_SHARE, draw_codes, encoder_decoder_like, measure_knowledge
from mera_hf.experiments.variants import RECIPE, Variant
from mera_hf.files import whole_file, write_json
from mera_hf.training.checkpoints import candidate_codes, load_model
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.memorization_trainer import exact_match
from mera_hf.training.memorize import memorize_parsed
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.output_folder import OutputFolder
from mera_hf.training.recipe import parse_recipe, recipe_name
from mera_hf.training.train import train_parsed


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

# Fields of the trainer's arguments that say where things go and what is printed, not what is trained
UNTOLD = ("output_dir", "logging_dir", "run_name", "seed", "report_to", "disable_tqdm", "logging_steps", "project")


@dataclass(frozen=True)
class ExperimentSetting:
    """What all runs of an experiment share.

    Attributes:
        recipe (`str`): path of the training recipe.
        memorizing (`str`, *optional*): path of the memorizing recipe.
        dataset (`str`): folder of the prepared dataset.
        folder (`Path`): where runs are kept, `runs/<variant>-<seed>`.
        overrides (`tuple[str, ...]`): options that change the recipe for all variants.
        threads (`int`, *optional*): threads of each run; torch's default if not given.
    """

    recipe: str
    memorizing: str | None
    dataset: str
    folder: Path
    overrides: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self.folder / "runs"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder (`Path`): its checkpoint is in `model/`.
        result (`dict`): `variant`, `seed`, `settings`, `options`, `seconds`, and the metrics on `validation` and on `test`.
    """

    folder: Path
    result: dict

    def ranking(self) -> tuple[np.ndarray, np.ndarray]:
        """The ranking of the test patients: order (patients, codes) and set sizes (patients,)."""
        with np.load(self.folder / "test.npz") as arrays:
            return arrays["order"].astype(np.int32), arrays["set_sizes"]

    def open(self) -> tuple[MeraForDiagnosis, PreTrainedTokenizerBase]:
        """Its model, on the GPU if there is one, and its tokenizer."""
        return _open(self.folder / "model")

    def kept(self, name: str, measure: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays from `measure()`, computed once and kept beside the run as `<name>.npz`."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            _save_arrays(path, measure())
        with np.load(path) as arrays:
            return dict(arrays)


def arguments_of(
    setting: ExperimentSetting, variant: Variant, seed: int, output_dir: str = "unused"
) -> tuple[Any, Any, Any]:
    """The recipe's arguments for one run, see `parse_recipe`."""
    options = [*setting.overrides, *variant.overrides, "--seed", str(seed), "--output-dir", output_dir]
    if variant.memorized:
        options += ["--model-name-or-path", str(memorizing_folder(setting, seed))]
    return parse_recipe(setting.recipe, options, MeraTrainerConfig)


def fingerprint(setting: ExperimentSetting, variant: Variant) -> dict:
    """What a run depends on, except its seed: a hash of the arguments, of the dataset, and of what it starts from."""
    trainer, *others = (asdict(part) for part in arguments_of(setting, variant, 0))
    told = {key: value for key, value in trainer.items() if key not in UNTOLD}
    for part in others:
        part.pop("dataset", None)
        if variant.memorized:
            part.pop("model_name_or_path", None)
    known = {"arguments": _hash([told, *others]), "dataset": read_report(setting.dataset)["fingerprint"]}
    return known | (_memorizing_fingerprint(setting) if variant.memorized else {})


def _memorizing_fingerprint(setting: ExperimentSetting, *options: str) -> dict:
    trainer, *others = (asdict(part) for part in _memorizing_arguments(setting, "unused", *options))
    return {"memorizing": _hash([{k: v for k, v in trainer.items() if k not in UNTOLD}, *others])}


def _memorizing_arguments(setting: ExperimentSetting, output_dir: str, *options: str) -> tuple:
    assert setting.memorizing is not None  # `finish_runs` has checked this
    return parse_recipe(setting.memorizing, [*options, "--output-dir", output_dir], MemorizationTrainerConfig)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def finish_runs(
    setting: ExperimentSetting, variants: Sequence[Variant], seeds: Sequence[int], jobs: int = 1
) -> dict[str, list[Run]]:
    """Train and measure the missing runs, `jobs` at a time, each in its own process.

    A stopped run starts anew, or resumes if its recipe saves steps. A variant that equals the recipe is not trained a
    second time.

    Returns:
        variant name to its runs, in the order of `seeds`.

    Raises:
        [`~mera_hf.errors.InputError`]: for a variant that starts from a memorized checkpoint if there is no memorizing
            recipe, a run in the folder made with other settings, or a folder with a run's name that is not a run.
    """
    if any(variant.memorized for variant in variants) and setting.memorizing is None:
        raise InputError("this experiment memorizes first; name the recipe of that stage with `--memorize-config`.")
    recipe = fingerprint(setting, Variant(RECIPE, ""))
    known = {variant.name: fingerprint(setting, variant) for variant in variants}
    folders = {
        name: [setting.runs / f"{RECIPE if found == recipe else name}-{seed}" for seed in seeds]
        for name, found in known.items()
    }
    missing: dict[Path, tuple] = {}  # folder of a run -> what to train in it
    for variant in variants:
        for seed, folder in zip(seeds, folders[variant.name], strict=True):
            if not _is_finished(folder / "result.json", known[variant.name]):
                if folder.exists():
                    raise InputError(f"{folder} is no run of an experiment; choose another `--output-dir`.")
                missing.setdefault(folder, (setting, variant, seed, known[variant.name], folder))
    if any(variant.memorized for variant in variants):
        finish_memorizing(setting, seeds, jobs)
    _in_processes(_train, missing, jobs, "training")
    return {
        name: [Run(folder, json.loads((folder / "result.json").read_text())) for folder in of]
        for name, of in folders.items()
    }


def memorizing_start(setting: ExperimentSetting) -> str | None:
    """The checkpoint that the memorizing recipe starts from, if there are both."""
    return None if setting.memorizing is None else _memorizing_arguments(setting, "unused")[1].model_name_or_path


def memorizing_folder(setting: ExperimentSetting, seed: int) -> Path:
    """Where the checkpoint that memorized the codes with this seed is kept."""
    return setting.runs / f"memorizing-{seed}"


def finish_memorizing(
    setting: ExperimentSetting, seeds: Sequence[int], jobs: int = 1
) -> list[dict[str, dict[str, float]]]:
    """Memorize the codes with the missing seeds, and ask every question before and after.

    Returns:
        for each seed `{"before": shares, "after": shares}`, each from [`exact_match`] with `by_level`. Kept in each
        seed's folder as `asked.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: for a checkpoint in the folder that memorized with other settings.
    """
    settings = _memorizing_fingerprint(setting) | {"dataset": read_report(setting.dataset)["fingerprint"]}
    folders = {seed: memorizing_folder(setting, seed) for seed in seeds}
    missing = {
        folder: (setting, seed, settings)
        for seed, folder in folders.items()
        if not _is_finished(folder / "asked.json", settings)
    }
    _in_processes(_memorize, missing, jobs, "memorizing")
    return [json.loads((folder / "asked.json").read_text())["exact_match"] for folder in folders.values()]


def finish_held_out(setting: ExperimentSetting, seeds: Sequence[int], jobs: int = 1) -> dict[str, list[dict]]:
    """Memorize the codes with a share of them held out, with the missing seeds, and ask about all of them.

    The model of the memorizing recipe does so and, if that is a small decoder from scratch, an encoder-decoder of its size.

    Returns:
        name of the model to one `dict` for each seed: `model` (`model_type`, `is_encoder_decoder`, `parameters`), number of
        `codes`, `held_out` (those), and `groups` from [`measure_knowledge`]. Kept in each run's folder as `held_out.json`.

    Raises:
        [`~mera_hf.errors.InputError`]: for a run in the folder that memorized with other settings.
    """
    _, model_args, mera_args = _memorizing_arguments(setting, "unused")
    still = ("--weight-decay", "0")  # it would move rows that nothing trains
    models: dict[str, tuple[str, ...]] = {"held_out": still}
    if model_args.model_name_or_path is None and mera_args.from_scratch is not None:
        other = encoder_decoder_like(mera_args.from_scratch)
        if other is not None:
            models["held_out_t5"] = (*still, "--from_scratch", json.dumps(other))
    dataset = read_report(setting.dataset)["fingerprint"]
    folders, missing = {}, {}
    for name, options in models.items():
        settings = _memorizing_fingerprint(setting, *options) | {"dataset": dataset, "share": HELD_OUT_SHARE}
        folders[name] = [setting.runs / f"{name}-{seed}" for seed in seeds]
        for seed, folder in zip(seeds, folders[name], strict=True):
            if not _is_finished(folder / "held_out.json", settings):
                missing[folder] = (setting, folder, seed, options, settings)
    _in_processes(_hold_out, missing, jobs, "memorizing with codes held out")
    return {
        name: [json.loads((folder / "held_out.json").read_text()) for folder in of] for name, of in folders.items()
    }


def _is_finished(path: Path, settings: dict) -> bool:
    """Whether a finished run is there.

    Raises:
        [`~mera_hf.errors.InputError`]: if it was made with other settings.
    """
    if not path.is_file():
        return False
    found = json.loads(path.read_text())["settings"]
    differing = ", ".join(key for key in settings if found.get(key) != settings[key])
    if differing:
        raise InputError(
            f"{path.parent} was run with another recipe or dataset (it differs in its {differing}); choose another "
            "`--output-dir`, or delete that folder to run it again."
        )
    return True


def _in_processes(work: Callable, tasks: dict[Path, tuple], jobs: int, title: str) -> None:
    """Do `work(*task)` for each folder's task, `jobs` at a time.

    Each has its own process: its memory returns to the system, and we notice if the system kills it.
    """
    for folder in tasks:
        folder.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as threads:
        runs = [threads.submit(_in_process, work, task, folder) for folder, task in tasks.items()]
        try:
            for run in tqdm(as_completed(runs), total=len(runs), desc=title, unit="run", disable=not runs):
                run.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)  # running ones finish, and are kept
            raise


def _in_process(work: Callable, task: tuple, folder: Path) -> None:
    try:
        quiet = (logging.getLogger("bitsandbytes").setLevel, (logging.ERROR,))  # as in `mera_hf.cli.main`
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), *quiet) as process:
            process.submit(work, *task).result()
    except InputError:
        raise
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"the run {folder.name} was ended from outside, perhaps for want of memory (then lower `--jobs`); its log is "
            f"{_log_of(folder)}"
        ) from error
    except Exception as error:
        raise RuntimeError(
            f"the run {folder.name} failed ({type(error).__name__}: {error}); its log is {_log_of(folder)}"
        ) from error


def _log_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


@contextlib.contextmanager
def _logged(setting: ExperimentSetting, path: Path):
    """Send what a run prints to a file beside it: the output of parallel runs would mix on the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if setting.threads:
        torch.set_num_threads(setting.threads)
    with path.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield


def _memorize(setting: ExperimentSetting, seed: int, settings: dict) -> None:
    folder = memorizing_folder(setting, seed)
    with _logged(setting, _log_of(folder)):
        training_args, model_args, mera_args = _memorizing_arguments(setting, str(folder), "--seed", str(seed))
        prepared = Prepared.open(setting.dataset)
        model, tokenizer = load_model(model_args, mera_args, prepared.splits["train"], prepared.codes, seed)
        if not getattr(model, "is_quantized", False):  # a quantised model is already placed
            model.to(_device())  # type: ignore[arg-type]  # transformers wraps it in a decorator without types
        asked = {"before": _ask(model, tokenizer, training_args)}
        if not (folder / "memorization.json").is_file():
            memorize_parsed(training_args, model_args, mera_args, prepared, _output(folder))
        asked["after"] = _ask(*_open(folder), training_args)
        write_json({"settings": settings, "exact_match": asked}, folder / "asked.json")


def _hold_out(setting: ExperimentSetting, folder: Path, seed: int, options: Sequence[str], settings: dict) -> None:
    with _logged(setting, _log_of(folder)):
        training_args, model_args, mera_args = _memorizing_arguments(
            setting, str(folder), *options, "--seed", str(seed)
        )
        prepared = Prepared.open(setting.dataset)
        held_out = draw_codes(candidate_codes(prepared.codes, mera_args.candidates), seed)
        if not (folder / "memorization.json").is_file():
            memorize_parsed(training_args, model_args, mera_args, prepared, _output(folder), held_out)
        model, tokenizer = _open(folder)
        visits, batch_size = prepared.train_visits(model.config.codes), training_args.per_device_eval_batch_size
        result = {
            "settings": settings,
            "model": {
                "model_type": model.config.text_config.model_type,
                "is_encoder_decoder": model.config.is_encoder_decoder,
                "parameters": sum(parameter.numel() for parameter in model.language_model.parameters()),
            },
            "codes": model.config.num_codes,
            "held_out": held_out,
            "groups": measure_knowledge(model, tokenizer, held_out, visits, batch_size),
        }
        write_json(result, folder / "held_out.json")


def _ask(model, tokenizer, training_args) -> dict[str, float]:
    return exact_match(
        model,
        tokenizer,
        model.config.codes,
        training_args.groups,
        training_args.per_device_eval_batch_size,
        by_level=True,
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _open(folder: Path) -> tuple[MeraForDiagnosis, PreTrainedTokenizerBase]:
    return AutoModel.from_pretrained(folder).eval().to(_device()), AutoTokenizer.from_pretrained(folder)


def _output(folder: Path) -> OutputFolder:
    """The output folder of a training, which resumes if an earlier one saved a step."""
    resume = _has_saved_steps(folder)
    return OutputFolder(folder, resume=resume, overwrite=folder.exists() and not resume)


def _has_saved_steps(folder: Path) -> bool:
    return any(folder.glob("checkpoints/checkpoint-*/trainer_state.json"))


def _train(setting: ExperimentSetting, variant: Variant, seed: int, settings: dict, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.unfinished")
    with _logged(setting, _log_of(folder)):
        started = time.perf_counter()
        prepared = Prepared.open(setting.dataset)
        arguments = arguments_of(setting, variant, seed, str(partial / "model"))
        if not _has_saved_steps(partial / "model"):
            shutil.rmtree(partial, ignore_errors=True)
        output = _output(partial / "model")
        recipe = recipe_name(setting.recipe)
        train_parsed(*arguments, prepared, output, recipe)
        model, tokenizer = _open(partial / "model")
        result = {
            "variant": variant.name,
            "seed": seed,
            "settings": settings,
            "options": [*setting.overrides, *variant.overrides],
            "seconds": round(time.perf_counter() - started, 1),
        }

        def measured(split: str) -> tuple:
            samples = prepared.samples(split, codes=model.config.codes)
            ranking = rank_samples(model, tokenizer, samples, description=split)
            order, sizes = ranking.order, ranking.set_sizes
            return evaluate_ranking(order, sizes, samples, ks_up_to(order.shape[1])), order, sizes

        result["validation"], *_ = measured("validation")
        result["test"], order, sizes = measured("test")
        kind = np.uint16 if order.shape[1] < 2**16 else np.uint32
        _save_arrays(partial / "test.npz", {"order": order.astype(kind), "set_sizes": sizes})
        write_json(result, partial / "result.json")
        partial.rename(folder)


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write `path` whole or not at all."""
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)
