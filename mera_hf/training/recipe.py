"""A recipe: a YAML file whose keys are fields of the trainer, of TRL's model arguments and of [`MeraArguments`]."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mera_hf.errors import InputError
from mera_hf.shipped import find_checkpoint


RECIPES = Path(__file__).parent / "recipes"  # the recipes that come with this package


def parse_recipe(
    path: str | Path, overrides: Sequence[str], trainer_config: type, fields: dict | None = None
) -> tuple:
    """Read a recipe and the fields that override it.

    Args:
        path (`str` or `Path`): the YAML file, or the name of a recipe that comes with this package, such as `demo/train`.
        overrides (`Sequence[str]`): such as `["--learning-rate", "1e-4"]`; hyphens and underscores are both fine.
        trainer_config (`type`): [`MeraTrainerConfig`] or [`MemorizationTrainerConfig`].
        fields (`dict`, *optional*): such as `{"learning_rate": 1e-4}`; the value `None` means the field's default.

    Returns:
        the trainer's config, with `output_dir` `None` if none was named, `trl.ModelConfig` and [`MeraArguments`].

    Raises:
        [`InputError`]: for a missing file, broken YAML, an unknown key (with the nearest known one), a bad value, or a
            tracker or quantisation whose package is not installed.
    """
    import difflib

    import yaml
    from transformers.integrations import get_reporting_integration_callbacks
    from trl import ModelConfig, TrlParser

    from mera_hf.training.arguments import MeraArguments

    class RecipeParser(TrlParser):
        def error(self, message):  # argparse would print hundreds of options
            raise ValueError(message)

    if (RECIPES / f"{path}.yaml").is_file() and not Path(path).is_file():
        path = RECIPES / f"{path}.yaml"
    try:
        keys = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"`--config` {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(keys, dict):
        raise InputError(f"{path} holds no `key: value` lines.")
    classes: Any = (trainer_config, ModelConfig, MeraArguments)
    parser = RecipeParser(classes, allow_abbrev=False)
    known = {option[2:].replace("-", "_"): action for action in parser._actions for option in action.option_strings}
    named = {override[2:].split("=")[0].replace("-", "_") for override in overrides if override.startswith("--")}
    fields = fields or {}
    for key in [*keys, *fields, *named]:
        place = f"{path}: " if key in keys and key not in fields else ""
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            what = f"field `{key}`" if key in keys or key in fields else f"option `--{key.replace('_', '-')}`"
            raise InputError(f"{place}unknown {what}{f'; did you mean `{near[0]}`?' if near else '.'}")
        if isinstance((keys | fields).get(key), list | tuple) and known[key].nargs != "+":
            raise InputError(f"{place}`{key}` takes one value, not a list.")
    try:
        *recipe, rest = parser.parse_args_into_dataclasses(
            [*_as_options(keys | fields), *overrides], return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    if rest:
        raise InputError(f"{rest[0]!r} belongs to no option; options look like `--learning-rate 1e-4`.")
    if "output_dir" not in named and keys.get("output_dir") is None:
        recipe[0].output_dir = None  # otherwise transformers would write to a folder of its choice
    if recipe[1].model_name_or_path is not None:
        recipe[1].model_name_or_path = find_checkpoint(recipe[1].model_name_or_path)
    if (recipe[1].load_in_4bit or recipe[1].load_in_8bit) and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"{path}: a quantised base needs bitsandbytes: pip install 'mera_hf[quant]'")
    try:
        for tracker in get_reporting_integration_callbacks(recipe[0].report_to):
            tracker()  # raises if its package is not installed
    except (ValueError, RuntimeError) as error:
        raise InputError(f"`report_to` is {', '.join(recipe[0].report_to)}: {error}") from error
    if recipe[0].push_to_hub:
        raise InputError("`push_to_hub` is true, but nothing is uploaded while a model trains; set it to false.")
    return tuple(recipe)


def _as_options(keys: dict) -> list[str]:
    """Fields as command-line options, so that their values are checked the same way; null means the default."""
    options = []
    for key, value in keys.items():
        if isinstance(value, list | tuple):
            options += [f"--{key}", *map(str, value)]
        elif value is not None:
            options.append(f"--{key}={json.dumps(value) if isinstance(value, dict | bool) else value}")
    return options


def recipe_name(path: str | Path) -> str:
    """How figures name a recipe: folder and file, such as `tiny-cpu/train`."""
    path = Path(path)
    return f"{path.parent.name}/{path.stem}"
