"""The pull request by which results get to a model repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mera_hf.hub.benchmark import definition
from mera_hf.hub.connection import hub_client, plain_words
from mera_hf.hub.eval_results import eval_results_files


@dataclass(frozen=True)
class PullRequest:
    """What was opened: its `url`, and the `base_model` that the model's card declares, if any."""

    url: str
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
