"""What an experiment turns off or swaps trains by the CPU recipe: two steps each, and the part is gone indeed."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from mera_hf.cli.main import main


RECIPES = Path(__file__).parents[1] / "recipes" / "tiny-cpu"
SCRATCH = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
SCRATCH |= {"num_attention_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True}
SMALL = ["--from_scratch", json.dumps(SCRATCH), "--max-steps", "2", "--use-cpu", "--bf16", "false"]
LESS = {
    "recipe": [],
    "no_contrastive": ["--contrastive-weight", "0"],
    "no_eov_loss": ["--eov-loss", "none"],
    "no_confidence": ["--confidence-weight", "0"],
    "no_orders": ["--perturb-orders", "false"],
    "no_partial_outputs": ["--prefix-share", "0"],
    "no_history_term": ["--history-term", "false"],
    "no_code_bias": ["--code-bias", "false"],
    "no_head": ["--history-term", "false", "--code-bias", "false"],
    "levels_only_chapter": ["--levels", "chapter"],
    "levels_only_finest": ["--levels", "subcategory1"],
    "levels_chapter": ["--levels", "space", "chapter"],
    "levels_finest": ["--levels", "space", "subcategory1"],
    "levels_all": ["--levels", "space", "chapter", "block", "category", "subcategory1"],
    "ccs": ["--hierarchy", "ccs", "--levels", "space", "ccs"],
    "shuffled": ["--hierarchy", "shuffled", "--levels", "space", "chapter", "category"],
    "random": ["--initialise", "random"],
    "encoder": ["--initialise", "encoder"],
    "shuffled_rows": ["--shuffle-rows"],
}


def trained(stage, dataset, folder, options):
    initialise = [] if "--initialise" in options else ["--initialise", "description"]
    arguments = ["--config", str(RECIPES / f"{stage}.yaml"), "--dataset", str(dataset), "--output-dir", str(folder)]
    return main([stage, *arguments, *SMALL, *initialise, *options])


@pytest.mark.parametrize("name", LESS)
def test_an_ablation_trains(name, dataset, encoder, tmp_path):
    options = [*LESS[name], *(["--encoder", str(encoder)] if name == "encoder" else [])]
    assert trained("train", dataset, tmp_path / "model", options) == 0
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    head = {"code_bias", "patient_gate.bias"} & set(dict(model.ranking_head.named_parameters()))
    gone = {"no_history_term": {"patient_gate.bias"}, "no_code_bias": {"code_bias"}}
    gone["no_head"] = {"code_bias", "patient_gate.bias"}
    assert head == {"code_bias", "patient_gate.bias"} - gone.get(name, set())
    losses = {
        part
        for line in json.loads((tmp_path / "model" / "training.json").read_text())["log"]
        for part in line
        if part.startswith("loss_")
    }
    without = {
        "no_contrastive": "loss_contrastive",
        "no_eov_loss": "loss_confidence",
        "no_confidence": "loss_confidence",
    }
    assert losses == {"loss_contrastive", "loss_confidence"} - {without.get(name)}


def test_an_adapter_trains_on_a_memorized_checkpoint(dataset, tmp_path, capfd):
    memorized, model = tmp_path / "memorized", tmp_path / "model"
    assert trained("memorize", dataset, memorized, []) == 0
    start = ["--model-name-or-path", str(memorized)]
    assert trained("train", dataset, model, [*start, "--use-peft", "true", "--lora-r", "4"]) == 0
    assert (model / "adapter").is_dir()
    before, after = (AutoModel.from_pretrained(folder).state_dict() for folder in (memorized, model))
    assert any("q_proj" in name and not torch.equal(before[name], after[name]) for name in before)

    assert trained("train", dataset, tmp_path / "other", [*start, "--shuffle-rows", "true"]) == 2
    assert "`shuffle_rows` deals out the rows that `initialise` makes" in capfd.readouterr().err
