"""A recipe: a YAML file whose keys are fields of the trainer, of TRL's model arguments and of [`MeraArguments`]."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError


if TYPE_CHECKING:
    from accelerate import Accelerator


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `mera memorize` and `mera train` share; anything else overrides a field of the recipe."""
    parser.add_argument("--config", metavar="RECIPE", required=True, help="YAML recipe, such as those in recipes/")
    parser.add_argument("--dataset", metavar="DIR", help="folder that `mera prepare` wrote")
    parser.add_argument("--output-dir", metavar="DIR", help="where the checkpoint goes")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved step in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")


def parse_recipe(path: str | Path, overrides: list[str], trainer_config: type) -> tuple:
    """Read a recipe and the fields that override it.

    Args:
        path (`str` or `Path`): the YAML file.
        overrides (`list[str]`): such as `["--learning-rate", "1e-4"]`; hyphens and underscores are both fine.
        trainer_config (`type`): [`MeraTrainerConfig`] or [`MemorizationTrainerConfig`].

    Returns:
        the trainer's config, its `output_dir` `None` where nobody named one, `trl.ModelConfig` and [`MeraArguments`].

    Raises:
        [`InputError`]: for a missing file, broken YAML, an unknown key (with the nearest known one) or a bad value.
    """
    import difflib

    import yaml
    from trl import ModelConfig, TrlParser

    from ..training.arguments import MeraArguments

    class RecipeParser(TrlParser):
        def error(self, message):  # argparse would print hundreds of options
            raise ValueError(message)

    try:
        keys = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`--config` {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(keys, dict):
        raise InputError(f"{path} holds no `key: value` lines.")
    parser = RecipeParser((trainer_config, ModelConfig, MeraArguments), allow_abbrev=False)
    known = {option[2:].replace("-", "_"): action for action in parser._actions for option in action.option_strings}
    named = {override[2:].split("=")[0].replace("-", "_") for override in overrides if override.startswith("--")}
    for key in [*keys, *named]:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            place = f"{path}: unknown field `{key}`" if key in keys else f"unknown option `--{key.replace('_', '-')}`"
            raise InputError(f"{place}{f'; did you mean `{near[0]}`?' if near else '.'}")
        if isinstance(keys.get(key), list) and known[key].nargs != "+":
            raise InputError(f"{path}: `{key}` takes one value, not a list.")
    try:
        *recipe, rest = parser.parse_args_into_dataclasses(
            [*_as_options(keys), *overrides], return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    if rest:
        raise InputError(f"{rest[0]!r} belongs to no option; options look like `--learning-rate 1e-4`.")
    if "output_dir" not in named and keys.get("output_dir") is None:
        recipe[0].output_dir = None  # transformers would write to a folder of its own choice
    if (recipe[1].load_in_4bit or recipe[1].load_in_8bit) and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"{path}: a quantised base needs bitsandbytes: pip install 'mera_hf[quant]'")
    if recipe[0].push_to_hub:
        raise InputError("`push_to_hub` is true, but nothing is uploaded while a model trains; set it to false.")
    return tuple(recipe)


def _as_options(keys: dict) -> list[str]:
    """The keys of a recipe as command-line options, so that their values are checked alike; null is the default."""
    options = []
    for key, value in keys.items():
        if isinstance(value, list):
            options += [f"--{key}", *map(str, value)]
        elif value is not None:
            options.append(f"--{key}={json.dumps(value) if isinstance(value, dict | bool) else value}")
    return options


def recipe_name(path: str | Path) -> str:
    """How figures name a recipe: folder and file, such as `tiny-cpu/train`."""
    path = Path(path)
    return f"{path.parent.name}/{path.stem}"


class Stage:
    """The output folder of a training: checkpoints to resume from while it runs, a finished checkpoint at the end.

    Nothing is written or deleted before [`Stage.open`].

    Args:
        args (`argparse.Namespace`): `output_dir`, `resume`, `overwrite`.
        recipe_output_dir (`str`): what the recipe says.
        inputs (`tuple[str | None, ...]`, *optional*): model and dataset that the training reads.

    Raises:
        [`InputError`]: where no folder is named, it holds something and neither `--overwrite` nor `--resume` was
            given, mera did not write it, it holds one of `inputs`, or there is nothing to resume.
    """

    def __init__(self, args: argparse.Namespace, recipe_output_dir: str | None, inputs: tuple = ()):
        name = args.output_dir or recipe_output_dir
        if not name:
            raise InputError("`--output-dir` is missing: say where the checkpoint goes.")
        if args.resume and args.overwrite:
            raise InputError("`--resume` goes on with what `--overwrite` would delete; give one of them.")
        self.folder = Path(name)
        self.checkpoints = self.folder / "checkpoints"
        self.last, self.replaces = None, False
        if self.folder.is_file():
            raise InputError(f"`--output-dir` {self.folder} is a file; choose a folder.")
        if args.resume:
            # The Trainer writes its state last: a step without it was cut short itself
            saved = [path.parent for path in self.checkpoints.glob("checkpoint-*/trainer_state.json")]
            self.last = str(max(saved, key=lambda path: int(path.name.split("-")[1]))) if saved else None
            if self.last is None:
                raise InputError(f"`--resume`: {self.checkpoints} holds no saved step; start without it.")
        elif any(path.is_file() for path in self.folder.rglob("*")):
            if not args.overwrite:
                hint = ", or `--resume` to go on" if self.checkpoints.is_dir() else ""
                raise InputError(
                    f"`--output-dir` {self.folder} is not empty; choose another folder, or add `--overwrite` to "
                    f"replace it{hint}."
                )
            if not self._is_ours():
                raise InputError(f"`--output-dir` {self.folder} holds no checkpoint of mera; it is not overwritten.")
            for path in inputs:
                if path and Path(path).resolve().is_relative_to(self.folder.resolve()):
                    raise InputError(
                        f"`--output-dir` {self.folder} holds {path}, which this training reads; choose another folder."
                    )
            self.replaces = True

    def _is_ours(self) -> bool:
        names = {path.name for path in self.folder.iterdir()}
        return bool(names & {"memorization.json", "training.json"}) or names <= {"checkpoints", "unfinished"}

    def open(self, accelerator: Accelerator) -> None:
        """Make the folder, without what an earlier training left in it; called once the input is known to be good.

        Every process calls this, and the main one does it, when all of them have looked at the folder.
        """
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            if self.replaces:
                shutil.rmtree(self.folder)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()

    def finish(self, write) -> None:
        """Let `write(folder)` write the checkpoint into a temporary folder, and move it into place file by file.

        The main process alone calls this.
        """
        temporary = self.folder / "unfinished"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        for path in sorted(temporary.iterdir()):
            target = self.folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
        temporary.rmdir()
        if not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()


def open_dataset(folder: str | None):
    """The prepared dataset and its codes.

    Raises:
        [`InputError`]: where no folder is named, or it is not a prepared one.
    """
    from ..data.prepare import load_codes, load_prepared

    if not folder:
        raise InputError("`--dataset` is missing: name a folder that `mera prepare` wrote.")
    return load_prepared(folder), [row["code"] for row in load_codes(folder)]
