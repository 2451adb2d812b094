"""The card of a published dataset folder: what `mera prepare` wrote, and how to load it from the Hub."""

from __future__ import annotations

from pathlib import Path

from mera_hf.errors import InputError


LOADING = """\
## How to load

```python
from datasets import load_dataset

patients = load_dataset("{repo_id}")  # splits train, validation and test: a row for each patient
```

`mera` reads the folder itself: `hf download {repo_id} --repo-type dataset --local-dir DIR`, then `--dataset DIR`.
"""
BENCHMARK = """\
## Benchmark: {name}

{description}

| task | what it is |
| --- | --- |
{tasks}

Rules: rank all codes of `codes.json` for the last visit of each patient of `test`. Fit on `train`, choose on `validation`, \
measure `test` once. The ranker may read what comes before the last visit, and the profile. `splits.yaml` says which patients \
are in which split (sha256 over the sorted identifiers), and `eval.yaml` is this section for the Hub.

```bash
pip install mera_hf
mera prepare diabetes130 --output-dir diabetes130         # the same rows, from the package itself
mera evaluate CHECKPOINT --dataset diabetes130 --output-dir evaluation
mera compare RANKINGS.parquet --dataset diabetes130 --output-dir evaluation    # or any other model, see mera compare --help
mera submit org/model --evaluation evaluation             # a pull request with the results on the model's repository
```

The scorer is that of `mera evaluate` and `mera compare`, which also measure reference rankers on the same patients. Nobody \
runs it a second time: read a result together with the commands in its notes. The Hub's default leaderboard leaves out models \
that declare a `base_model`; untick that filter to see them.
"""
TASKS = {
    "recall-at-20": "Of a patient's true codes, the share among the first 20 of the ranking, averaged over patients",
    "recall-at-10": "The same among the first 10",
    "weighted-f1": "Weighted F1 where each patient's set is as long as the true one",
    "weighted-f1-eov": "Weighted F1 of the set that the ranker itself chose",
    "new-recall-at-20": "The part of recall-at-20 that the patient's history does not hold",
}


def dataset_card(folder: str | Path, repo_id: str) -> str:
    """The `README.md` of a prepared folder for the Hub: the folder's own, with how to load it, and the benchmark if it is one.

    Args:
        folder (`str` or `Path`): a folder that `mera prepare` wrote; one with `eval.yaml` is the benchmark.
        repo_id (`str`): the dataset on the Hub.

    Raises:
        [`~mera_hf.errors.InputError`]: if the folder's card is not the one that was written.
    """
    import yaml

    folder = Path(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    head, found, rest = card.partition("## Terms and privacy\n")
    if not found:
        raise InputError(
            f"{str(folder / 'README.md')!r} has no section 'Terms and privacy'; prepare the data set again."
        )
    # Already extended: start again from the original
    head = head.partition("## How to load\n")[0].partition("## Benchmark")[0]
    parts = [head, LOADING.format(repo_id=repo_id), "\n"]
    if (folder / "eval.yaml").is_file():
        benchmark = yaml.safe_load((folder / "eval.yaml").read_text(encoding="utf-8"))
        rows = "\n".join(f"| `{task['id']}` | {TASKS.get(task['id'], '–')} |" for task in benchmark["tasks"])
        text = BENCHMARK.format(name=benchmark["name"], description=benchmark["description"], tasks=rows)
        parts += [text, "\n"]
    return "".join([*parts, found, rest])
