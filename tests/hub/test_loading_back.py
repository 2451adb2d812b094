"""What is published loads again in a fresh process: a model with and without the package, an adapter, a dataset."""

import json

import pyarrow.parquet as pq
import torch
from publishing_cases import publish
from tiny import patients
from transformers import AutoModel, AutoTokenizer

from mera_hf.hub.eval_results import eval_results_files
from mera_hf.training.merge_adapter import load_adapter


ROWS = patients(5, seed=2)
RANK = """
import json
from transformers import AutoModel, AutoTokenizer

def show(model, tokenizer):
    ranking = model.eval().rank(json.load(open("rows.json")), tokenizer)
    print(json.dumps([ranking.order.tolist(), ranking.logits.tolist(), ranking.set_sizes.tolist()]))
"""
WITHOUT_THE_PACKAGE = """
options = {"trust_remote_code": True, "revision": "main"}
show(*(kind.from_pretrained("clinic/mera", **options) for kind in (AutoModel, AutoTokenizer)))
from transformers import pipeline
predict = pipeline("diagnosis-prediction", model="clinic/mera", **options)
print(json.dumps([row["code"] for row in predict(json.load(open("rows.json"))[0])["ranking"]]))
"""
WITH_THE_PACKAGE = """
from mera_hf.training.merge_adapter import load_adapter, merge_adapter

show(*(kind.from_pretrained("clinic/mera") for kind in (AutoModel, AutoTokenizer)))
tokenizer = AutoTokenizer.from_pretrained("clinic/adapter")
show(load_adapter("clinic/adapter").get_base_model(), tokenizer)
merge_adapter("clinic/adapter", "merged")
show(AutoModel.from_pretrained("merged"), tokenizer)
"""


def assert_ranks_as(printed: str, model, tokenizer) -> None:
    order, logits, sizes = json.loads(printed)
    ranking = model.eval().rank(ROWS, tokenizer)
    assert order == ranking.order.tolist() and sizes == ranking.set_sizes.tolist()
    torch.testing.assert_close(torch.tensor(logits), ranking.logits, rtol=0, atol=1e-5)


def test_models_and_adapters_rank_as_they_did(hub, run, trained, tmp_path):
    lines = (
        "trained/run --repo clinic/mera --public",
        "trained/base --repo clinic/base --public",
        "trained/run --adapter --base clinic/base --repo clinic/adapter",
        "trained/run/adapter --base clinic/base --repo clinic/same",
    )
    printed = publish(run, *lines)
    assert f"published (public): {hub.url}/clinic/mera\n" in printed
    repo = hub.repos["model", "clinic/mera"]
    assert not repo.private and len(repo.commits) == 2, "one commit beside the first one"
    files, metrics = repo.files(), (trained / "run" / "evaluation" / "metrics.json").read_bytes()
    assert files["metrics.json"] == metrics and files["README.md"].startswith(b"---\n")
    ((path, text),) = eval_results_files(json.loads(metrics), "clinic/mera").items()
    assert path.startswith(".eval_results/") and files[path].decode() == text
    assert json.loads(files["training.json"])["log"] == [{"loss": 1.5, "step": 1}]
    assert json.loads(files["config.json"])["provenance"]["source"] == "diabetes130"

    adapter, same = (hub.repos["model", f"clinic/{name}"].files() for name in ("adapter", "same"))
    assert hub.repos["model", "clinic/adapter"].private
    assert json.loads(adapter["adapter_config.json"])["base_model_name_or_path"] == "clinic/base"
    assert "model.safetensors" not in adapter and "base_model: clinic/base" in adapter["README.md"].decode()
    assert {"metrics.json", "training.json"} <= adapter.keys() - same.keys(), "of the training"

    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    tokenizer = AutoTokenizer.from_pretrained(trained / "run")
    model = AutoModel.from_pretrained(trained / "run")
    loaded, piped = run(RANK + WITHOUT_THE_PACKAGE, token=None, blocked=True).splitlines()
    assert_ranks_as(loaded, model, tokenizer)
    order = model.eval().rank(ROWS[:1], tokenizer).order[0].tolist()
    assert json.loads(piped) == [model.config.codes[index] for index in order][: len(json.loads(piped))] != []
    loaded, adapted, merged = run("import mera_hf\n" + RANK + WITH_THE_PACKAGE).splitlines()
    assert_ranks_as(loaded, model, tokenizer)
    assert_ranks_as(adapted, load_adapter(trained / "run" / "adapter").get_base_model(), tokenizer)
    assert_ranks_as(merged, model, tokenizer)


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
