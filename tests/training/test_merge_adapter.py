"""An adapter, its base and nothing else become a checkpoint that ranks as the adapted model did."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from tiny import CODES, encoder_of, patients, save_base, tiny_mera
from transformers import AutoModel, AutoTokenizer
from trl import ModelConfig

from mera_hf.errors import InputError
from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import collate_timelines
from mera_hf.training import merge_adapter as module
from mera_hf.training.arguments import MeraArguments
from mera_hf.training.checkpoints import load_model, save_checkpoint, wrap_with_adapter
from mera_hf.training.code_tokens import load_base
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.merge_adapter import compare, load_adapter, merge_adapter, save_adapter, synthetic_patients


LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
ROWS = patients(6, seed=3)


def adapted(folder, **arguments):
    """A model with an adapter that has moved, as a training leaves it, and its tokenizer."""
    model_args = ModelConfig(model_name_or_path=str(folder), **{"dtype": "float32", **LORA, **arguments})
    train = Dataset.from_list(ROWS)
    torch.manual_seed(0)
    model, tokenizer = load_model(model_args, MeraArguments(history_text="code+description"), train, CODES, 0)
    model.config.eov_value, model.config.rerank_depth = 0.3, 5
    wrapped = wrap_with_adapter(model, model_args)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
        model.ranking_head.log_prevalence.fill_(-2.0)
    return wrapped.eval(), tokenizer


def logits(model, tokenizer) -> torch.Tensor:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    batch = collate_timelines([encoder_of(base, tokenizer).encode(row) for row in ROWS], tokenizer.pad_token_id)
    with torch.no_grad():
        output = model(**{name: batch[name] for name in FORWARD_INPUTS if name in batch})
    return torch.cat([output.code_logits, output.eov_logits[:, None]], dim=1)


@pytest.fixture
def bases(tmp_path):
    """`bases(family, kind)`: a plain base with rows to spare, or a checkpoint with code tokens."""

    def make(family, kind="plain"):
        folder = tmp_path / "base"
        if kind == "plain":
            save_base(folder, family, padding=0 if family == "gpt2" else 7)
        else:
            model, tokenizer = tiny_mera(family, seed=1)
            save_checkpoint(model, tokenizer, folder)
        return folder

    return make


@pytest.mark.parametrize("kind", ["plain", "memorized"])
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt2", "phi"])
def test_the_merged_model_is_the_adapted_one(family, kind, bases, tmp_path):
    model, tokenizer = adapted(bases(family, kind))
    save_adapter(model, tokenizer, tmp_path / "adapter")
    wanted = logits(model.double(), tokenizer)  # float64: what differs is the rounding of the merged weights
    figures = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert figures["adapter"]["largest"] < 1e-4 and figures["adapter"]["same_top20"] == 1.0
    assert figures["dtype"] == "float32" and figures["histories"] == 64 and "quantised" not in figures
    assert json.loads((tmp_path / "merged" / "merged.json").read_text()) == figures

    merged, report = AutoModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged.double().eval(), tokenizer), wanted, rtol=0, atol=1e-5)
    assert (merged.config.eov_value, merged.config.rerank_depth) == (0.3, 5)
    assert merged.config.history_text == "code+description"
    assert merged.ranking_head.log_prevalence.tolist() == [-2.0] * len(CODES)
    tied = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]  # nothing half written


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_an_adapter_goes_onto_a_fresh_base(family, bases, tmp_path):
    model, tokenizer = adapted(bases(family))
    save_adapter(model, tokenizer, tmp_path / "adapter")
    again = load_adapter(tmp_path / "adapter", dtype="float32")
    torch.testing.assert_close(logits(again, tokenizer), logits(model, tokenizer), rtol=0, atol=1e-6)
    ours, theirs = again.get_base_model().config.to_dict(), model.get_base_model().config.to_dict()
    assert {name for name in ours if ours[name] != theirs.get(name)} <= {"_name_or_path", "transformers_version"}


def test_the_adapter_and_the_base_are_all_it_takes(bases, tmp_path):
    """Both moved to another place, and what the training wrote beside them gone."""
    model, tokenizer = adapted(bases("llama"))
    save_checkpoint(model, tokenizer, tmp_path / "run")
    (tmp_path / "run" / "adapter").rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"the base .*base' of `adapter` .* say where: base=... \(--base\)"):
        merge_adapter(tmp_path / "elsewhere", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    merge_adapter(tmp_path / "elsewhere", tmp_path / "merged", base=str(tmp_path / "moved"))
    merged = AutoModel.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(merged, tokenizer), logits(model, tokenizer), rtol=0, atol=1e-5)


def test_what_a_trainer_saves_can_be_merged(bases, tmp_path):
    model, tokenizer = adapted(bases("llama"))
    args = MeraTrainerConfig(
        str(tmp_path / "run"), report_to="none", use_cpu=True, disable_tqdm=True, max_steps=2, save_steps=1
    )
    trainer = MeraTrainer(model, args, ROWS, processing_class=tokenizer)
    trainer.train()
    merge_adapter(tmp_path / "run" / "checkpoint-2", tmp_path / "merged")
    merged = AutoModel.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(merged, tokenizer), logits(model.eval(), tokenizer), rtol=0, atol=1e-5)


def test_the_precision_is_that_of_training_or_the_one_that_is_asked_for(bases, tmp_path):
    model, tokenizer = adapted(bases("llama"), dtype="bfloat16")
    save_adapter(model, tokenizer, tmp_path / "adapter")
    figures = merge_adapter(tmp_path / "adapter", tmp_path / "half")
    assert figures["dtype"] == "bfloat16" and 0 < figures["adapter"]["mean"] < 0.05
    assert {p.dtype for p in AutoModel.from_pretrained(tmp_path / "half").parameters()} == {torch.bfloat16}
    whole = merge_adapter(tmp_path / "adapter", tmp_path / "whole", dtype="float32")
    assert whole["dtype"] == "float32" and whole["adapter"]["largest"] < 1e-4
    assert {p.dtype for p in AutoModel.from_pretrained(tmp_path / "whole").parameters()} == {torch.float32}


def test_half_precision_is_trained_in_float32_but_for_the_base(bases, tmp_path):
    model, tokenizer = adapted(bases("llama"), dtype="bfloat16")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if "base_layer" in n} == {torch.bfloat16}
    bias = model.get_base_model().ranking_head.code_bias
    before = bias.detach().clone()
    args = MeraTrainerConfig(
        str(tmp_path / "run"),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        max_steps=1,
        learning_rate=1e-4,
        bf16=True,
    )
    MeraTrainer(model, args, ROWS, processing_class=tokenizer, eval_dataset=ROWS).train()
    assert (bias != before).all()  # none is rounded away
    save_checkpoint(model, tokenizer, tmp_path / "done")
    done = AutoModel.from_pretrained(tmp_path / "done", dtype="auto").eval()
    assert {tensor.dtype for tensor in done.state_dict().values()} == {torch.bfloat16}
    assert (logits(done, tokenizer) - logits(model.eval(), tokenizer)).abs().float().mean() < 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_a_quantised_base_is_left_aside(family, dtype, tmp_path, monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    save_base(tmp_path / "base", family, hidden_size=64, intermediate_size=128)
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
    model, tokenizer = adapted(tmp_path / "base", dtype=dtype, **four_bit)
    assert any(isinstance(part, bitsandbytes.nn.Linear4bit) for part in model.modules())
    save_adapter(model, tokenizer, tmp_path / "adapter")
    figures = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert figures["quantised_base"] and figures["dtype"] == dtype
    merged = AutoModel.from_pretrained(tmp_path / "merged").eval()
    assert not getattr(merged, "is_quantized", False) and not hasattr(merged.config, "quantization_config")

    # The second figure is how far the merged model is from the one that was trained
    histories = synthetic_patients(CODES)
    ours, theirs = (module._logits(m, tokenizer, histories) for m in (model.get_base_model(), merged))
    assert figures["quantised"]["mean"] == pytest.approx(float((ours - theirs).abs().mean()), rel=1e-3)
    assert figures["quantised"]["mean"] > (100 if dtype == "float32" else 1) * figures["adapter"]["mean"]

    # Without bitsandbytes it is merged all the same; with `save_checkpoint`, as `mera train` does, too
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    again = merge_adapter(tmp_path / "adapter", tmp_path / "merged", overwrite=True)
    assert "quantised" not in again and again["quantised_base"]
    monkeypatch.undo()
    save_checkpoint(model, tokenizer, tmp_path / "done")
    done = AutoModel.from_pretrained(tmp_path / "done").eval()
    torch.testing.assert_close(logits(done, tokenizer), logits(merged, tokenizer), rtol=0, atol=1e-6)


def test_figures_by_hand():
    ours = torch.arange(30.0).flip(0).repeat(2, 1)  # ranked 0, 1, 2, ...; EOV last
    theirs = ours.clone()
    theirs[0, 0] += 3.0  # still the first
    theirs[1, 19] -= 0.5
    theirs[1, 20] += 20.5  # enters the top 20 as the first; the 20th leaves it
    figures = compare(ours, theirs)
    assert figures == {
        "largest": 20.5,
        "mean": pytest.approx((3.0 + 0.5 + 20.5) / 60),
        "same_top20": 0.5,
        "common_top20": pytest.approx((20 + 19) / 40),
    }
    assert compare(ours, ours) == {"largest": 0.0, "mean": 0.0, "same_top20": 1.0, "common_top20": 1.0}
    few = compare(torch.zeros(3, 5), torch.zeros(3, 5))
    assert few["same_top20"] == few["common_top20"] == 1.0


def test_synthetic_histories_are_always_the_same():
    histories = synthetic_patients(CODES)
    assert histories == synthetic_patients(CODES) and len(histories) == 64
    assert {len(history["visits"]) for history in histories} == {1, 2, 3}
    assert {code for history in histories for visit in history["visits"] for code in visit["codes"]} == set(CODES)
    assert all(visit["codes"] == CODES[:1] for history in synthetic_patients(CODES[:1]) for visit in history["visits"])


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(bases, tmp_path):
    model, tokenizer = adapted(bases("llama"))
    save_checkpoint(model, tokenizer, tmp_path / "run")
    return tmp_path / "run" / "adapter"


def test_what_is_no_adapter(saved, tmp_path):
    with pytest.raises(
        InputError, match=r"run' holds no adapter_config.json, so it is no adapter; name '.*run/adapter'"
    ):
        merge_adapter(saved.parent, tmp_path / "merged")
    with pytest.raises(
        InputError, match="base' holds no adapter_config.json.* name the folder `adapter` of a training"
    ):
        merge_adapter(tmp_path / "base", tmp_path / "merged")
    with pytest.raises(InputError, match="nowhere' holds no adapter_config.json"):
        merge_adapter(tmp_path / "nowhere", tmp_path / "merged")
    (saved / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(InputError, match="run/adapter' has no config of mera beside it"):
        merge_adapter(saved, tmp_path / "merged")
    shutil.copy(tmp_path / "base" / "config.json", saved)
    with pytest.raises(InputError, match="belongs to a llama model, not to one of mera"):
        merge_adapter(saved, tmp_path / "merged")
    shutil.copy(tmp_path / "config.json", saved)
    (saved / "tokenizer.json").unlink()
    (saved / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="run/adapter' has no tokenizer"):
        merge_adapter(saved, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_base_that_is_another_model(saved, tmp_path):
    save_base(tmp_path / "wide", "llama", hidden_size=64)
    with pytest.raises(InputError, match="wide' is another model than the adapter's: hidden_size is 64, not 32"):
        merge_adapter(saved, tmp_path / "merged", base=str(tmp_path / "wide"))
    save_base(tmp_path / "mistral", "mistral")
    with pytest.raises(InputError, match="model_type is mistral, not llama"):
        merge_adapter(saved, tmp_path / "merged", base=str(tmp_path / "mistral"))
    model, tokenizer = tiny_mera("llama")
    model.config.id2label[0] = "ICD9CM:001.0"
    save_checkpoint(model, tokenizer, tmp_path / "other")
    with pytest.raises(InputError, match="other' has tokens of 19 codes, and they are not those of the adapter"):
        merge_adapter(saved, tmp_path / "merged", base=str(tmp_path / "other"))
    with pytest.raises(InputError, match="nowhere' of `adapter` .* cannot be loaded"):
        merge_adapter(saved, tmp_path / "merged", base=str(tmp_path / "nowhere"))
    written = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": None}))
    with pytest.raises(InputError, match=r"does not say what it was trained on; name its base: base=... \(--base\)"):
        merge_adapter(saved, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_is_no_base(saved):
    with pytest.raises(InputError, match="adapter' is an adapter; merge it into its base first: `mera merge`"):
        load_base(str(saved))


def test_nothing_else_is_overwritten(saved, tmp_path):
    merged = tmp_path / "merged"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file' is a file; choose a folder"):
        merge_adapter(saved, tmp_path / "file")
    for folder in (tmp_path / "base", saved, saved.parent):
        with pytest.raises(
            InputError, match="exists and `mera merge` did not write it, so that it is never overwritten"
        ):
            merge_adapter(saved, folder, overwrite=True)
    merged.mkdir()
    merge_adapter(saved, merged)
    with pytest.raises(InputError, match=r"merged' holds a merged checkpoint; .* overwrite=True \(--overwrite\)"):
        merge_adapter(saved, merged)
    (merged / "stale").touch()
    merge_adapter(saved, merged, overwrite=True)
    assert not (merged / "stale").exists() and (merged / "model.safetensors").is_file()
    with pytest.raises(InputError, match="merged' holds '.*merged', which is merged; choose another folder"):
        merge_adapter(saved, merged, base=str(merged), overwrite=True)


def test_a_failure_leaves_the_old_folder(saved, tmp_path, monkeypatch):
    merged = tmp_path / "merged"
    merge_adapter(saved, merged)
    before = (merged / "merged.json").read_text()

    def fail(*args, **keywords):
        raise OSError("disk full")

    monkeypatch.setattr(type(AutoTokenizer.from_pretrained(saved)), "save_pretrained", fail)  # behind the model
    with pytest.raises(OSError, match="disk full"):
        merge_adapter(saved, merged, overwrite=True)
    assert (merged / "merged.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "merged", "run"]
