"""A checkpoint, an adapter or a prepared dataset as a repository on the Hub: first the plan, then one commit.

A plan needs no network. It lists every file with its place in the repository, and everything that stays here with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mera_hf
from mera_hf.data.prepared import load_prepared, read_report
from mera_hf.errors import InputError
from mera_hf.evaluation.results import read_metrics
from mera_hf.files import read_json
from mera_hf.hub.connection import check_repo_id, hub_client, plain_words
from mera_hf.hub.guard import (
    ADAPTER_FILES,
    CHECKPOINT_FILES,
    DATASET_FILES,
    EVALUATION_FILES,
    LOGS,
    VISIBILITIES,
    check_no_paths,
    check_rows,
    check_weights,
    is_listed,
    is_local_path,
    reason_to_stay,
    without_paths,
)


# How `trust_remote_code=True` finds the classes in the files beside the weights
AUTO_MAP = {"AutoConfig": "configuration_mera.MeraConfig", "AutoModel": "modeling_mera.MeraForDiagnosis"}
CUSTOM_PIPELINES = {
    "diagnosis-prediction": {
        "impl": "pipeline_mera.DiagnosisPredictionPipeline",
        "pt": ["AutoModel"],
        "type": "text",
    }
}
# A vocabulary may hold anything, but no path of this machine is recorded in it
VOCABULARIES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class Plan:
    """What is published.

    Attributes:
        repo_id (`str`): `org/name`.
        kind (`str`): `"model"`, `"dataset"` or `"space"`.
        visibility (`str`): `"private"`, `"gated"` or `"public"`.
        files (`dict[str, Path | bytes]`): path in the repository to the file here, or to what was written for it.
        left_out (`dict[str, str]`): what stays here, and why.
        notes (`list[str]`): what was changed on the way, in sentences.
        base (`str`, *optional*): the repository of the base that an adapter needs.
    """

    repo_id: str
    kind: str
    visibility: str
    files: Mapping[str, Path | bytes]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    base: str | None = None

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, in the order of their paths."""
        files = sorted(self.files.items())
        return {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files}


def plan_model(
    folder: str | Path,
    repo_id: str,
    visibility: str = "private",
    agreement: str | None = None,
    adapter: bool = False,
    base: str | None = None,
    evaluation: str | Path | None = None,
) -> Plan:
    """Plan a model repository: weights, config, tokenizer, code, logs, card, `metrics.json` and evaluation results.

    Args:
        folder (`str` or `Path`): what `mera train`, `mera memorize` or `mera merge` wrote, or an adapter.
        repo_id (`str`): `org/name`.
        visibility (`str`, defaults to `"private"`): see [`~mera_hf.hub.guard.check_weights`].
        agreement (`str`, *optional*): the agreement that lets the user share weights of credentialed data.
        adapter (`bool`, defaults to `False`): the folder's adapter, without its base, in place of the merged model.
        base (`str`, *optional*): where an adapter's base is on the Hub; defaults to where training found it.
        evaluation (`str` or `Path`, *optional*): what `mera evaluate` wrote; default: the checkpoint's `evaluation`.

    Raises:
        [`InputError`]: if the guard refuses, the checkpoint is incomplete, or a file names a path of this machine.
    """
    from mera_hf.hub.eval_results import eval_results_files
    from mera_hf.hub.model_card import model_card

    check_repo_id(repo_id)
    folder = Path(folder)
    source = folder / "adapter" if adapter else folder
    is_adapter = (source / "adapter_config.json").is_file()
    if adapter and not is_adapter:
        raise InputError(
            f"{str(folder)!r} holds no adapter, which a training with `use_peft` writes; leave out `--adapter`."
        )
    if base and not is_adapter:
        raise InputError("`--base` names the base of an adapter; a whole checkpoint has none.")
    config = _read_config(source, is_adapter)
    provenance = check_weights(config.get("provenance"), visibility, agreement)
    notes = []
    if agreement and not (provenance or {}).get("credentialed"):
        notes.append("`--agreement` is not needed: these weights are not of credentialed data")

    files, left_out = _sort_out(source, ADAPTER_FILES if is_adapter else CHECKPOINT_FILES)
    logs = folder if adapter else source
    files |= {name: logs / name for name in LOGS if (logs / name).is_file()}
    code = {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES}
    written = {"config.json": {**config, "provenance": provenance, **code}}
    if is_adapter:
        settings = read_json(source / "adapter_config.json")
        base = _base_on_the_hub(base or settings.get("base_model_name_or_path"))
        written["adapter_config.json"] = {**settings, "base_model_name_or_path": base}

    if evaluation is None and (folder / "evaluation" / "metrics.json").is_file():
        evaluation = folder / "evaluation"
    metrics = None
    if evaluation is not None:
        metrics = read_metrics(Path(evaluation) / "metrics.json")
        measured, stays = _sort_out(Path(evaluation), EVALUATION_FILES)
        files |= measured
        left_out |= {f"evaluation/{name}": reason for name, reason in stays.items()}
        left_out.pop("evaluation/", None)
        files |= {name: text.encode() for name, text in eval_results_files(metrics, repo_id).items()}
    card = model_card(source, metrics, repo_id)
    files["README.md"] = (_adapter_card(card, base) if is_adapter else card).encode()
    files |= {path.name: path for path in sorted(Path(mera_hf.__file__).parent.glob("*_mera.py"))}
    files |= {name: _as_json(content) for name, content in written.items()}
    return Plan(repo_id, "model", visibility, *_without_paths(files, left_out, notes), base)


def plan_dataset(folder: str | Path, repo_id: str, visibility: str = "private") -> Plan:
    """Plan a dataset repository: what `mera prepare` wrote, from a source that everyone may have.

    Args:
        folder (`str` or `Path`): a prepared folder.
        repo_id (`str`): `org/name`.
        visibility (`str`, defaults to `"private"`): `"private"`, `"gated"` or `"public"`.

    Raises:
        [`InputError`]: for credentialed rows whatever the visibility, or an incomplete folder.
    """
    from mera_hf.hub.dataset_card import dataset_card

    check_repo_id(repo_id)
    folder = Path(folder)
    check_rows(read_report(folder))
    load_prepared(folder)  # whole, and no patient in two splits
    files, left_out = _sort_out(folder, DATASET_FILES)
    files["README.md"] = dataset_card(folder, repo_id).encode()
    return Plan(repo_id, "dataset", visibility, *_without_paths(files, left_out, []))


def plan_space(files: Mapping[str, bytes | str], repo_id: str, visibility: str = "private") -> Plan:
    """Plan a Space of the same name as the model; Spaces cannot be gated, so one for a gated model is private.

    Args:
        files (`Mapping[str, bytes | str]`): its files, by their path.
        repo_id (`str`): `org/name`.
        visibility (`str`, defaults to `"private"`): of the model.
    """
    content = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    notes = []
    if visibility != "public":
        visibility = "private"
        notes.append("the Space needs the secret HF_TOKEN, in its settings, to read the model")
    return Plan(repo_id, "space", visibility, *_without_paths(content, {}, notes))


def upload(plan: Plan, message: str, revision: str | None = None) -> tuple[str, str]:
    """Create the repository if it is not there, and put the files of a plan into it in one commit.

    A second call sends nothing twice, so a broken upload can be repeated. An existing repository keeps its visibility,
    and is refused if it is more open than the plan.

    Args:
        plan (`Plan`): what to publish.
        message (`str`): of the commit.
        revision (`str`, *optional*): a branch, created from `main` if missing; defaults to `main`.

    Returns:
        the address of the repository, and its visibility.

    Raises:
        [`InputError`]: nobody is logged in, no right to write, the name is taken, or the connection breaks.
    """
    from huggingface_hub import CommitOperationAdd

    api = hub_client()
    with plain_words(plan.repo_id):
        api.whoami()  # fail before anything is read or created if nobody is logged in
        if plan.base is not None and not api.repo_exists(plan.base):
            raise InputError(
                f"the base of this adapter, {plan.base!r}, is not on the Hub, or not for you: publish it first, and name "
                "it (`--base`), or publish the merged model."
            )
        visibility = _make_room(api, plan)
        if revision is not None:
            api.create_branch(plan.repo_id, branch=revision, repo_type=plan.kind, exist_ok=True)
        operations = [CommitOperationAdd(name, file) for name, file in sorted(plan.files.items())]
        api.create_commit(plan.repo_id, operations, commit_message=message, repo_type=plan.kind, revision=revision)
    place = "" if plan.kind == "model" else f"{plan.kind}s/"
    return f"{api.endpoint}/{place}{plan.repo_id}" + (f"/tree/{revision}" if revision else ""), visibility


def _make_room(api, plan: Plan) -> str:
    """Make sure the repository exists and is no more open than planned; return its visibility."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        there = api.repo_info(plan.repo_id, repo_type=plan.kind)
    except RepositoryNotFoundError:
        other = {"model": "dataset", "dataset": "model"}.get(plan.kind)
        if other and api.repo_exists(plan.repo_id, repo_type=other):
            raise InputError(f"`--repo` {plan.repo_id!r} is a {other} on the Hub; choose another name.") from None
        sdk = {"space_sdk": "gradio"} if plan.kind == "space" else {}
        api.create_repo(plan.repo_id, repo_type=plan.kind, private=plan.visibility == "private", **sdk)
        if plan.visibility == "gated":  # while it is still empty
            api.update_repo_settings(plan.repo_id, gated="manual", repo_type=plan.kind)
        return plan.visibility
    # A gate with automatic approval keeps nobody out
    gated = getattr(there, "gated", False) == "manual"
    visibility = "private" if there.private else "gated" if gated else "public"
    if VISIBILITIES.index(visibility) > VISIBILITIES.index(plan.visibility):
        raise InputError(
            f"`--repo` {plan.repo_id!r} is {visibility} already, and this is to be {plan.visibility}. Choose another name, "
            f"change the repository's settings on the Hub, or add `--{visibility}`."
        )
    return visibility


def _read_config(folder: Path, is_adapter: bool) -> dict:
    """The config of a complete checkpoint or adapter of MERA."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{str(folder)!r} is neither a checkpoint (it has no config.json) nor a prepared dataset.")
    config = read_json(folder / "config.json")
    if config.get("model_type") != "mera":
        raise InputError(
            f"{str(folder)!r} is a {config.get('model_type')} model and not one of mera, whose data nobody noted; it is not "
            "published from here."
        )
    weights = "adapter_model" if is_adapter else "model"
    index = folder / f"{weights}.safetensors.index.json"
    needed = {f"{weights}.safetensors"}
    if index.is_file():
        needed = set(read_json(index)["weight_map"].values())
    for name in sorted(needed | {"tokenizer_config.json"}):
        if not (folder / name).is_file():
            raise InputError(f"{str(folder)!r} is not whole: it has no {name}.")
    return config


def _base_on_the_hub(base: str | None) -> str:
    if not base or is_local_path(base) or Path(base).exists() or base.count("/") != 1 or base.startswith("."):
        raise InputError(
            "the base of this adapter is a folder on this machine, where nobody else can find it. Publish the base first, "
            "and name it: `--base org/name`; or publish the merged model, without `--adapter`."
        )
    return base


def _adapter_card(text: str, base: str | None) -> str:
    from huggingface_hub import ModelCard

    card = ModelCard(text, ignore_metadata_errors=True)
    card.data["base_model"] = base
    card.data["base_model_relation"] = "adapter"
    return str(card)


def _sort_out(folder: Path, allowed: tuple[str, ...]) -> tuple[dict[str, Path | bytes], dict[str, str]]:
    """The listed files of a folder, and the others with the reason to stay, each subfolder as one entry."""
    files: dict[str, Path | bytes] = {}
    left_out: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if is_listed(name, allowed):
            files[name] = path
        else:
            top, slash, _ = name.partition("/")
            left_out.setdefault(top + slash, reason_to_stay(name))
    return files, left_out


def _without_paths(files: dict, left_out: dict, notes: list[str]) -> tuple[dict, dict, list[str]]:
    """Take paths of this machine out of JSON fields, and refuse any other text file that names one."""
    for name, file in files.items():
        if not name.endswith((".json", ".md", ".yaml", ".jinja")) or name in VOCABULARIES:
            continue
        text = (file if isinstance(file, bytes) else file.read_bytes()).decode()
        if name.endswith(".json"):
            content, removed = without_paths(json.loads(text))
            if removed:
                notes.append(f"{name}: without {', '.join(removed)}, a path of this machine")
                files[name] = _as_json(content)
                text = files[name].decode()
        check_no_paths(text, name)
    return files, left_out, notes


def _as_json(content) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
