"""Results as the Hub reads them, from `metrics.json`: `.eval_results/*.yaml` of a model repository, the pull request that
adds them, and `model-index` of a model card.

`.eval_results` holds only benchmark results; `model-index`, the older form, holds those on any data. Values are in
percent with two decimals in both, as `eval.yaml` of the benchmark says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mera_hf.evaluation.figures import COLUMNS, Value, format_figure, mean_of, seeds_of
from mera_hf.evaluation.rankings.setting import EACH_OWN
from mera_hf.hub.benchmark import NAME, REPO, definition, on_benchmark, tasks
from mera_hf.hub.connection import hub_client, plain_words


if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PATH = f".eval_results/{NAME}.yaml"
# As https://huggingface.co/metrics names them
HUB_METRICS = {"recall": "recall", "weighted_f1": "f1", "weighted_f1_eov": "f1", "new_recall": "recall"}


def eval_results_files(
    metrics: Mapping, repo_id: str | None = None, revision: str | None = None, ranker: str = "mera"
) -> dict[str, str]:
    """The results that the benchmark's leaderboard reads.

    Args:
        metrics (`Mapping`): the content of a `metrics.json`, of one run or merged over seeds.
        repo_id (`str`, *optional*): the model on the Hub.
        revision (`str`, *optional*): the commit of the model that was measured.
        ranker (`str`, defaults to `"mera"`): whose figures.

    Returns:
        `dict[str, str]`: path in the model repository to YAML text; empty for figures on other data, which
        [`~mera_hf.hub.benchmark.check_benchmark`] would refuse.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    if not on_benchmark(metrics, ranker):
        return {}
    figures = metrics["rankers"][ranker]
    entries = [
        EvalResultEntry(
            REPO, task, _percent(figures[metric]), notes=_notes(metrics, ranker, metric, repo_id, revision)
        )
        for task, metric in tasks().items()
    ]
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=120)
    return {PATH: text}


@dataclass(frozen=True)
class PullRequest:
    """What was opened: its `url`, and the `base_model` that the model's card declares, if any."""

    url: str | None
    base_model: str | None


def open_pull_request(repo_id: str, metrics: Mapping, ranker: str = "mera") -> PullRequest:
    """Open a pull request that adds the benchmark's results to a model repository.

    Args:
        repo_id (`str`): the model on the Hub.
        metrics (`Mapping`): the content of a `metrics.json` that [`~mera_hf.hub.benchmark.check_benchmark`] accepts.
        ranker (`str`, defaults to `"mera"`): whose figures.

    Raises:
        [`~mera_hf.errors.InputError`]: if there is no such repository, nobody is logged in, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd

    api = hub_client()
    with plain_words(repo_id):
        model = api.model_info(repo_id)
        files = eval_results_files(metrics, repo_id, model.sha, ranker)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path, text.encode()) for path, text in files.items()],
            commit_message=f"Results on {definition()['name']}",
            commit_description="Measured by mera_hf; the notes in the file say how to repeat it.",
            create_pr=True,
            parent_commit=model.sha,
        )
    declared = model.card_data.get("base_model") if model.card_data else None
    return PullRequest(commit.pr_url, ", ".join(declared) if isinstance(declared, list) else declared)


def model_index_results(metrics: Mapping, ranker: str = "mera") -> list[EvalResult]:
    """What `model-index` of a model card lists: the benchmark's metrics, on whatever data they were measured.

    Args:
        metrics (`Mapping`): the content of a `metrics.json`.
        ranker (`str`, defaults to `"mera"`): whose figures.
    """
    from huggingface_hub import EvalResult

    dataset, figures = metrics["dataset"], metrics["rankers"][ranker]
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Next-visit diagnosis prediction",
            dataset_type=REPO if on_benchmark(metrics, ranker) else dataset["name"],
            dataset_name=dataset["name"],
            dataset_split=dataset["split"],
            dataset_args={"fingerprint": dataset["fingerprint"]},
            metric_type=HUB_METRICS[metric.partition("@")[0]],
            metric_name=f"{COLUMNS[metric]}, percent",
            metric_value=_percent(figures[metric]),
        )
        for metric in tasks().values()
        if metric in figures
    ]


def _percent(value: Value) -> float:
    return round(100 * mean_of(value), 2)


def _notes(metrics: Mapping, ranker: str, metric: str, repo_id: str | None, revision: str | None) -> str:
    """What is needed to repeat the measurement."""
    dataset, run = metrics["dataset"], metrics["run"]
    value: Value = metrics["rankers"][ranker][metric]
    parts = ["percent"]
    interval = metrics.get("intervals", {}).get(ranker, {}).get(metric)
    if isinstance(value, dict):
        parts += [f"{format_figure(metric, value)}, mean and standard deviation of {len(value['values'])} seeds"]
    if interval:
        parts += ["95 % interval over patients {} to {}".format(*map(_percent, interval))]
    compared = metrics["protocol"]["history"] == EACH_OWN  # its seed is that of the reference rankers
    if not compared:
        parts += [f"seed {', '.join(map(str, seeds_of(metrics)))}", f"input {metrics['protocol']['history']}"]
    parts += [f"recipe {run['recipe']}"] if run["recipe"] else []
    parts += [f"data fingerprint {dataset['fingerprint']}, sha256 of the test patients {dataset['split_sha256'][:16]}"]
    parts += [f"model revision {revision}"] if revision else []
    command = "mera compare RANKINGS.parquet" if compared else f"mera evaluate {repo_id or 'MODEL'}"
    parts += [f"command: mera prepare diabetes130 --output-dir DIR && {command} --dataset DIR"]
    parts += [", ".join(f"{name} {version}" for name, version in (run["versions"] or {}).items())]
    return "; ".join(parts)
