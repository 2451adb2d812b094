"""Who sees what is published, what goes wrong on the way, and that an upload which broke goes on."""

from loopback import OWNER, STRANGER
from publishing_cases import publish
from transformers import AutoModel, AutoTokenizer


def test_private_and_gated_repositories_open_for_those_who_may(hub, run, mimic):
    command = "trained/run --agreement 'PhysioNet Credentialed Health Data License 1.5.0' --repo clinic/"
    printed = publish(run, f"{command}closed", f"{command}gate --gated")
    assert f"published (private): {hub.url}/clinic/closed" in printed
    assert f"published (gated): {hub.url}/clinic/gate" in printed
    assert hub.repos["model", "clinic/closed"].private
    gate = hub.repos["model", "clinic/gate"]
    assert (gate.private, gate.gated) == (False, "manual")
    asked = [request for request in hub.requests if "clinic/gate" in request or request.endswith("/create")]
    assert asked.index("PUT /api/models/clinic/gate/settings") < asked.index(
        "POST /api/models/clinic/gate/commit/main"
    )
    gate.readers.add("stan")
    printed = run(
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
        for token in ("hf_owner", "hf_stranger", False):
            for name in ("closed", "gate"):
                try:
                    HfApi(token=token).hf_hub_download(f"clinic/{name}", "metrics.json", local_dir=f"{token}-{name}")
                    print(token, name, "reads")
                except HfHubHTTPError as error:
                    print(token, name, type(error).__name__)
        """
    )
    assert printed.splitlines() == [
        f"{OWNER} closed reads",
        f"{OWNER} gate reads",
        f"{STRANGER} closed RepositoryNotFoundError",
        f"{STRANGER} gate reads",
        "False closed RepositoryNotFoundError",
        "False gate GatedRepoError",
    ]


def test_a_hiccup_is_retried_and_a_broken_upload_goes_on(hub, run, trained):
    """A store that is busy and a connection that breaks are tried again at once; what is there is not sent again."""
    AutoModel.from_pretrained(trained / "run").save_pretrained(trained / "shards", max_shard_size="40KB")
    AutoTokenizer.from_pretrained(trained / "run").save_pretrained(trained / "shards")
    shards = sorted(path.name for path in (trained / "shards").glob("*.safetensors"))
    assert len(shards) >= 3
    hub.faults += [503, "drop"]
    publish(run, "trained/base --repo clinic/base --public")
    assert [fault for _, fault in hub.puts] == [503, "drop", None]

    # Refused for good after some files have arrived: nothing is in the repository, and a second run sends the rest
    hub.puts.clear()
    hub.faults += [None, 400] + [400] * len(shards)
    command = "trained/shards --repo clinic/shards --evaluation trained/run/evaluation"
    told = publish(run, command, status=2)
    assert "published" not in told
    assert set(hub.repos["model", "clinic/shards"].files()) == {".gitattributes"}
    arrived = [oid for oid, fault in hub.puts if fault is None]
    assert len(arrived) == 1
    hub.puts.clear()
    hub.faults.clear()
    publish(run, command)
    assert len(hub.puts) == len(shards) - 1 and arrived[0] not in [oid for oid, _ in hub.puts]
    there = hub.repos["model", "clinic/shards"].files()
    assert all(there[name] == (trained / "shards" / name).read_bytes() for name in shards)
    # And once more, with nothing to do
    hub.puts.clear()
    before = len(hub.repos["model", "clinic/shards"].commits)
    publish(run, command)
    assert not hub.puts and len(hub.repos["model", "clinic/shards"].commits) == before


def test_branches_and_repositories_that_are_there(hub, run, trained, prepared):
    printed = run(
        """
        import contextlib, io
        from huggingface_hub import HfApi
        from mera_hf.cli.main import main

        def publish(line):
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                print(main(["publish", *line.split()]), said.getvalue().strip(), sep=": ", file=out)

        import sys
        out = sys.stdout
        api = HfApi()
        api.create_repo("clinic/open")
        publish("trained/base --repo clinic/open")
        api.create_repo("clinic/auto")
        api.update_repo_settings("clinic/auto", gated="auto")
        publish("trained/base --repo clinic/auto --gated")
        api.create_repo("clinic/closed", private=True)
        publish("trained/base --repo clinic/closed --public")
        publish("trained/run --repo clinic/closed --public --revision v2 --message second")
        publish("prepared --repo clinic/closed")
        publish("trained/run --adapter --base clinic/nowhere --repo clinic/adapter")
        """
    ).splitlines()
    assert printed[0].startswith(
        "2: mera publish: `--repo` 'clinic/open' is public already, and this is to be private."
    )
    assert printed[1].startswith("2: mera publish: `--repo` 'clinic/auto' is public already, and this is to be gated.")
    assert printed[2] == printed[3] == "0: "
    assert printed[4] == "2: mera publish: `--repo` 'clinic/closed' is a model on the Hub; choose another name."
    assert "'clinic/nowhere', is not on the Hub" in printed[5]
    closed = hub.repos["model", "clinic/closed"]
    assert closed.private, "publishing does not open what the owner had closed"
    assert closed.commits[closed.find("v2")]["title"] == "second" and "metrics.json" in closed.files("v2")
    assert "metrics.json" not in closed.files()
    assert ("model", "clinic/adapter") not in hub.repos and list(hub.repos["model", "clinic/open"].files()) == [
        ".gitattributes"
    ]


def test_what_goes_wrong_is_one_line_with_the_fix(hub, run, trained):
    code = """
    from mera_hf.cli.main import main
    raise SystemExit(main(["publish", "trained/base", "--repo", "clinic/mera"]))
    """
    for options, words in (
        ({"token": None}, "nobody is logged in at http://127.0.0.1"),
        ({"token": "hf_wrong"}, "is not valid; log in with `hf auth login`"),
        ({"token": STRANGER}, "you may not write to clinic/mera: use a token with that right"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "the connection to http://127.0.0.1:1 failed"),
    ):
        told = run(code, fails=True, **options)
        lines = [line for line in told.splitlines() if line.startswith("mera publish: ")]
        assert len(lines) == 1 and words in lines[0], told
        assert "Traceback" not in told
    assert not hub.repos
