"""Model cards: the whole `README.md` of a checkpoint, written from its own files and its `metrics.json`, and of recipes.

No figure is computed here, and none is written into a template: every number of a card's text stands in `metrics.json`,
`training.json`, `memorization.json`, `config.json`, or a recipe, as it is or as percent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mera_hf.blocks import Row, Table, markdown_table
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import format_figure, mean_of, percent, ranker_table, seeds_of, tied, title_of
from mera_hf.evaluation.plots.style import require_package
from mera_hf.evaluation.results import read_metrics
from mera_hf.evaluation.sections import (
    alike,
    calibration,
    coarse,
    controls,
    coverage,
    cuts,
    distance,
    fairness,
    heart_failure,
    severity,
    strata,
)
from mera_hf.files import read_json
from mera_hf.hub.benchmark import NAME, REPO, definition, on_benchmark
from mera_hf.hub.eval_results import model_index_results
from mera_hf.hub.licences import base_licence, licence_of, origin_of
from mera_hf.icd import VERSIONS
from mera_hf.report import overview
from mera_hf.training.training_card import CITATION


TEMPLATES = Path(__file__).parent / "templates"
# Codes that most hospitals know, for an example to paste: diabetes, hypertension, heart failure
EXAMPLES = (
    ("ICD9CM:250.00", "ICD9CM:250", "ICD10CM:E11.9"),
    ("ICD9CM:401.9", "ICD9CM:401", "ICD10CM:I10"),
    ("ICD9CM:428.0", "ICD9CM:428", "ICD10CM:I50.9"),
)
TRAINING_FIELDS = ("recipe", "seed", "seconds", "hardware", "validation", "log", "tracker")  # of `training.json`
OPEN_STRATA = ("training_frequency", "repeated_history")  # the others are folded
QUESTIONS = {
    "code_to_definition": "code -> definition",
    "definition_to_code": "definition -> code",
    "code_to_group": "code -> chapter, block, category",
}


def model_card(
    checkpoint: str | Path, metrics: Mapping | None = None, repo_id: str | None = None, notes: str | Path | None = None
) -> str:
    """The `README.md` of a checkpoint: metadata for the Hub, and what a reader must know before using it.

    Args:
        checkpoint (`str` or `Path`): a folder that `mera train`, `mera memorize` or `mera merge` wrote.
        metrics (`Mapping`, *optional*): the content of its `metrics.json`, of one run or merged over seeds; without it the
            card says that the checkpoint was not evaluated.
        repo_id (`str`, *optional*): its name on the Hub; defaults to the folder's name.
        notes (`str` or `Path`, *optional*): a Markdown file with further sections, put before the limits. In it
            `{{ table("x/metrics.json") }}` is the table of these metrics beside the file, and
            `{{ memorized("memorization.json") }}` that of the exact match, and `{{ says("x/experiment.json") }}` the first
            sentence of what an experiment says.

    Raises:
        [`~mera_hf.errors.InputError`]: if the folder holds no checkpoint of MERA, or the metrics are not those of one.
    """
    checkpoint = Path(checkpoint)
    config = _read(checkpoint / "config.json")
    if config is None or config.get("model_type") != "mera":
        raise InputError(
            f"{str(checkpoint)!r} holds no checkpoint of mera (config.json); give a folder that `mera train` wrote."
        )
    # Older checkpoints lack this
    config = {"conformal": None, "use_profile": True, "use_visit_text": False, "history_text": "code"} | config
    adapter = (checkpoint / "adapter_config.json").is_file()
    logs = checkpoint.parent if adapter else checkpoint  # `mera train` leaves an adapter in a folder of the checkpoint
    training, memorization = _read(logs / "training.json"), _read(logs / "memorization.json")
    shares = memorization or (training or {}).get("memorization")
    memorized_only = training is None and memorization is not None
    if metrics is not None and memorized_only:
        raise InputError(f"{str(checkpoint)!r} was memorized and not trained to rank: `metrics` cannot be its own.")
    if metrics is not None and "mera" not in metrics["rankers"]:
        measured = ", ".join(metrics["rankers"])
        raise InputError(f"`metrics` hold no `rankers.mera`, but {measured}; `mera evaluate` writes them.")
    if metrics is not None and training is not None:
        _check_same_model(training, metrics)
    name = repo_id or checkpoint.resolve().name
    visits = _example_visits(config)
    return _render(
        "memorized_card.md.jinja" if memorized_only else "model_card.md.jinja",
        _metadata(config, metrics, name, memorized_only),
        name=name,
        notes=_render_notes(notes),
        config=config,
        vocabularies=_vocabularies(config),
        base=config.get("base_model"),
        licence=_licence_text(licence_of(config)),
        provenance=config.get("provenance"),
        origin=origin_of(config),
        visits=visits,
        spelled=_as_people_write(visits),
        adapter=adapter,
        training=training and {**dict.fromkeys(TRAINING_FIELDS), **training},
        memorizing=_read(logs / "memorize_run.json"),
        memorized=_memorized_table(shares) if shares else None,
        metrics=metrics,
        results=_results(metrics) if metrics else None,
    )


def recipe_card(recipes: str | Path, repo_id: str) -> str:
    """The `README.md` of a model that users train themselves: from its recipes, without any results.

    Args:
        recipes (`str` or `Path`): a folder with `memorize-*.yaml` and `train-*.yaml` of one base model, and `needs.json`: the
            memory that each way of training needs, such as `{"lora": "about 25 GB on the GPU: one of 40 GB"}`.
        repo_id (`str`): what to call the model.

    Raises:
        [`~mera_hf.errors.InputError`]: if the folder holds no such recipes, or of several base models.
    """
    import yaml

    recipes = Path(recipes)
    files = sorted(recipes.glob("train-*.yaml"))
    stages = []
    for train in files:
        memorize = train.with_name(train.name.replace("train-", "memorize-"))
        if not memorize.is_file():
            raise InputError(f"{str(train)!r} has no {memorize.name} beside it; a card of recipes needs both stages.")
        keys = {file: yaml.safe_load(file.read_text(encoding="utf-8")) for file in (memorize, train)}
        stages.append(
            {
                "how": train.stem.removeprefix("train-"),
                "memorize": keys[memorize],
                "train": keys[train],
            }
        )
    bases = {keys["model_name_or_path"] for stage in stages for keys in (stage["memorize"], stage["train"])}
    if len(bases) != 1:
        raise InputError(
            f"{str(recipes)!r} holds no recipes (memorize-*.yaml, train-*.yaml) of one base model: {sorted(bases)}."
        )
    base = bases.pop()
    rows = [
        Row(
            f"`{stage['how']}`, {title}",
            [
                f"{keys['num_train_epochs']}",
                f"{keys['learning_rate']:f}".rstrip("0"),
                f"{keys['per_device_train_batch_size']} x {keys['gradient_accumulation_steps']}",
                str(keys.get("lora_r", "–")),
                str(keys.get("max_length", "–")),
            ],
        )
        for stage in stages
        for title, keys in (("memorize", stage["memorize"]), ("train", stage["train"]))
    ]
    headings = [
        "recipe, stage",
        "epochs",
        "learning rate",
        "batch x accumulation",
        "LoRA rank",
        "longest history (tokens)",
    ]
    fields = {
        **base_licence(base),
        "base_model": base,
        "tags": ["mera", "recipe", "diagnosis-prediction", "ehr", "medical"],
    }
    return _render(
        "recipe_card.md.jinja",
        _yaml(fields),
        name=repo_id,
        notes=None,
        folder=f"recipes/{recipes.resolve().name}",
        base=base,
        stages=stages,
        needs=read_json(recipes / "needs.json", 'Say in it what each needs: {"lora": "about 25 GB on the GPU"}.'),
        table=Table("", headings, rows),
    )


def _render(template: str, metadata: str, **context) -> str:
    text = (
        _environment()
        .get_template(template)
        .render(
            citation=CITATION,
            limits=overview.LIMITS,
            benchmark={"repo": REPO, "name": definition()["name"]},
            **context,
        )
    )
    return f"---\n{metadata}\n---\n\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment():
    require_package("jinja2")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown
    )
    environment.filters |= {
        "table": markdown_table,
        "figure_of": lambda value, metric: format_figure(metric, value),
        "duration": _duration,
        "hardware": _hardware,
    }
    return environment


def _render_notes(notes: str | Path | None) -> str | None:
    if notes is None:
        return None
    import jinja2

    path = Path(notes)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"`--notes` {str(path)!r} cannot be read ({error.strerror}).") from error
    try:
        template = _environment().from_string(text)
        return template.render(
            table=lambda name: markdown_table(ranker_table(read_metrics(path.parent / name))),
            memorized=lambda name: markdown_table(_memorized_table(read_json(path.parent / name))),
            says=lambda name, sentences=1: _first_sentences(read_json(path.parent / name)["says"], sentences),
        )
    except jinja2.TemplateError as error:
        raise InputError(f"`--notes` {str(path)!r} cannot be filled in: {error}") from error


def _first_sentences(text: str, number: int) -> str:
    return " ".join(re.split(r"(?<=\.) (?=[A-Z])", text)[:number])


def _check_same_model(training: Mapping, metrics: Mapping) -> None:
    """Figures from a training other than the checkpoint's must not get into its card."""
    run, seeds = metrics["run"], seeds_of(metrics)
    if training.get("recipe") and run["recipe"] and training["recipe"] != run["recipe"]:
        raise InputError(
            f"`metrics` are of the recipe {run['recipe']}, and the checkpoint is of {training['recipe']}."
        )
    if "seed" in training and training["seed"] not in seeds:
        measured = ", ".join(map(str, seeds))
        raise InputError(
            f"`metrics` are of the seed {measured}, and the checkpoint is of the seed {training['seed']}."
        )


def _read(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not JSON ({error}).") from error


def _vocabularies(config: Mapping) -> list[str]:
    found = {code.partition(":")[0] for code in config.get("id2label", {}).values()}
    return [version.label for name, version in VERSIONS.items() if name in found]


def _example_visits(config: Mapping) -> list[list[str]]:
    """Two visits of common codes that the model knows."""
    known = list(config.get("id2label", {}).values())
    found = (next((code for code in spellings if code in known), None) for spellings in EXAMPLES)
    chosen = [code for code in found if code] or known[:2]
    return [chosen[:-1], chosen[-1:]] if len(chosen) > 1 else [chosen]


def _as_people_write(visits: Sequence[Sequence[str]]) -> list[list[str]]:
    """Codes without their version, if all have the same one; `mera predict` and the pipeline read them so."""
    if len({code.partition(":")[0] for visit in visits for code in visit}) > 1:
        return [list(visit) for visit in visits]
    return [[code.partition(":")[2] for code in visit] for visit in visits]


def _metadata(config: Mapping, metrics: Mapping | None, name: str, memorized_only: bool) -> str:
    base = config.get("base_model")
    tags = ["mera", "diagnosis-prediction", "ehr", "medical", *(v.lower() for v in _vocabularies(config))]
    fields = {
        **licence_of(config),
        # A folder's name is not a name on the Hub
        **({"base_model": base} if base and "/" in base else {}),
        "tags": [*tags, "memorized"] if memorized_only else tags,
    }
    if memorized_only:
        return _yaml(fields)
    expected = (config.get("provenance") or {}).get("fingerprint")
    if metrics is not None and expected == metrics["dataset"]["fingerprint"] and on_benchmark(metrics):
        fields["datasets"] = [REPO]
    if metrics is not None:
        results = model_index_results(metrics)
        fields |= {"metrics": sorted({result.metric_type for result in results}), "eval_results": results}
        fields["model_name"] = name.rpartition("/")[2]
    return _yaml({"pipeline_tag": "text-classification", **fields})


def _yaml(fields: dict) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(language="en", library_name="mera_hf", **fields).to_yaml(line_break="\n").strip()


def _memorized_table(figures: Mapping) -> Table:
    rows = [
        Row(title, [percent(figures.get(f"{key}_{wording}")) for wording in ("seen", "unseen")])
        for key, title in QUESTIONS.items()
        if f"{key}_seen" in figures
    ]
    return Table("", ["question", "wording of the training", "another wording"], rows)


def _licence_text(fields: Mapping) -> str:
    """A licence in words, with its link."""
    text = fields.get("license_name", fields["license"])
    if text == "unknown":
        return "unknown: do not pass the weights on"
    return f"[{text}]({fields['license_link']})" if "license_link" in fields else text


def _duration(seconds: float) -> str:
    text = f"{seconds:,.0f} seconds"
    return text if seconds < 3600 else f"{text} ({seconds / 3600:,.1f} hours)"


def _hardware(hardware: Mapping) -> str:
    if "accelerators" in hardware:
        return f"{hardware['accelerators']} x {hardware['device']}"
    threads = hardware["threads"]
    return f"a {hardware['device']}, {threads} thread{'s' * (threads > 1)}"


def _results(metrics: Mapping) -> dict:
    """The report's sections, and what a card says in other words."""
    rankers = metrics["rankers"]
    metric = "recall@20" if "recall@20" in rankers["mera"] else "recall@10"
    others = {
        name: mean_of(figures[metric]) for name, figures in rankers.items() if name != "mera" and metric in figures
    }
    strongest = max(others, key=lambda name: others[name]) if others else None
    told = metrics.get("calibration", {})
    main, more = overview.interval_tables(metrics)
    groups = {
        name: (*strata.heading_and_meaning(name), strata.tables(found, list(rankers))[0])
        for name, found in metrics.get("strata", {}).items()
        if strata.has_figures(found)
    }
    return {
        "metric": metric,
        "value": rankers["mera"][metric],
        "interval": metrics.get("intervals", {}).get("mera", {}).get(metric),
        "strongest": None if strongest is None else (title_of(strongest), rankers[strongest][metric]),
        "copied": rankers["copy_history"][metric]
        if "copy_history" in rankers and strongest != "copy_history"
        else None,
        "seeds": seeds_of(metrics),
        "benchmark": NAME if on_benchmark(metrics) else None,
        "table": markdown_table(ranker_table(metrics)),
        "rivals": overview.rivals_sentence(metrics),
        "meanings": overview.meanings(metrics),
        "more": overview.more_measures(metrics),
        "alike": alike.table(metrics),
        "leads": " ".join(alike.sentences(metrics)),
        "cuts": cuts.table(metrics),
        "cut": " ".join(cuts.sentences(metrics)),
        "intervals": [table for table in (main, more) if table],
        "open_strata": [groups[name] for name in groups if name in OPEN_STRATA],
        "folded_strata": [groups[name] for name in groups if name not in OPEN_STRATA],
        "halves": fairness.has_halves(metrics),
        "fairness": fairness.table(metrics),
        "coarse": coarse.table(metrics),
        "distance": distance.table(metrics),
        "heart_failure": heart_failure.table(metrics),
        "controls": controls.table(metrics) if metrics["controls"] else None,
        "control_sentences": [tied(sentence) for sentence in controls.sentences(metrics)],
        "run": overview.run_facts(metrics),
        "calibration": calibration.table(metrics),
        "calibrated": [calibration.of_codes(metrics), calibration.of_sets(metrics)] if told else [],
        "coverage": coverage.table(metrics),
        "severity": severity.table(metrics),
        "missing": told.get("severity", {}).get("missing"),
        "drg": severity.has_drg(metrics),
    }
