"""An exported model ranks as the model that it came from, in transformers alone."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import CODES, FAMILIES, encoder_of, patients, tiny_mera
from transformers import AutoModelForCausalLM, GenerationConfig

from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.plain import measure_export, rank_plain
from mera_hf.training.export import export_plain, lost_in_export
from mera_hf.training.plain_prompt import Prompt


ROWS = [*patients(8, seed=2, fewest_visits=1), {"profile": None, "visits": []}]
FIELDS = {
    "code": {},
    "code+description": {"history_text": "code+description", "use_visit_text": True},
    "description": {"history_text": "description", "use_profile": False},
}
PLAIN = {"history_term": False, "code_bias": False}

# Without mera_hf: the ranking and the log-probabilities of the codes for each patient
SERVE = """
import json, sys
sys.modules["mera_hf"] = None  # makes it impossible to import
import importlib.util, torch
from transformers import AutoModelForCausalLM

rows, *folders = sys.argv[1:]
for folder in folders:
    spec = importlib.util.spec_from_file_location("prompt", folder + "/prompt.py")
    prompt_module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prompt_module)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = prompt_module.Prompt()
    answers = []
    for patient in json.loads(rows):
        ids = prompt.ids(patient)
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        answers.append({code: float(scores[token]) for code, token in prompt.tokens.items()})
    print("ANSWERS", json.dumps(answers))
"""


def serve(*folders) -> list[list[dict]]:
    command = [sys.executable, "-c", SERVE, json.dumps(ROWS), *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return [json.loads(line[8:]) for line in run.stdout.splitlines() if line.startswith("ANSWERS ")]


def assert_same_ranking(answers, model, tokenizer):
    ranking = model.rank(ROWS, tokenizer)
    for answer, order, logits in zip(answers, ranking.order.tolist(), ranking.logits, strict=True):
        assert sorted(answer, key=lambda code: -answer[code]) == [CODES[code] for code in order]
        # Log-probabilities are logits but for a constant
        scores = torch.tensor([answer[CODES[code]] for code in order])
        torch.testing.assert_close(scores - scores[0], logits - logits[0], rtol=0, atol=1e-4)


def test_every_family_ranks_the_same_without_this_package(tmp_path):
    models = {family: tiny_mera(family, head=False) for family in FAMILIES}
    models |= {name: tiny_mera("llama", head=False, **PLAIN, **fields) for name, fields in FIELDS.items()}
    for name, (model, tokenizer) in models.items():
        assert lost_in_export(model) == []
        export_plain(model, tokenizer, tmp_path / name)
    answers = serve(*(tmp_path / name for name in models))
    assert len(answers) == len(models)
    for answer, (model, tokenizer) in zip(answers, models.values(), strict=True):
        assert_same_ranking(answer, model, tokenizer)


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_the_prompt_is_the_timeline(tmp_path, fields):
    model, tokenizer = tiny_mera("llama", head=False, **fields)
    export_plain(model, tokenizer, tmp_path / "plain")
    prompt = Prompt(tmp_path / "plain")
    encoder = encoder_of(model, tokenizer)
    for patient in ROWS:
        assert prompt.ids(patient) == encoder.encode_history(patient).input_ids
    assert list(prompt.tokens) == CODES
    assert [tokenizer.convert_ids_to_tokens(token) for token in prompt.tokens.values()] == [
        f"<{code}>" for code in CODES
    ]
    with pytest.raises(KeyError, match="ICD9CM:733.00"):
        prompt.ids({"visits": [{"codes": ["ICD9CM:733.00"]}]})


def test_the_card_runs_and_says_how_a_prompt_is_written(tmp_path):
    model, tokenizer = tiny_mera("llama", head=False, provenance={"source": "diabetes130", "credentialed": False})
    export_plain(model, tokenizer, tmp_path / "plain")
    card = (tmp_path / "plain" / "README.md").read_text()
    (block,) = (part.split("```")[0] for part in card.split("```python\n")[1:])
    script = "import sys; sys.modules['mera_hf'] = None; sys.path.insert(0, '')\n" + block
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path / "plain")
    assert run.returncode == 0, run.stderr
    patient = {"profile": {"sex": "F", "age": 72}, "visits": [{"codes": CODES[:2]}]}
    assert run.stdout.strip() == str([CODES[code] for code in model.rank([patient], tokenizer).order[0, :10]])
    config = model.config
    for words in (
        f"`<bos>` ({tokenizer.bos_token_id})",
        f"`<profile>` ({config.profile_token_id})",
        f"`<visit>` ({config.visit_token_id})",
        f"the tokens {config.code_token_start} to {config.eov_token_id - 1}",
    ):
        assert words in card
    assert "a plain language model has no place" not in card and "by worth" not in card
    assert GenerationConfig.from_pretrained(tmp_path / "plain").eos_token_id == config.eov_token_id
    export = json.loads((tmp_path / "plain" / "export.json").read_text())
    assert export == {"left_behind": [], "measured": None, "provenance": model.config.provenance}


def test_what_a_plain_model_has_no_place_for():
    model, _ = tiny_mera("llama", head=False, positions="visit")
    assert lost_in_export(model) == ["one position for all codes of a visit"]
    model, _ = tiny_mera("llama", head=False)
    assert lost_in_export(model) == []
    with torch.no_grad():
        model.ranking_head.log_prevalence.fill_(-3.0)  # of no consequence without a gate
        assert lost_in_export(model) == []
        model.ranking_head.patient_gate.bias[2] = 0.1
        assert lost_in_export(model) == ["the history term"]
        model.ranking_head.code_bias[3] = 0.1
        assert lost_in_export(model) == ["the history term", "the code bias"]


@pytest.mark.parametrize("fields", [{}, {"positions": "visit"}], ids=["head", "positions"])
def test_the_measured_loss_is_that_of_what_is_served(tmp_path, fields):
    model, tokenizer = tiny_mera("llama", head=not fields, **fields)
    rows = patients(40, seed=7)
    histories = [{**row, "visits": row["visits"][:-1]} for row in rows]
    measured = measure_export(model, tokenizer, rows, "validation", batch_size=7)
    export_plain(model, tokenizer, tmp_path / "plain", measured)
    prompt = Prompt(tmp_path / "plain")
    served, plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval(), []
    for row in histories:
        scores = served(torch.tensor([prompt.ids(row)])).logits[0, -1]
        plain.append(sorted(CODES, key=lambda code: -scores[prompt.tokens[code]]))
    order = rank_plain(model, tokenizer, histories, len(CODES), 7).tolist()
    assert plain == [[CODES[code] for code in row] for row in order]
    whole = [[CODES[code] for code in row] for row in model.rank(histories, tokenizer).order.tolist()]
    assert whole != plain

    def recall(ranked):
        targets = [set(row["visits"][-1]["codes"]) for row in rows]
        return sum(len(target & set(row[:10])) / len(target) for row, target in zip(ranked, targets, strict=True)) / 40

    assert measured["patients"] == 40 and list(measured["recall"]) == ["recall@10"]  # there are 19 codes
    assert measured["recall"]["recall@10"] == pytest.approx((recall(whole), recall(plain)))
    card = (tmp_path / "plain" / "README.md").read_text()
    assert (
        f"On the 40 validation patients: recall@10 {100 * recall(whole):.1f} % with, {100 * recall(plain):.1f} %"
        in card
    )


@pytest.mark.parametrize("size", [11, len(CODES)])
def test_visits_with_more_codes_than_recall_looks_at(size):
    model, tokenizer = tiny_mera("llama")
    rows = patients(6, seed=3)
    rows[4]["visits"][-1]["codes"] = CODES[:size]
    measured = measure_export(model, tokenizer, rows, "validation", batch_size=4)
    histories = [{**row, "visits": row["visits"][:-1]} for row in rows]
    orders = model.rank(histories, tokenizer).order.tolist(), rank_plain(model, tokenizer, histories, 10, 6).tolist()
    for got, order in zip(measured["recall"]["recall@10"], orders, strict=True):
        targets = [{CODES.index(code) for code in row["visits"][-1]["codes"]} for row in rows]
        hits = [len(target & set(ranked[:10])) / len(target) for target, ranked in zip(targets, order, strict=True)]
        assert got == pytest.approx(sum(hits) / 6)


def test_order_by_worth_is_left_behind_and_said(tmp_path):
    model, tokenizer = tiny_mera("llama", head=False)
    model.config.rerank_depth = 5
    export_plain(model, tokenizer, tmp_path / "plain")
    assert "among the first 5: recall at 5 and beyond is the same" in (tmp_path / "plain" / "README.md").read_text()


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    model, tokenizer = tiny_mera("llama", head=False)
    model.config.text_config.is_encoder_decoder = True
    with pytest.raises(InputError, match="an encoder-decoder has no prompt"):
        export_plain(model, tokenizer, tmp_path / "plain")
    model.config.text_config.is_encoder_decoder = False
    model.is_quantized = True
    with pytest.raises(InputError, match="the weights are quantised or carry an adapter"):
        export_plain(model, tokenizer, tmp_path / "plain")
    del model.is_quantized
    with pytest.raises(InputError, match="has no patient with two visits"):
        measure_export(model, tokenizer, [], "test")
    assert not (tmp_path / "plain").exists()


def test_a_folder_is_not_lost(tmp_path):
    model, tokenizer = tiny_mera("llama", head=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no export"):
        export_plain(model, tokenizer, tmp_path / "mine", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        export_plain(model, tokenizer, tmp_path / "mine" / "letter")
    export_plain(model, tokenizer, tmp_path / "plain")
    (tmp_path / "plain" / "of the last time").touch()
    with pytest.raises(InputError, match="holds an export; .*--overwrite"):
        export_plain(model, tokenizer, tmp_path / "plain")
    export_plain(model, tokenizer, tmp_path / "plain", overwrite=True)
    assert not (tmp_path / "plain" / "of the last time").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "plain"}
