"""What README and cards say comes from files that a command wrote."""

import json
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"


@pytest.mark.parametrize("setting", ["profile", "history", "memorized"])
def test_tables_of_the_card_are_those_of_the_reference_run(setting):
    from mera_hf.blocks import markdown_table
    from mera_hf.evaluation.figures import ranker_table
    from mera_hf.evaluation.results import read_metrics

    folder = CARDS / "mera-tiny-diabetes130" / setting
    metrics = read_metrics(folder / "metrics.json")
    assert len(metrics["run"]["seed"]) == 3
    table = markdown_table(ranker_table(metrics))
    assert (folder / "table.md").read_text() == table + "\n"
    assert table in (CARDS / "mera-tiny-diabetes130" / "README.md").read_text()


def test_table_of_the_readme_is_that_of_the_reference_run():
    table = (CARDS / "mera-tiny-diabetes130" / "profile" / "table.md").read_text().strip()
    assert table in (ROOT / "README.md").read_text()


def test_memorizing_is_reported_from_its_file():
    figures = json.loads((CARDS / "mera-tiny-diabetes130" / "memorization.json").read_text())
    card = (CARDS / "mera-tiny-diabetes130" / "README.md").read_text()
    rows = {
        "code_to_definition": "code -> definition",
        "definition_to_code": "definition -> code",
        "code_to_group": "code -> chapter, block, category",
    }
    assert figures.keys() == {f"{task}_{wording}" for task in rows for wording in ("seen", "unseen")}
    for task, title in rows.items():
        seen, unseen = (100 * figures[f"{task}_{wording}"] for wording in ("seen", "unseen"))
        assert f"| {title} | {seen:.1f} | {unseen:.1f} |" in card


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    shown = []
    for block in blocks:
        # A tenth of the patients, to save time
        block = block.replace('output_dir="data/diabetes130")', 'output_dir="data/diabetes130", sample=1600)')
        exec(compile(block, "README.md", "exec"), {})
        shown.append(capsys.readouterr().out)
    assert len(shown) == 2
    assert re.match(r"1 \S+ \d+\.\d% \w+", shown[0]) and len(shown[0].splitlines()) == 5
    assert shown[1].startswith("['ICD9CM:") and "'train_loss'" in shown[1]
    assert re.search(r"^runs/mera 0\.[3-6]\d+$", shown[1], flags=re.M)
