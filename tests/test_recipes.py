"""Every recipe is parsed by the real parser and explains its keys; the large ones run on stand-ins of their base."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from cohort import CODES
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    set_seed,
)

from mera_hf.cli.main import main
from mera_hf.data.memorizing import memorizing_texts
from mera_hf.data.prepared import load_prepared
from mera_hf.training import recipe as recipe_module
from mera_hf.training.from_scratch import word_tokenizer
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.recipe import parse_recipe


FOLDERS = (Path(__file__).parents[1] / "recipes", recipe_module.RECIPES)
FILES = {f"{path.parent.name}/{path.stem}": path for folder in FOLDERS for path in sorted(folder.rglob("*.yaml"))}
RECIPES = {name: path for name, path in FILES.items() if not name.startswith("accelerate/")}
LAUNCHES = {name: path for name, path in FILES.items() if name.startswith("accelerate/")}
LARGE = {"biomistral-7b": "BioMistral/BioMistral-7B", "llama2-7b": "meta-llama/Llama-2-7b-hf"}
HOWS = ("full", "lora", "qlora")
RUNS = [*((base, how) for base in LARGE for how in HOWS), ("t5-base", "full")]


def test_the_recipes_are_there():
    large = {f"{base}/{stage}-{how}" for base, how in RUNS for stage in ("memorize", "train")}
    assert large | {"tiny-cpu/memorize", "tiny-cpu/train", "demo/memorize", "demo/train"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_parser_takes_every_value_as_it_is_written(name):
    keys = yaml.safe_load(RECIPES[name].read_text())
    config = MemorizationTrainerConfig if "/memorize" in name else MeraTrainerConfig
    # The one thing that this machine may lack is a GPU; on a CPU bfloat16 has to be asked for by `use_cpu`
    parts = parse_recipe(RECIPES[name], ["--use-cpu"], config)
    assert isinstance(parts[0], config)
    for key, value in keys.items():
        found = [getattr(part, key) for part in parts if hasattr(part, key)]
        assert len(found) == 1, f"{key} belongs to {len(found)} of the parts"
        if key == "report_to":
            assert value == "none" and found == [[]]
        elif value is not None:
            assert getattr(found[0], "value", found[0]) == value, key


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_explained(name):
    lines = FILES[name].read_text().splitlines()
    keys = r"\s*\w+: *[^ ]" if name in LAUNCHES else r"\w+:"
    for before, line in zip(["", *lines], lines, strict=False):
        if re.match(keys, line):
            assert "#" in line or before.startswith("#"), f"{line!r} has no comment, above it or behind it"


@pytest.mark.parametrize("name", LAUNCHES)
def test_accelerate_takes_every_key_of_a_launch(name):
    """And no launch sets what the recipe of a training decides, or starts the model from weights that are not there."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(LAUNCHES[name]))
    known = {action.dest for action in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= known
    assert config.mixed_precision == "no" and config.num_processes == 2
    engine = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}[name.split("/")[1]]
    assert config.distributed_type == engine
    if engine == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
    if engine == "DEEPSPEED":
        assert f"zero{config.deepspeed_config['zero_stage']}" == name.split("/")[1]
        assert config.deepspeed_config["zero3_init_flag"] is False
    assert config.deepspeed_config.get("zero3_save_16bit_model", False) == name.endswith("zero3")


@pytest.mark.parametrize("stage", ["memorize", "train"])
@pytest.mark.parametrize("how", HOWS)
def test_the_two_large_bases_differ_in_their_name_alone(stage, how):
    mistral, llama = (yaml.safe_load(RECIPES[f"{base}/{stage}-{how}"].read_text()) for base in LARGE)
    assert (mistral.pop("model_name_or_path"), llama.pop("model_name_or_path")) == tuple(LARGE.values())
    assert mistral == llama


@pytest.mark.parametrize("name", [name for name in RECIPES if name.split("/")[0] in LARGE])
def test_the_large_recipes_are_fit_for_7b(name):
    keys = yaml.safe_load(RECIPES[name].read_text())
    assert keys["bf16"] is True and keys["activation_checkpointing"] is True and keys["report_to"] == "none"
    assert keys.get("use_peft", False) == ("lora" in name) and keys.get("load_in_4bit", False) == ("qlora" in name)
    if "/train" in name:
        assert keys["history_term"] is True and keys["levels"] is None and keys["max_length"] == 2048


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """Plain language models of the architectures, untied as they are, and as wide as a block of 4 bit."""
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    families = {
        "biomistral-7b": {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": None, **size},
        "llama2-7b": {"model_type": "llama", **size},
        "t5-base": {"model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
        | {"feed_forward_proj": "gated-gelu"},
    }

    def make(base):
        folder = tmp_path_factory.getbasetemp() / f"stand-in-{base}"
        if not folder.exists():
            tokenizer = word_tokenizer(
                [*memorizing_texts([f"ICD9CM:{code}" for code in CODES]), "female male aged white"]
            )
            ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            set_seed(0)
            config = AutoConfig.for_model(
                **families[base], **ids, vocab_size=len(tokenizer), tie_word_embeddings=False
            )
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model = kind.from_config(config)
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0))  # T5 configs tie it
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(("base", "how"), RUNS)
def test_a_large_recipe_memorizes_and_trains_a_stand_in(base, how, dataset, stand_in, tmp_path, capfd):
    if how == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    cpu = ["--bf16", "false", "--use-cpu", "--max-steps", "2", "--save-strategy", "no"]
    memorized, model = tmp_path / "memorized", tmp_path / "model"
    for stage, start, output in (("memorize", stand_in(base), memorized), ("train", memorized, model)):
        arguments = ["--config", RECIPES[f"{base}/{stage}-{how}"], "--dataset", dataset, "--output-dir", output]
        status = main([stage, *map(str, arguments), "--model-name-or-path", str(start), *cpu])
        assert status == 0, capfd.readouterr().err
    error = capfd.readouterr().err
    assert "Warning" not in error and "Failed to load" not in error, error

    assert (model / "adapter").is_dir() == (how != "full")
    assert json.loads((model / "training.json").read_text())["recipe"] == f"{base}/train-{how}"
    trained, tokenizer = AutoModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    assert trained.dtype == (torch.float32 if how == "full" else torch.bfloat16)
    assert not getattr(trained, "is_quantized", False) and trained.ranking_head.is_trained
    order = trained.rank(load_prepared(dataset)["test"].to_list(), tokenizer).order
    assert order.sort().values.tolist() == [list(range(len(CODES)))] * len(order)
