"""Model cards: every number is that of a file, the metadata is what the Hub reads, and nothing else is claimed."""

import json
import re
from pathlib import Path

import pytest
import yaml
from card_numbers import known, numbers_in, prose
from cases_of_cards import CODES, MEMORIZATION, OPEN, TRAINING, write_checkpoint
from full_metrics import full_metrics
from huggingface_hub import ModelCard
from ranking_cases import metrics_dict

from mera_hf.data.sources.diabetes130 import ORIGIN
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import METRICS
from mera_hf.evaluation.results import merge_metrics, write_metrics
from mera_hf.hub.model_card import model_card, recipe_card


ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
CARDS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/README.md"))
# The licences that a card of ours may name, as the Hub spells them
LICENCES = {"apache-2.0", "llama2", "other", "unknown"}


def parsed(text):
    """The metadata as huggingface_hub reads it; what it does not understand would raise."""
    return ModelCard(text, ignore_metadata_errors=False).data


def few():
    """Metrics of a few rankers, and of the training that the checkpoints here have."""
    metrics = metrics_dict()
    metrics["run"]["recipe"] = TRAINING["recipe"]
    return metrics


def merged():
    metrics = [full_metrics(0) for _ in range(3)]
    for seed, run in enumerate(metrics):
        run["run"]["seed"] = seed
        for figures in run["rankers"].values():
            figures["recall@20"] += seed / 100
    return merge_metrics(metrics)


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "mera-test", training=TRAINING)


def made_up(card, *contents):
    """Numbers of the text that no file knows."""
    return sorted(set(numbers_in(prose(card))) - known(*contents, [metric.meaning for metric in METRICS.values()]))


@pytest.mark.parametrize("metrics", [None, few(), full_metrics(0), merged()], ids=["none", "few", "all", "seeds"])
def test_every_number_of_a_card_is_in_its_files(checkpoint, metrics):
    config = json.loads((checkpoint / "config.json").read_text())
    card = model_card(checkpoint, metrics, "org/mera-test")
    sizes = {"codes": len(CODES), "text": config["text_config"]}
    assert made_up(card, metrics or {}, TRAINING, sizes) == []
    assert made_up(card + "\n", {}, sizes) != [], "a card without its files would be full of unknown numbers"


def shrunk(content):
    """The same content with every fraction a tenth smaller; orders and signs stay."""
    if isinstance(content, dict):
        return {key: shrunk(value) for key, value in content.items()}
    if isinstance(content, list):
        return [shrunk(value) for value in content]
    return 0.9 * content if isinstance(content, float) else content


def test_no_figure_is_written_into_a_template(checkpoint):
    """Figures that become smaller do so in the card, each at its place: none of them stands in a template or in code."""
    metrics = full_metrics(0)
    cards = [prose(model_card(checkpoint, content, "org/x")) for content in (metrics, shrunk(metrics))]
    one, other = map(numbers_in, cards)
    assert len(one) == len(other) > 1000
    others = known(TRAINING, metrics["run"]["versions"], ORIGIN.terms)
    stayed = {
        number
        for number, there in zip(one, other, strict=True)
        if number == there and "." in number and float(number) > 1 and number not in others  # small ones round alike
    }
    assert stayed == set()


def test_one_changed_figure_changes_the_card(checkpoint):
    metrics = few()
    before = model_card(checkpoint, metrics)
    metrics["rankers"]["mera"]["recall@20"] = 0.7777
    after = model_card(checkpoint, metrics)
    assert "**77.8 %** among its first 20" in after and "77.8" not in before
    assert "value: 77.77" in after


def test_the_metadata_is_what_the_hub_reads(checkpoint):
    metrics = full_metrics(0)
    data = parsed(model_card(checkpoint, metrics, "org/mera-test"))
    assert data.license == "apache-2.0" and data.library_name == "mera_hf" and data.language == "en"
    assert data.pipeline_tag == "text-classification" and {"mera", "icd-9-cm"} <= set(data.tags)
    assert data.metrics == ["f1", "recall"] and data.model_name == "mera-test"
    assert data.base_model is None and data.datasets is None
    results = {result.metric_name: result for result in data.eval_results}
    assert results["R@20, percent"].metric_value == round(100 * metrics["rankers"]["mera"]["recall@20"], 2)
    assert results["R@20, percent"].dataset_args == {"fingerprint": "abc123"}
    assert len(results) == 5 and not any(result.verified for result in data.eval_results)
    again = yaml.safe_load(data.to_yaml())
    assert again["model-index"][0]["results"][0]["dataset"]["split"] == "test", "the metadata goes round"


def test_a_checkpoint_that_was_not_evaluated_says_so(checkpoint):
    card = model_card(checkpoint)
    assert "**It was not evaluated" in card and "## Results" not in card and "model-index" not in card
    assert "No privacy audit was run" in card
    assert "# mera-test\n" in card, "without a name on the Hub, that of the folder"


def test_what_has_to_be_said_is_said(checkpoint):
    card = model_card(checkpoint, full_metrics(0), "org/mera-test")
    for heading in (
        *("What it is for, and what it is not for", "How to load", "Training data and licence", "Training procedure"),
        *("Results", "Privacy", "Environmental cost", "Limits", "Citation"),
    ):
        assert f"\n\n## {heading}\n" in card, heading
    assert card.count("not for clinical decisions") >= 1 and "Strack B" in card
    assert 'AutoModel.from_pretrained("org/mera-test")' in card and 'pipeline("diagnosis-prediction"' in card
    assert "mera predict org/mera-test --visits" in card
    assert "7,384 seconds (2.1 hours) on 2 x NVIDIA H100" in card and "Energy was not measured" in card
    assert "Shown another patient's history instead of their own" in card, "controls in sentences"
    assert "found, and poorly ordered. To change:" in card, "findings with their knobs"
    assert "| Asian | < 10 | – | too few |" in card, "small groups are said to be small"


def test_blocks_are_apart_so_that_markdown_reads_them(checkpoint):
    for metrics in (None, few(), full_metrics(0), merged()):
        lines = model_card(checkpoint, metrics, "org/x").splitlines()
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            if line.startswith("#") and not line.startswith("# "):
                assert before == after == "", line
            if line.startswith("|") and not before.startswith("|"):
                assert before == "", line
                assert set(after) <= set("|-:"), f"a table without a head: {line}"
            if before.startswith("|"):
                assert line == "" or line.startswith("|"), line
        tables = [line for line in lines if line.startswith("|")]
        assert all(
            "{{" not in line and "None" not in line and "{'" not in line for line in lines if "model-index" not in line
        )
        assert len(tables) > 5


def test_each_row_of_a_table_is_as_wide_as_its_head(checkpoint):
    width = None
    for line in model_card(checkpoint, full_metrics(0)).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.split(r"(?<!\\)\|", line))
        assert cells == (width := width or cells), line


def test_seeds_are_told_from_patients(checkpoint):
    card = model_card(checkpoint, merged(), "org/x")
    assert "mean and standard deviation over seeds 0, 1, 2" in card and " ± " in card
    assert "The weights here are those of seed 0" in card
    assert "95 % intervals over patients (bootstrap)" not in card, "merged metrics have none"
    single = model_card(checkpoint, full_metrics(0), "org/x")
    assert "(95 % interval over patients" in single and "One training (seed 0)" in single


def test_figures_of_another_model_are_refused(checkpoint):
    metrics = few()
    metrics["run"]["seed"] = 5
    with pytest.raises(InputError, match="of the seed 5, and the checkpoint is of the seed 0"):
        model_card(checkpoint, metrics)
    metrics["run"] |= {"recipe": "biomistral-7b/train-lora", "seed": 0}
    with pytest.raises(InputError, match="recipe biomistral-7b/train-lora, and the checkpoint is of tiny-cpu/train"):
        model_card(checkpoint, metrics)
    metrics = few()
    metrics["rankers"] = {"retain": metrics["rankers"]["gru"]}
    with pytest.raises(InputError, match="no `rankers.mera`, but retain"):
        model_card(checkpoint, metrics)
    with pytest.raises(InputError, match="holds no checkpoint of mera"):
        model_card(RECIPES / "tiny-cpu")


@pytest.mark.parametrize(
    "provenance, base, metadata, says",
    [
        (OPEN, None, {"license": "apache-2.0"}, "none: trained from scratch"),
        (OPEN, "BioMistral/BioMistral-7B", {"license": "apache-2.0", "base_model": "BioMistral/BioMistral-7B"}, "7B"),
        (OPEN, "meta-llama/Llama-2-7b-hf", {"license": "llama2", "base_model": "meta-llama/Llama-2-7b-hf"}, "Llama"),
        (OPEN, "org/other", {"license": "other", "license_name": "licence-of-the-base-model"}, "org/other"),
        (OPEN, "a-local-base", {"license": "other", "base_model": None}, "| Base model | `a-local-base` |"),
        (None, None, {"license": "unknown"}, "The checkpoint does not say what it was trained on. Treat it as if"),
        (
            {
                **OPEN,
                "source": "mimic4",
                "licence": "other",
                "credentialed": True,
                "agreement": "PhysioNet License 1.5.0",
            },
            "BioMistral/BioMistral-7B",
            {"license": "other", "license_name": "physionet-license-1.5.0", "base_model": "BioMistral/BioMistral-7B"},
            "**Trained on credentialed data.** The data use agreement (PhysioNet License 1.5.0)",
        ),
        (
            {**OPEN, "source": "visits_csv", "credentialed": True},
            None,
            {"license": "unknown"},
            "do not pass the weights on",
        ),
        ({**OPEN, "source": "mimic3"}, None, {"license": "apache-2.0"}, "MIMIC-III Clinical Database Demo"),
    ],
)
def test_licence_and_base_are_honest(tmp_path, provenance, base, metadata, says):
    folder = write_checkpoint(tmp_path / "x", training=TRAINING, provenance=provenance, base_model=base)
    card = model_card(folder)
    data = parsed(card)
    assert {key: data.get(key) for key in metadata} == metadata
    assert data.license in LICENCES and (data.license != "other" or data.license_name)
    assert says in card


def test_a_memorized_checkpoint_claims_no_ranking(tmp_path):
    folder = write_checkpoint(
        tmp_path / "memorized", memorization=MEMORIZATION, provenance={**OPEN, "patients": False}
    )
    card = model_card(folder, repo_id="org/memorized")
    assert "**It cannot rank diagnoses.**" in card and "No patient was read in training" in card
    assert "| code -> definition | 99.8 | 99.6 |" in card and "mera predict" not in card
    assert made_up(card, MEMORIZATION, {"codes": len(CODES)}, json.loads((folder / "config.json").read_text())) == []
    assert "memorized" in parsed(card).tags and parsed(card).pipeline_tag is None
    with pytest.raises(InputError, match="not trained to rank: `metrics` cannot be its own"):
        model_card(folder, few())
    assert "## Environmental cost\n\nNot recorded." in card
    run = {
        "seed": 0,
        "seconds": 184.6,
        "hardware": {"device": "CPU (x86_64)", "threads": 1},
        "tracker": None,
        "log": [],
    }
    (folder / "memorize_run.json").write_text(json.dumps(run))
    assert "Memorizing took 185 seconds on a CPU (x86_64), 1 thread, with the questions" in model_card(folder)
    of_texts = write_checkpoint(tmp_path / "texts", memorization=MEMORIZATION, provenance=OPEN)
    assert "holds words of the texts of patients' visits" in model_card(of_texts)


def test_an_adapter_is_loaded_on_its_base_and_has_the_log_of_its_training(checkpoint):
    (checkpoint / "adapter").mkdir()
    (checkpoint / "adapter" / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (checkpoint / "adapter" / "adapter_config.json").write_text("{}")
    card = model_card(checkpoint / "adapter", repo_id="org/adapter")
    assert 'load_adapter("org/adapter").get_base_model()' in card and "AutoModel.from_pretrained" not in card
    assert "1,744 steps, 8 passes" in card


def test_the_run_of_a_tracker_is_linked_where_it_can_be_seen(tmp_path):
    run = {"name": "wandb", "id": "a1b2", "url": "https://wandb.ai/org/mera/runs/a1b2"}
    folder = write_checkpoint(tmp_path / "x", training={**TRAINING, "tracker": run})
    assert "The log of the training: [a1b2](https://wandb.ai/org/mera/runs/a1b2) (wandb)." in model_card(folder)
    for unseen in (None, {**run, "url": None}):
        folder = write_checkpoint(tmp_path / f"x{unseen is None}", training={**TRAINING, "tracker": unseen})
        assert "The log of the training" not in model_card(folder)


def test_what_it_had_memorized_is_in_its_card(tmp_path):
    folder = write_checkpoint(tmp_path / "x", training={**TRAINING, "memorization": MEMORIZATION})
    assert "It had memorized what its codes mean" in model_card(folder) and "| 100.0 | 98.3 |" in model_card(folder)


def test_a_real_checkpoint_has_what_a_card_needs(llama, tmp_path):
    model, _ = llama
    model.config.provenance = OPEN
    model.save_pretrained(tmp_path / "real")
    card = model_card(tmp_path / "real")
    assert (
        "It ranks 19 diagnosis codes (ICD-9-CM)" in card and "| Architecture | llama, 2 layers of width 32 |" in card
    )
    assert '--visits "250.00 401.9; 428.0"' in card


def test_notes_take_their_tables_from_files(checkpoint, tmp_path):
    write_metrics(few(), tmp_path / "metrics.json")
    (tmp_path / "memorization.json").write_text(json.dumps(MEMORIZATION))
    notes = tmp_path / "notes.md"
    (tmp_path / "experiment.json").write_text(
        json.dumps({"says": "No: R@20 -0.2 points (-0.4 to +0.1). Nor here. No."})
    )
    notes.write_text(
        '## More\n\n{{ table("metrics.json") }}\n\n{{ memorized("memorization.json") }}\n\n'
        '{{ says("experiment.json") }}|{{ says("experiment.json", 2) }}\n'
    )
    card = model_card(checkpoint, notes=notes)
    assert card.index("## Environmental cost") < card.index("## More") < card.index("## Limits")
    assert "| copy history | **26.3** |" in card and "| definition -> code | 100.0 | 99.6 |" in card
    assert "No: R@20 -0.2 points (-0.4 to +0.1).|No: R@20 -0.2 points (-0.4 to +0.1). Nor here.\n" in card
    notes.write_text("{{ tabel('x') }}")
    with pytest.raises(InputError, match="'tabel' is undefined"):
        model_card(checkpoint, notes=notes)
    with pytest.raises(InputError, match="nothing.md' cannot be read"):
        model_card(checkpoint, notes=tmp_path / "nothing.md")


@pytest.mark.parametrize("folder, licence", [("biomistral-7b", "apache-2.0"), ("llama2-7b", "llama2")])
def test_a_card_of_recipes_is_no_result(folder, licence):
    card = recipe_card(RECIPES / folder, "mera-x")
    recipes = [(path.read_text(), yaml.safe_load(path.read_text())) for path in (RECIPES / folder).glob("*.yaml")]
    assert "This is a recipe, not a model: there are no weights here and no results." in card
    assert made_up(card, recipes) == []
    data = parsed(card)
    assert data.license == licence and "recipe" in data.tags
    assert data.base_model == recipes[0][1]["model_name_or_path"]
    assert not any((data.eval_results, data.metrics, data.datasets, data.pipeline_tag))
    for command in re.findall(r"recipes/\S+\.yaml", card):
        assert (ROOT / command).is_file(), command


@pytest.mark.parametrize("folder", [path.parent for path in RECIPES.glob("*/needs.json")], ids=lambda path: path.name)
def test_a_recipe_says_of_its_memory_what_its_card_says(folder):
    needs = json.loads((folder / "needs.json").read_text())
    recipes = [path for how in needs for path in folder.glob(f"*-{how}.yaml")]
    assert sorted(recipes) == sorted(folder.glob("*.yaml"))
    for path in recipes:
        head = " ".join(line.lstrip("# ") for line in path.read_text().partition("\n\n")[0].splitlines())
        assert f"Estimated, not measured: {needs[path.stem.partition('-')[2]]}. Tested" in head


def test_folders_that_are_no_recipes_are_refused(tmp_path):
    with pytest.raises(InputError, match="no recipes .* of one base model"):
        recipe_card(tmp_path, "x")
    (tmp_path / "train-lora.yaml").write_text("model_name_or_path: a/b\n")
    with pytest.raises(InputError, match="has no memorize-lora.yaml beside it"):
        recipe_card(tmp_path, "x")


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_cards_of_the_repository_hold_no_other_numbers(folder):
    card = (folder / "README.md").read_text()
    data = parsed(card)
    if data.get("library_name") is None:
        pytest.skip("written by hand")
    assert data.license in LICENCES
    shipped = ROOT / "mera_hf" / "checkpoints" / folder.name
    files = [json.loads(path.read_text()) for where in (folder, shipped) for path in where.rglob("*.json")]
    if "recipe" in data.tags:
        base = {path.parent for path in RECIPES.glob("*/train-*.yaml") if data.base_model in path.read_text()}
        assert card == recipe_card(base.pop(), folder.name), "render it again: mera card recipes/... --output ..."
    else:
        assert made_up(card, files, {"sizes": [793, 2, 128]}) == []
    assert not re.search(r"/(root|tmp|work|home)/", card)
