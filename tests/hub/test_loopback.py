"""The Hub in memory refuses what the real one refuses, so that a test against it means something."""


def test_repositories_commits_pull_requests_and_downloads(hub, run):
    printed = run(
        """
        import hashlib, os
        from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import get_session

        api = HfApi()
        assert api.whoami()["name"] == "olga"
        assert api.create_repo("clinic/model") == os.environ["HF_ENDPOINT"] + "/clinic/model"
        try:
            api.create_repo("clinic/model")
        except HfHubHTTPError as error:
            print("again:", error.response.status_code)
        api.create_repo("clinic/model", exist_ok=True)

        weights = bytes(range(256)) * 40
        files = {"README.md": b"---\\nlicense: mit\\n---\\n", "a/b/notes.txt": b"small", "model.safetensors": weights}
        adds = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit("clinic/model", adds, commit_message="first")
        folder = snapshot_download("clinic/model", revision=commit.oid)
        for name, content in files.items():
            assert open(f"{folder}/{name}", "rb").read() == content, name
        listed = {file.path: file for file in api.list_repo_tree("clinic/model", recursive=True) if hasattr(file, "size")}
        assert listed["model.safetensors"].lfs.sha256 == hashlib.sha256(weights).hexdigest()
        top = {file.path for file in api.list_repo_tree("clinic/model")}
        assert top == {"a", "README.md", "model.safetensors", ".gitattributes"}, top
        (found,) = api.get_paths_info("clinic/model", "a/b/notes.txt")
        assert found.size == 5
        part = get_session().get(os.environ["HF_ENDPOINT"] + "/clinic/model/resolve/main/model.safetensors",
                                 headers={"Range": "bytes=10-19"})
        assert part.status_code == 206 and part.content == weights[10:20]
        assert part.headers["X-Repo-Commit"] == commit.oid

        # A file as it is makes no commit
        again = api.upload_file(path_or_fileobj=weights, path_in_repo="model.safetensors", repo_id="clinic/model")
        assert again.oid == commit.oid

        pull = api.upload_file(path_or_fileobj=b"- value: 1", path_in_repo=".eval_results/x.yaml", repo_id="clinic/model",
                               create_pr=True, commit_message="Results")
        assert pull.pr_num == 1 and pull.pr_revision == "refs/pr/1", pull
        path = hf_hub_download("clinic/model", ".eval_results/x.yaml", revision="refs/pr/1")
        assert open(path).read() == "- value: 1"
        assert not api.file_exists("clinic/model", ".eval_results/x.yaml")
        (discussion,) = api.get_repo_discussions("clinic/model")
        assert discussion.is_pull_request and discussion.title == "Results"
        refs = api.list_repo_refs("clinic/model", include_pull_requests=True)
        assert [ref.name for ref in refs.branches] == ["main"] and len(refs.pull_requests) == 1
        api.create_branch("clinic/model", branch="v2")
        api.upload_file(path_or_fileobj=b"x", path_in_repo="only-v2.txt", repo_id="clinic/model", revision="v2")
        assert api.file_exists("clinic/model", "only-v2.txt", revision="v2")
        assert not api.file_exists("clinic/model", "only-v2.txt")
        print("done")
        """
    )
    assert printed.splitlines() == ["again: 409", "done"]
    assert [fault for _, fault in hub.puts] == [None], "the weights were sent once"


def test_who_may_read_and_write(hub, run):
    printed = run(
        """
        from huggingface_hub import HfApi, hf_hub_url
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        def outcome(call, *arguments, **options):
            try:
                call(*arguments, **options)
                return "yes"
            except (GatedRepoError, RepositoryNotFoundError, HfHubHTTPError) as error:
                return f"{type(error).__name__} {error.response.status_code}"

        owner, stranger, nobody = HfApi(token="hf_owner"), HfApi(token="hf_stranger"), HfApi(token=False)
        owner.create_repo("clinic/private", private=True)
        owner.create_repo("clinic/gated")
        owner.update_repo_settings("clinic/gated", gated="manual")
        for name in ("private", "gated"):
            owner.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=f"clinic/{name}")
            for title, api in (("owner", owner), ("stranger", stranger), ("nobody", nobody)):
                see = outcome(api.model_info, f"clinic/{name}")
                read = outcome(api.get_hf_file_metadata, url=hf_hub_url(f"clinic/{name}", "x.txt"))
                write = outcome(api.upload_file, path_or_fileobj=b"y", path_in_repo="y.txt", repo_id=f"clinic/{name}")
                print(name, title, see, read, write, sep=", ")
        print(outcome(stranger.create_repo, "clinic/mine"), outcome(nobody.create_repo, "clinic/mine"))
        flags = owner.model_info("clinic/gated"), owner.model_info("clinic/private")
        print([(info.private, info.gated) for info in flags])
        """,
        token=None,
    )
    assert printed.splitlines() == [
        "private, owner, yes, yes, yes",
        "private, stranger, RepositoryNotFoundError 404, RepositoryNotFoundError 404, RepositoryNotFoundError 404",
        "private, nobody, RepositoryNotFoundError 401, RepositoryNotFoundError 401, RepositoryNotFoundError 401",
        "gated, owner, yes, yes, yes",
        "gated, stranger, yes, GatedRepoError 403, HfHubHTTPError 403",
        "gated, nobody, yes, GatedRepoError 401, HfHubHTTPError 401",
        "HfHubHTTPError 403 HfHubHTTPError 401",
        "[(False, 'manual'), (True, False)]",
    ]


def test_what_does_not_arrive_whole_is_refused(hub, run):
    """Wrong content under a hash, and a commit that names content which is not there."""
    run(
        """
        import os
        from huggingface_hub import HfApi
        from huggingface_hub.utils import get_session

        HfApi().create_repo("clinic/model")
        put = get_session().put(os.environ["HF_ENDPOINT"] + "/lfs-store/" + "0" * 64, content=b"other")
        assert put.status_code == 400
        line = '{"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": "%s", "size": 5}}' % ("0" * 64)
        url = os.environ["HF_ENDPOINT"] + "/api/models/clinic/model/commit/main"
        commit = get_session().post(url, content=line, headers={"Authorization": "Bearer hf_owner"})
        assert commit.status_code == 400
        """
    )
    assert list(hub.repos["model", "clinic/model"].files()) == [".gitattributes"] and not hub.store
