"""Results as the Hub reads them, from `metrics.json`: `.eval_results/*.yaml` of a model repository, `model-index` of its card.

`.eval_results` holds results of the benchmark alone; `model-index`, the older form, those on any data. Values are in percent
with two decimals in both, as `eval.yaml` of the benchmark says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mera_hf.evaluation.results import COLUMNS, format_figure, mean_of
from mera_hf.hub.benchmark import NAME, REPO, on_benchmark, tasks


if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PATH = f".eval_results/{NAME}.yaml"
COMPARED = "that of each ranker"  # the history in the protocol of `mera compare`
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


def _percent(value: float | dict) -> float:
    return round(100 * mean_of(value), 2)


def _notes(metrics: Mapping, ranker: str, metric: str, repo_id: str | None, revision: str | None) -> str:
    """What somebody needs to measure the same again."""
    dataset, run, value = metrics["dataset"], metrics["run"], metrics["rankers"][ranker][metric]
    parts = ["percent"]
    interval = metrics.get("intervals", {}).get(ranker, {}).get(metric)
    if isinstance(value, dict):
        parts += [f"{format_figure(metric, value)}, mean and standard deviation of {len(value['values'])} seeds"]
    if interval:
        parts += ["95 % interval over patients {} to {}".format(*map(_percent, interval))]
    compared = metrics["protocol"]["history"] == COMPARED  # its seed is that of the reference rankers
    if not compared:
        seeds = run["seed"] if isinstance(run["seed"], list) else [run["seed"]]
        parts += [f"seed {', '.join(map(str, seeds))}", f"input {metrics['protocol']['history']}"]
    parts += [f"recipe {run['recipe']}"] if run["recipe"] else []
    parts += [f"data fingerprint {dataset['fingerprint']}, sha256 of the test patients {dataset['split_sha256'][:16]}"]
    parts += [f"model revision {revision}"] if revision else []
    command = "mera compare RANKINGS.parquet" if compared else f"mera evaluate {repo_id or 'MODEL'}"
    parts += [f"command: mera prepare diabetes130 --output-dir DIR && {command} --dataset DIR"]
    parts += [", ".join(f"{name} {version}" for name, version in (run["versions"] or {}).items())]
    return "; ".join(parts)
