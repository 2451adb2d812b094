"""`mera submit`: what goes to the Hub, and what is refused before anything does."""

import json
from types import SimpleNamespace

import httpx2
import pytest
import yaml
from cli.command import mera
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from loopback import STRANGER
from test_eval_results import PATH, benchmark_metrics

from mera_hf.evaluation.results import write_metrics


@pytest.fixture
def evaluation(tmp_path):
    write_metrics(benchmark_metrics(), tmp_path / "metrics.json")
    return tmp_path


@pytest.fixture
def known(monkeypatch):
    """A Hub that knows org/model and remembers commits; `fails` is what it answers in place of a commit."""
    state = SimpleNamespace(commits=[], base_model=None, fails=None)

    def response(status):
        return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.test/api"))

    def model_info(self, repo_id):
        if repo_id != "org/model":
            raise RepositoryNotFoundError("404 Client Error.", response=response(404))
        card = {"base_model": state.base_model} if state.base_model else {}
        return SimpleNamespace(sha="c0ffee", card_data=card)

    def create_commit(self, repo_id, operations, **kwargs):
        if state.fails:
            raise state.fails(response(403))
        state.commits.append((repo_id, {op.path_in_repo: op.path_or_fileobj for op in operations}, kwargs))
        return SimpleNamespace(pr_url="https://hub.test/org/model/discussions/1")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return state


def test_a_pull_request_adds_one_file(evaluation, known):
    run = mera("submit", "org/model", "--evaluation", evaluation)
    assert run.status == 0 and "pull request https://hub.test/org/model/discussions/1" in run.out
    ((repo_id, files, kwargs),) = known.commits
    assert repo_id == "org/model" and list(files) == [PATH]
    assert kwargs["create_pr"] is True and kwargs["parent_commit"] == "c0ffee"
    results = yaml.safe_load(files[PATH])
    assert [entry["dataset"]["task_id"] for entry in results][0] == "recall-at-20" and len(results) == 5
    assert all("model revision c0ffee" in entry["notes"] for entry in results)
    assert "base model" not in run.out


def test_a_declared_base_model_is_kept_and_spoken_of(evaluation, known):
    known.base_model = ["BioMistral/BioMistral-7B"]
    run = mera("submit", "org/model", "--evaluation", evaluation)
    assert "declares the base model BioMistral/BioMistral-7B: the Hub's default leaderboard leaves it out" in run.out


def test_a_dry_run_sends_nothing(evaluation, known):
    run = mera("submit", "org/model", "--evaluation", evaluation, "--dry-run")
    assert run.status == 0 and known.commits == [] and "nothing was sent" in run.out
    assert PATH in run.out and "task_id: recall-at-20" in run.out


def test_other_patients_are_refused_before_the_hub_is_asked(evaluation, known):
    write_metrics(benchmark_metrics(fingerprint="0123456789abcdef"), evaluation / "metrics.json")
    run = mera("submit", "org/model", "--evaluation", evaluation)
    assert run.status == 2 and run.out == "" and known.commits == []
    assert "`dataset.fingerprint` is '0123456789abcdef'" in run.err and "mera prepare diabetes130" in run.err


def test_a_ranker_is_named_where_there_are_several(evaluation, known):
    metrics = benchmark_metrics()
    metrics["rankers"]["retain"] = dict(metrics["rankers"]["gru"])
    write_metrics(metrics, evaluation / "metrics.json")
    assert "--ranker NAME" in mera("submit", "org/model", "--evaluation", evaluation).err
    assert mera("submit", "org/model", "--evaluation", evaluation, "--ranker", "retain").status == 0
    ((_, files, _),) = known.commits
    assert yaml.safe_load(files[PATH])[0]["value"] == round(100 * metrics["rankers"]["gru"]["recall@20"], 2)
    assert (
        "`tgn` is not measured here" in mera("submit", "org/model", "--evaluation", evaluation, "--ranker", "tgn").err
    )


@pytest.mark.parametrize(
    "repo, says",
    [
        ("org/other", "there is no org/other at"),
        ("model", "'model' has no owner; write it as org/name"),
        ("org/mo del", "is no name of a repository"),
    ],
)
def test_a_repository_that_is_none(evaluation, known, repo, says):
    run = mera("submit", repo, "--evaluation", evaluation)
    assert run.status == 2 and says in run.err and known.commits == []


def test_what_the_hub_refuses_is_one_message(evaluation, known):
    known.fails = lambda response: HfHubHTTPError("403 Forbidden: no token.", response=response)
    run = mera("submit", "org/model", "--evaluation", evaluation)
    assert run.status == 2 and len(run.err.splitlines()) == 1
    assert "you may not write to org/model: use a token with that right" in run.err


def test_offline_and_without_an_evaluation(evaluation, tmp_path):
    run = mera("submit", "org/model", "--evaluation", tmp_path / "nowhere")
    assert run.status == 2 and "metrics.json: cannot be read" in run.err
    run = mera("submit", "org/model", "--evaluation", evaluation)  # tests set HF_HUB_OFFLINE
    assert run.status == 2 and "HF_HUB_OFFLINE is set" in run.err
    assert json.loads((evaluation / "metrics.json").read_text()) == benchmark_metrics()


def test_a_stranger_submits_to_a_real_client(evaluation, hub, run):
    """Through the real client: somebody without rights on the repository opens a pull request, and main stays as it was."""
    printed = run(
        f"""
        from huggingface_hub import HfApi, hf_hub_download
        from mera_hf.cli.main import main

        HfApi(token="hf_owner").create_repo("clinic/model")
        assert main(["submit", "clinic/model", "--evaluation", {str(evaluation)!r}]) == 0
        print(open(hf_hub_download("clinic/model", "{PATH}", revision="refs/pr/1")).read())
        """,
        token=STRANGER,
    )
    head, _, text = printed.partition("\n")
    assert head.startswith("diabetes130-next-visit: pull request ") and head.endswith("/clinic/model/discussions/1")
    repo = hub.repos["model", "clinic/model"]
    assert PATH not in repo.files() and repo.pulls[0]["author"] == "stan"
    metrics = benchmark_metrics()
    assert yaml.safe_load(text)[0]["value"] == round(100 * metrics["rankers"]["mera"]["recall@20"], 2)
    assert f"model revision {repo.refs['refs/heads/main']}" in text
