"""What is published loads again, for those who may have it, and an upload that broke goes on."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from loopback import OWNER, STRANGER
from tiny import patients
from transformers import AutoModel, AutoTokenizer

from mera_hf.hub.eval_results import eval_results_files
from mera_hf.training.merge_adapter import load_adapter


ROWS = patients(5, seed=2)
PUBLISH = """
from mera_hf.cli.main import main
for line in {lines}:
    status = main(["publish", *line.split()])
    assert status == {status}, status
"""
RANK = """
import json
def show(model, tokenizer):
    ranking = model.eval().rank(json.load(open("rows.json")), tokenizer)
    print(json.dumps([ranking.order.tolist(), ranking.logits.tolist(), ranking.set_sizes.tolist()]))
"""


def publish(run, *lines: str, status: int = 0, **options) -> str:
    return run(PUBLISH.format(lines=lines, status=status), **options)


@pytest.fixture(autouse=True)
def rows(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))


def assert_ranks_as(printed: str, model, tokenizer) -> None:
    order, logits, sizes = json.loads(printed)
    ranking = model.eval().rank(ROWS, tokenizer)
    assert order == ranking.order.tolist() and sizes == ranking.set_sizes.tolist()
    torch.testing.assert_close(torch.tensor(logits), ranking.logits, rtol=0, atol=1e-5)


def local(folder):
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_model_comes_back_with_and_without_the_package(hub, run, trained):
    printed = publish(run, "trained/run --repo clinic/mera --public")
    assert printed.splitlines()[-1] == f"published (public): {hub.url}/clinic/mera"
    repo = hub.repos["model", "clinic/mera"]
    assert not repo.private and len(repo.commits) == 2, "one commit beside the first one"
    files = repo.files()
    metrics = (trained / "run" / "evaluation" / "metrics.json").read_bytes()
    assert files["metrics.json"] == metrics
    for path, text in eval_results_files(json.loads(metrics), "clinic/mera").items():
        assert files[path].decode() == text
    assert json.loads(files["training.json"])["log"] == [{"loss": 1.5, "step": 1}]
    assert files["README.md"].startswith(b"---\n")
    assert json.loads(files["config.json"])["provenance"]["source"] == "diabetes130"

    load = """
from transformers import AutoModel, AutoTokenizer
show(*(kind.from_pretrained("clinic/mera"{}) for kind in (AutoModel, AutoTokenizer)))
"""
    without = run(RANK + load.format(", trust_remote_code=True, revision='main'"), token=None, blocked=True)
    assert_ranks_as(without, *local(trained / "run"))
    within = run("import mera_hf\n" + RANK + load.format(""), token=None)
    assert_ranks_as(within, *local(trained / "run"))


def test_an_adapter_comes_back_on_its_base(hub, run, trained):
    publish(
        run,
        "trained/base --repo clinic/base --public",
        "trained/run --adapter --base clinic/base --repo clinic/adapter",
        "trained/run/adapter --base clinic/base --repo clinic/same",
    )
    files, same = (hub.repos["model", f"clinic/{name}"].files() for name in ("adapter", "same"))
    assert hub.repos["model", "clinic/adapter"].private and not hub.repos["model", "clinic/base"].private
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "clinic/base"
    assert "model.safetensors" not in files and "base_model: clinic/base" in files["README.md"].decode()
    assert files.keys() - same.keys() == {"metrics.json", "training.json", *eval_results_files({})}, "of the training"
    printed = run(
        RANK
        + """
from transformers import AutoModel, AutoTokenizer
from mera_hf.training.merge_adapter import load_adapter, merge_adapter
tokenizer = AutoTokenizer.from_pretrained("clinic/adapter")
show(load_adapter("clinic/adapter").get_base_model(), tokenizer)
merge_adapter("clinic/adapter", "merged")
show(AutoModel.from_pretrained("merged"), tokenizer)
"""
    ).splitlines()
    tokenizer = AutoTokenizer.from_pretrained(trained / "run")
    assert_ranks_as(printed[0], load_adapter(trained / "run" / "adapter").get_base_model(), tokenizer)
    assert_ranks_as(printed[1], *local(trained / "run"))


def test_a_dataset_comes_back_row_by_row(hub, run, prepared):
    publish(run, "prepared --repo clinic/visits")
    repo = hub.repos["dataset", "clinic/visits"]
    assert repo.private
    assert {"README.md", "LICENSE", "codes.json", "prepare.json", "data/train.parquet"} <= repo.files().keys()
    printed = run(
        """
        import json
        from datasets import load_dataset
        from huggingface_hub import snapshot_download
        for name, rows in load_dataset("clinic/visits").items():
            print(json.dumps([name, rows.to_list()]))
        from mera_hf import load_prepared
        print(json.dumps({name: len(rows) for name, rows in
                          load_prepared(snapshot_download("clinic/visits", repo_type="dataset")).items()}))
        """
    ).splitlines()
    splits = dict(map(json.loads, printed[:-1]))
    counts = json.loads(printed[-1])
    assert counts.keys() == {"train", "validation", "test"} and sum(counts.values()) == 60
    for name, rows in splits.items():
        assert rows == pq.read_table(prepared / "data" / f"{name}.parquet").to_pylist()


def test_private_and_gated_repositories_open_for_those_who_may(hub, run, mimic):
    agreement = "--agreement 'PhysioNet Credentialed Health Data License 1.5.0'"
    code = """
    import shlex
    from mera_hf.cli.main import main
    for line in {}:
        assert main(["publish", *shlex.split(line)]) == 0
    """
    lines = [f"{mimic} --repo clinic/{name} {agreement} {flag}" for name, flag in (("closed", ""), ("gate", "--gated"))]
    printed = run(code.format(lines))
    assert f"published (private): {hub.url}/clinic/closed" in printed
    assert f"published (gated): {hub.url}/clinic/gate" in printed
    assert hub.repos["model", "clinic/closed"].private
    gate = hub.repos["model", "clinic/gate"]
    assert (gate.private, gate.gated) == (False, "manual")
    asked = [request for request in hub.requests if "clinic/gate" in request or request.endswith("/create")]
    assert asked.index("PUT /api/models/clinic/gate/settings") < asked.index("POST /api/models/clinic/gate/commit/main")
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
    model, tokenizer = local(trained / "run")
    model.save_pretrained(trained / "shards", max_shard_size="40KB")
    tokenizer.save_pretrained(trained / "shards")
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
    assert all(there[name] == Path(trained / "shards" / name).read_bytes() for name in shards)
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
    assert printed[0].startswith("2: mera publish: `--repo` 'clinic/open' is public already, and this is to be private.")
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
