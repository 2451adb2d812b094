"""The pull request by which results get to a model repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mera_hf.errors import InputError
from mera_hf.hub.benchmark import definition
from mera_hf.hub.eval_results import eval_results_files


@dataclass(frozen=True)
class PullRequest:
    """What was opened: its `url`, and the `base_model` that the model's card declares, if any."""

    url: str
    base_model: str | None


def check_repo_name(repo_id: str) -> None:
    """Raise an [`~mera_hf.errors.InputError`] for what is no `org/name` of the Hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"`{repo_id}` is no name of a repository: {error}") from error
    if "/" not in repo_id:
        raise InputError(f"`{repo_id}` names no owner; write org/{repo_id}.")


def open_pull_request(repo_id: str, metrics: Mapping, ranker: str = "mera") -> PullRequest:
    """Open a pull request that adds the benchmark's results to a model repository.

    Args:
        repo_id (`str`): the model on the Hub.
        metrics (`Mapping`): the content of a `metrics.json` that [`~mera_hf.hub.benchmark.check_benchmark`] accepts.
        ranker (`str`, defaults to `"mera"`): whose figures.

    Raises:
        [`~mera_hf.errors.InputError`]: if there is no such repository, nobody is logged in, or the Hub refuses.
    """
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    api = HfApi(library_name="mera_hf")
    try:
        model = api.model_info(repo_id)
        files = eval_results_files(metrics, repo_id, model.sha, ranker)
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path, text.encode()) for path, text in files.items()],
            commit_message=f"Results on {definition()['name']}",
            commit_description="Measured by `mera evaluate` or `mera compare`; the notes of the file say how to repeat it.",
            create_pr=True,
            parent_commit=model.sha,
        )
    except RepositoryNotFoundError as error:
        raise InputError(
            f"the Hub shows no model `{repo_id}` to you. Check the name; for a private one, `hf auth login` first."
        ) from error
    except OfflineModeIsEnabled as error:
        raise InputError(
            "HF_HUB_OFFLINE is set, so that nothing can be submitted; unset it, or use --dry-run."
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the Hub did not take the pull request on `{repo_id}`: {reason} If nobody is logged in here, run "
            "`hf auth login`. Nothing was submitted."
        ) from error
    declared = model.card_data.get("base_model") if model.card_data else None
    return PullRequest(commit.pr_url, ", ".join(declared) if isinstance(declared, list) else declared)
