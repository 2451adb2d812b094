"""The longest history: what training reads is what evaluation, prediction and every other reader of the checkpoint read."""

import copy
import json

import numpy as np
import pytest
import torch
from cohort import CODES as COHORT
from cohort import write_visits
from tiny import CODES, ENCODER_DECODERS, FAMILIES, patients, tiny_mera
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

import mera_hf
from mera_hf.configuration_mera import MeraConfig
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.evaluate import evaluate_checkpoint
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.rankings.plain import rank_plain
from mera_hf.evaluation.rankings.predict import predict_dataset
from mera_hf.experiments.decoding import decode_greedily
from mera_hf.training.export import export_plain
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.memorization_trainer import MemorizationTrainer
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.mera_trainer import MeraTrainer
from mera_hf.training.plain_prompt import Prompt


QUIET = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "max_steps": 1}
LONG = patients(16, seed=4, fewest_visits=5, most_visits=9)
HISTORIES = [{**row, "visits": row["visits"][:-1]} for row in LONG]


def trainer_of(model, tokenizer, folder, rows=LONG, eval_rows=None, **fields):
    args = MeraTrainerConfig(str(folder), **QUIET, **fields)
    return MeraTrainer(copy.deepcopy(model), args, rows, eval_rows, processing_class=tokenizer)


def few_positions(family, count, **fields):
    """A tiny model with a table of `count` positions."""
    name = "n_positions" if family == "gpt2" else "max_position_embeddings"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, family, {**(FAMILIES | ENCODER_DECODERS)[family], name: count})
        patch.setitem(ENCODER_DECODERS, family, FAMILIES[family])
        return tiny_mera(family, **fields)


@pytest.fixture(scope="module")
def long_dataset(tmp_path_factory):
    """Sixty patients with up to twelve visits of four codes or less."""
    folder, rows = tmp_path_factory.mktemp("long"), []
    for patient in range(60):
        for visit in range(2 + patient % 11):
            for code in {COHORT[(7 * patient + 5 * visit * step) % len(COHORT)] for step in range(1, 4)}:
                when = f"{2000 + visit}-01-01"
                rows.append([f"p{patient}", str(visit), when, code, "9", "FM"[patient % 2], "60", "White"])
    mera_hf.prepare("visits_csv", write_visits(folder / "visits.csv", rows), folder / "dataset")
    return folder / "dataset"


def test_a_base_with_few_positions_from_training_to_evaluation(long_dataset, tmp_path):
    base = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48}
    fields = {"from_scratch": base, "num_train_epochs": 1, "disable_tqdm": True, "candidates": "cohort"}
    trained = mera_hf.train("demo/train", long_dataset, tmp_path / "m", model_name_or_path=None, **fields)
    model, tokenizer = (kind.from_pretrained(trained.folder) for kind in (AutoModel, AutoTokenizer))
    assert (
        model.config.max_length == 48 and json.loads((trained.folder / "config.json").read_text())["max_length"] == 48
    )
    found = evaluate_checkpoint(model, tokenizer, long_dataset, references=("prevalence",), keep_rankings=True)
    assert 0 < found.metrics["rankers"]["mera"]["recall@10"] <= 1
    assert found.rankings["ranking"].unread_visits.max() > 0
    summary = predict_dataset(model, tokenizer, long_dataset, tmp_path / "rankings", split="train")
    assert summary["max_length"] == 48 and summary["unread_visits"] > summary["patients_with_unread_visits"] > 0


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {}),
        ("llama", {"layout": "tree", "orders": 2}),
        ("gpt2", {}),
        ("gpt2", {"layout": "tree"}),
        ("t5", {}),
        ("bart", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_was_trained_on_is_what_is_read(family, fields, tmp_path):
    """Whatever the visit to predict: the trainer, the saved model and evaluation rank the same history."""
    if family in ("gpt2", "bart"):
        model, tokenizer = few_positions(family, 32)
    else:
        model, tokenizer = tiny_mera(family)
        fields = {**fields, "max_length": 32}
    rows = [
        {**row, "visits": [*row["visits"][:-1], {"codes": CODES[:size]}]} for size, row in enumerate(LONG, start=1)
    ]
    trainer = trainer_of(model, tokenizer, tmp_path, rows, rows, **fields)
    assert trainer.train_dataset.unread_visits > 0 and len(trainer.train_dataset) == len(rows)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "m")
    loaded = AutoModel.from_pretrained(tmp_path / "m")
    assert loaded.config.max_length == trainer.model.config.max_length == 32
    ranking = loaded.rank(HISTORIES, tokenizer)
    assert ranking.unread_visits.tolist() == [
        trainer.encoder.encode_history(history).unread_visits for history in HISTORIES
    ]
    order, set_sizes = trainer.predict(rows).predictions
    assert order.tolist() == ranking.order.tolist() and set_sizes.tolist() == ranking.set_sizes.tolist()
    samples = prediction_samples(rows, loaded.config.codes)
    np.testing.assert_array_equal(rank_samples(loaded, tokenizer, samples).order, order)
    # It is the cut that matters: what is not cut ranks otherwise
    if family in ("llama", "t5"):
        assert torch.equal(loaded.rank(HISTORIES, tokenizer, max_length=32).order, ranking.order)
        whole = loaded.rank(HISTORIES, tokenizer, max_length=200)
        cut = ranking.unread_visits > 0
        assert whole.unread_visits.sum() == 0
        assert (whole.order[cut] != ranking.order[cut]).any(1).sum() > cut.sum() / 2
        torch.testing.assert_close(whole.logits[~cut], ranking.logits[~cut], rtol=0, atol=1e-5)


def test_without_a_length_the_base_says_it(llama, tmp_path):
    assert trainer_of(*llama, tmp_path).model.config.max_length == 256
    t5 = tiny_mera("t5")
    assert trainer_of(*t5, tmp_path).model.config.max_length is None  # distances have no end
    assert trainer_of(*t5, tmp_path, max_length=1000).model.config.max_length == 1000
    # What a checkpoint was trained on is kept, and what only evaluates changes nothing
    model, tokenizer = llama
    model.config.max_length = 40
    assert trainer_of(model, tokenizer, tmp_path).encoder.max_length == 40
    assert trainer_of(model, tokenizer, tmp_path, max_length=50).model.config.max_length == 50
    evaluated = trainer_of(model, tokenizer, tmp_path, None, LONG, max_length=30)
    assert (evaluated.encoder.max_length, evaluated.model.config.max_length) == (30, 40)


def test_a_length_beyond_the_positions_is_refused_before_training(llama, long_dataset, tmp_path):
    with pytest.raises(
        InputError, match="`max_length` is 257, and the llama model has positions for 256 tokens; set it to"
    ):
        trainer_of(*llama, tmp_path, max_length=257)
    with pytest.raises(InputError, match="`max_length` is 33, and the gpt2 model has positions for 32 tokens"):
        trainer_of(*few_positions("gpt2", 32), tmp_path, max_length=33)
    with pytest.raises(InputError, match="`max_length` is 0; it must be 1 or more"):
        trainer_of(*llama, tmp_path, max_length=0)
    with pytest.raises(InputError, match="`max_length` is 5, but the profile of a patient takes"):
        trainer_of(*llama, tmp_path, max_length=5)
    base = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48}
    fields = {"from_scratch": base, "max_length": 64, "model_name_or_path": None, "disable_tqdm": True}
    with pytest.raises(InputError, match="`max_length` is 64, and the gpt2 model has positions for 48 tokens"):
        mera_hf.train("demo/train", long_dataset, tmp_path / "m", **fields)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "llama", "max_position_embeddings": 64}, 64),
        ({"model_type": "opt", "max_position_embeddings": 64}, 64),
        ({"model_type": "led", "max_encoder_position_embeddings": 64}, 64),
        ({"model_type": "mpt", "max_seq_len": 64}, 64),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 64}}, 64),
        ({"model_type": "t5", "n_positions": 64}, None),
        ({"model_type": "bloom"}, None),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_what_configs_say_of_positions(fields, limit):
    config = MeraConfig(text_config=AutoConfig.for_model(**fields))
    assert config.position_limit == limit
    if limit is not None:
        assert config.reading_length(limit) == limit
        with pytest.raises(ValueError, match="has positions for 64 tokens"):
            config.reading_length(65)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_checkpoints_from_before_the_field_read_as_before(family, tmp_path):
    """Whole histories, with rotary positions even beyond those of the config; a table of positions would have failed."""
    model, tokenizer = few_positions(family, 32)
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content.pop("max_length", None) is None
    (tmp_path / "config.json").write_text(json.dumps(content))
    loaded = AutoModel.from_pretrained(tmp_path)
    unread = loaded.rank(HISTORIES, tokenizer).unread_visits
    assert loaded.config.max_length is None and bool(unread.any()) is (family == "gpt2")
    if family == "llama":
        encoder = mera_hf.TimelineEncoder(loaded.config, tokenizer)
        assert max(len(encoder.encode_history(row).input_ids) for row in HISTORIES) > 32


def test_the_pipeline_says_what_was_not_read(llama):
    model, tokenizer = llama
    model.config.max_length = 30
    predict = pipeline("diagnosis-prediction", model=model, tokenizer=tokenizer, device="cpu")
    rows = [{"profile": row["profile"], "visits": [visit["codes"] for visit in row["visits"]]} for row in HISTORIES]
    results = predict(rows, top_k=3, explain=1)
    ranking = model.rank(HISTORIES, tokenizer, max_length=30)
    assert [result["unread_visits"] for result in results] == ranking.unread_visits.tolist()
    assert [result["explanation"]["unread_visits"] for result in results] == ranking.unread_visits.tolist()
    assert [[row["code"] for row in result["ranking"]] for result in results] == [
        [CODES[code] for code in order] for order in ranking.order[:, :3].tolist()
    ]
    assert [result["visits"] for result in results] != []
    assert predict("250.00; 428.0")["unread_visits"] == 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_export_reads_no_more_than_the_model(family, tmp_path):
    model, tokenizer = few_positions(family, 32, head=False)
    model.config.max_length = 32
    export_plain(model, tokenizer, tmp_path / "plain")
    prompt = Prompt(tmp_path / "plain")
    encoder = mera_hf.TimelineEncoder(model.config, tokenizer)
    for row in [*HISTORIES, {"profile": None, "visits": []}]:
        assert prompt.ids(row) == encoder.encode_history(row).input_ids
    with pytest.raises(ValueError, match="the profile takes 4. tokens, and the model reads 32; shorten it"):
        prompt.ids({"profile": {"race": 40 * "white "}, "visits": []})
    assert "takes at most 32 tokens: the oldest visits are left out" in (tmp_path / "plain" / "README.md").read_text()
    assert torch.equal(rank_plain(model, tokenizer, HISTORIES, 5, 4), model.rank(HISTORIES, tokenizer, top_k=5).order)


# -- the same fault elsewhere -------------------------------------------------------------------------------------


def test_decoding_leaves_room_for_what_it_names():
    model, tokenizer = few_positions("gpt2", 48)
    samples = prediction_samples(LONG, CODES)
    named, ends = decode_greedily(model, tokenizer, samples, most=8)
    assert all(len(set(row)) == 8 for row in named.tolist()) and ends.max() <= 8
    first = model.rank(HISTORIES, tokenizer, top_k=1, max_length=40).order[:, 0]
    assert named[:, 0].tolist() == first.tolist()


def test_pairs_to_memorize_that_do_not_fit_are_refused(tmp_path):
    args = MemorizationTrainerConfig(str(tmp_path), **QUIET)
    model, tokenizer = few_positions("gpt2", 16)
    with pytest.raises(
        InputError, match=r"answers take up to \d\d tokens, and the gpt2 model has positions for 16; use a"
    ):
        MemorizationTrainer(model, args, tokenizer)
    MemorizationTrainer(*few_positions("gpt2", 64)[:1], args, tokenizer).train()


def test_a_free_word_in_the_profile_may_be_too_long():
    model, tokenizer = few_positions("gpt2", 32)
    row = {"profile": {"race": 40 * "white "}, "visits": [{"codes": CODES[:2]}]}
    with pytest.raises(ValueError, match="`max_length` is 32, but the profile of a patient takes 43 tokens"):
        model.rank([row], tokenizer)


def test_early_evaluation_of_a_long_visit_has_its_positions(tmp_path):
    """Every code of the model in the visit to predict: its later decisions have no position, and the loss stays finite."""
    rows = [{**row, "visits": [*row["visits"][:-1], {"codes": CODES}]} for row in LONG]
    for family in ("gpt2", "bart"):
        model, tokenizer = few_positions(family, 18, use_profile=False)
        trainer = trainer_of(model, tokenizer, tmp_path, rows, rows)
        assert all(np.isfinite(value) for value in trainer.evaluate().values())
        assert trainer.train().global_step == 1
