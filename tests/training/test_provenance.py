"""What a checkpoint says of the patients in its weights, through every way to make one."""

import pytest
from datasets import Dataset, DatasetDict
from tiny import CODES, patients, tiny_mera
from transformers import AutoConfig
from trl import ModelConfig

from mera_hf.data.prepared import Prepared
from mera_hf.training.arguments import MeraArguments
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.memorize import memorize_parsed as memorize
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.merge_adapter import merge_adapter
from mera_hf.training.output_folder import OutputFolder
from mera_hf.training.provenance import NO_PATIENTS, UNKNOWN, trained_on
from mera_hf.training.train import train_parsed as train


OPEN = {"source": "diabetes130", "license": "CC BY 4.0", "credentialed": False, "agreement": None, "fingerprint": "a1"}
AGREEMENT = "PhysioNet Credentialed Health Data License 1.5.0"
MIMIC = {
    "source": "mimic4",
    "license": AGREEMENT,
    "credentialed": True,
    "agreement": AGREEMENT,
    "fingerprint": "b2",
}
SCRATCH = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
SCRATCH |= {"num_attention_heads": 4}
STEPS = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "max_steps": 1}
ROWS = patients(6, seed=3)


def after(report: dict) -> dict:
    """What a fresh model says that was trained on this data set."""
    fields = {"source": report["source"], "licence": report["license"], "credentialed": report["credentialed"]}
    return fields | {"fingerprint": report["fingerprint"], "agreement": report["agreement"], "patients": True}


def test_rules_by_hand():
    assert trained_on(NO_PATIENTS, OPEN) == after(OPEN)
    assert trained_on(NO_PATIENTS, MIMIC) == after(MIMIC)
    assert trained_on(NO_PATIENTS, None) is None and trained_on(after(MIMIC), None) is None
    # What was credentialed stays so, and keeps its agreement
    both = trained_on(after(MIMIC), OPEN)
    assert both["credentialed"] and both["agreement"] == AGREEMENT and both["before"] == after(MIMIC)
    assert (both["source"], both["licence"]) == ("diabetes130", "CC BY 4.0")
    twice = trained_on(after(MIMIC), MIMIC)
    assert twice["credentialed"] and twice["agreement"] == AGREEMENT
    # A start that is not known may be anything
    assert trained_on(None, OPEN) == {**after(OPEN), "credentialed": True, "before": UNKNOWN}
    # A folder that an earlier version prepared does not name its agreement
    assert trained_on(NO_PATIENTS, {**MIMIC, "agreement": None})["credentialed"]


@pytest.fixture
def run(tmp_path):
    """`run(stage, name, report, start, ...)` trains one step and gives the provenance of the checkpoint."""

    def make(stage, name, report, start=None, visit_text=False, **model_fields):
        scratch = None if start else SCRATCH
        model_args = ModelConfig(model_name_or_path=start and str(start), dtype="float32", **model_fields)
        mera_args = MeraArguments(from_scratch=scratch, use_visit_text=visit_text)
        kind = MeraTrainerConfig if stage is train else MemorizationTrainerConfig
        data = DatasetDict(train=Dataset.from_list(ROWS), validation=Dataset.from_list(patients(3, seed=9)))
        prepared = Prepared(tmp_path, data, [{"code": code} for code in CODES], report)
        recipe = ("tiny",) if stage is train else ()
        output = OutputFolder(tmp_path / name)
        stage(kind(str(tmp_path / name), **STEPS), model_args, mera_args, prepared, output, *recipe)
        return AutoConfig.from_pretrained(tmp_path / name).provenance

    return make


def test_stages_write_it_and_a_start_is_inherited(run, tmp_path):
    assert run(memorize, "memorized", MIMIC) == NO_PATIENTS
    assert run(memorize, "words", MIMIC, visit_text=True) == after(MIMIC), "words of patients are in the vocabulary"
    assert run(train, "open", OPEN, tmp_path / "memorized") == after(OPEN)
    assert run(train, "closed", MIMIC, tmp_path / "memorized") == after(MIMIC)
    again = run(train, "again", OPEN, tmp_path / "closed")
    assert again["credentialed"] and again["agreement"] == AGREEMENT and again["before"] == after(MIMIC)
    assert run(memorize, "once more", OPEN, tmp_path / "closed") == after(MIMIC)


def test_adapters_and_merging_keep_it(run, tmp_path):
    run(memorize, "memorized", MIMIC)
    lora = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}
    assert run(train, "adapted", MIMIC, tmp_path / "memorized", **lora) == after(MIMIC)
    assert AutoConfig.from_pretrained(tmp_path / "adapted" / "adapter").provenance == after(MIMIC)
    merge_adapter(tmp_path / "adapted" / "adapter", tmp_path / "merged")
    assert AutoConfig.from_pretrained(tmp_path / "merged").provenance == after(MIMIC)


def test_a_script_that_trains_by_itself_claims_nothing(tmp_path):
    """A memorized model says that there are no patients in it; the trainer alone cannot say whose come in."""
    model, tokenizer = tiny_mera(provenance=dict(NO_PATIENTS))
    MeraTrainer(model, MeraTrainerConfig(str(tmp_path), **STEPS), ROWS, processing_class=tokenizer).train()
    model.save_pretrained(tmp_path / "saved")
    assert AutoConfig.from_pretrained(tmp_path / "saved").provenance is None
