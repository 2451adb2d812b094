"""The pipeline "diagnosis-prediction": what it reads, what it gives, and what it refuses."""

import doctest
import inspect
import re
import textwrap

import pytest
import torch
from datasets import Dataset
from tiny import CODES, FAMILIES, patients, randomise_head, tiny_mera
from transformers import AutoModel, AutoTokenizer, pipeline

from mera_hf import DiagnosisPredictionPipeline, MeraForDiagnosis
from mera_hf.data.memorizing import memorizing_texts
from mera_hf.icd import describe, sort_codes
from mera_hf.training.code_tokens import add_code_tokens, peft_config
from mera_hf.training.from_scratch import from_scratch


PROFILE = {"sex": "F", "age": 72, "race": "White"}
VISITS = [["ICD9CM:250.00", "ICD9CM:401.9"], ["ICD9CM:428.0"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, tokenizer = tiny_mera("llama", conformal={"patients": 99, "codes": {"0.8": 0.03}, "visits": {"0.8": 0.01}})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def predict(folder):
    return pipeline("diagnosis-prediction", model=str(folder), device="cpu")


def rank(predict, rows, **options):
    return predict.model.rank(rows, predict.tokenizer, **options)


def assert_same(ours, theirs):
    """Equal but for the last digits of the probabilities, which depend on the batch."""
    for result, other in zip(ours, theirs, strict=True):
        rows, others = result["ranking"], other["ranking"]
        assert [{**row, "probability": 0} for row in rows] == [{**row, "probability": 0} for row in others]
        assert [row["probability"] for row in rows] == pytest.approx([row["probability"] for row in others], abs=1e-5)
        assert {**result, "ranking": 0} == {**other, "ranking": 0}


def test_the_task_loads_the_local_classes(predict):
    assert type(predict) is DiagnosisPredictionPipeline and type(predict.model) is MeraForDiagnosis
    assert not predict.model.training


def test_what_it_says_is_the_ranking_of_the_model(predict):
    rows = patients(4)
    ranking = rank(predict, rows)
    results = predict(rows, top_k=None)
    for number, (row, result) in enumerate(zip(rows, results, strict=True)):
        shown = result["ranking"]
        assert [one["code"] for one in shown] == [CODES[index] for index in ranking.order[number]]
        assert [one["probability"] for one in shown] == pytest.approx(ranking.probabilities[number].tolist(), abs=1e-6)
        assert [one["rank"] for one in shown] == list(range(1, len(CODES) + 1))
        assert result["set_size"] == ranking.set_sizes[number]
        assert sum(one["above_eov"] for one in shown) == result["set_size"]
        history = {code for visit in row["visits"] for code in visit["codes"]}
        assert {one["code"] for one in shown if one["in_history"]} == history
        assert all(one["description"] == describe(one["code"]) for one in shown)
    assert len(predict(rows[0])["ranking"]) == len(CODES) < 20
    assert_same([predict(rows[0], top_k=3)], [{**results[0], "ranking": results[0]["ranking"][:3]}])


def test_levels_are_the_way_from_the_root(predict):
    ranking = predict("428.0", top_k=None)["ranking"]
    levels = next(row["levels"] for row in ranking if row["code"] == "ICD9CM:250.01")
    assert list(levels) == ["chapter", "block", "category", "subcategory1", "subcategory2"]
    assert [name.split()[0] for name in levels.values()] == [
        "ICD9CM:240-279",
        "ICD9CM:249-259",
        "ICD9CM:250",
        "ICD9CM:250.0",
        "ICD9CM:250.01",
    ]
    assert levels["category"] == "ICD9CM:250 Diabetes mellitus"
    assert list(next(row["levels"] for row in ranking if row["code"] == "ICD9CM:486"))[-1] == "category"


@pytest.mark.parametrize(
    "patient",
    [
        {"visits": "25000 4019; 428.0", **PROFILE},
        {"visits": [["250.00", "401.9", "25000"], ["ICD-9:4280"]], "profile": PROFILE},
        {"visits": [{"codes": ["icd9cm:25000", "4019"]}, {"codes": ("4280",), "time": None}], **PROFILE},
        {"visits": "250.00, 401.9; 428.0;", "profile": {"race": "White", "age": 72}, "sex": "female"},
        {"patient_id": "7", "visits": VISITS, "profile": PROFILE},
    ],
)
def test_a_patient_is_written_in_many_ways(patient, predict):
    result = predict(patient)
    assert result["visits"] == VISITS
    assert_same([result], [predict({"visits": VISITS, "profile": PROFILE})])


def test_the_visits_alone_are_a_patient(predict):
    assert_same([predict("250.00 401.9; 428.0")], [predict({"visits": VISITS})])
    assert predict({"visits": VISITS}) != predict({"visits": VISITS, "sex": "F"})
    assert predict({"visits": []})["visits"] == []


def test_any_number_of_patients_in_batches(predict):
    rows = patients(7)
    alone = [predict(row, top_k=5) for row in rows]
    for size in (1, 3, 64):
        assert_same(predict(rows, top_k=5, batch_size=size), alone)
    assert_same(predict(tuple(rows), top_k=5), alone)
    assert_same(list(predict(Dataset.from_list(rows), top_k=5, batch_size=2)), alone)
    assert predict([]) == []

    taken = []
    stream = predict((taken.append(number) or row for number, row in enumerate(rows)), top_k=5, batch_size=2)
    assert taken == []
    assert_same([next(stream)], alone[:1])
    assert taken == [0, 1]
    assert_same(list(stream), alone[1:])


def test_parameters_of_the_pipeline_hold_for_every_call(folder):
    predict = pipeline("diagnosis-prediction", model=str(folder), device="cpu", top_k=2, batch_size=2)
    assert [len(result["ranking"]) for result in predict(patients(3))] == [2, 2, 2]
    assert len(predict("428.0", top_k=4)["ranking"]) == 4
    with pytest.raises(ValueError, match="`topk` is not a parameter"):
        predict("428.0", topk=4)


def test_a_threshold_makes_the_set(predict):
    row = patients(1)[0]
    everything = predict(row, top_k=None)["ranking"]
    threshold = sorted(one["probability"] for one in everything)[-7] - 1e-4
    result = predict(row, top_k=3, threshold=threshold)
    assert result["set_size"] == 7 and result["threshold"] == threshold
    assert [one["in_set"] for one in result["ranking"]] == [one["probability"] >= threshold for one in everything[:3]]
    assert "above_eov" not in result["ranking"][0]
    assert predict(row, threshold=1.0)["set_size"] == 0
    for wrong in (1.5, -0.1):
        with pytest.raises(ValueError, match="`threshold` is .*; give a probability"):
            predict(row, threshold=wrong)
    with pytest.raises(ValueError, match="give one of the two"):
        predict(row, threshold=0.5, coverage=0.8)


def test_a_coverage_makes_the_set(predict):
    rows = patients(3)
    for kind in ("codes", "visits"):
        sizes = rank(predict, rows, coverage=0.8, coverage_of=kind).set_sizes.tolist()
        results = predict(rows, coverage=0.8, coverage_of=kind, top_k=None)
        assert [result["set_size"] for result in results] == sizes
        assert [sum(one["in_set"] for one in result["ranking"]) for result in results] == sizes
        assert (results[0]["coverage"], results[0]["coverage_of"]) == (0.8, kind)
    with pytest.raises(ValueError, match="choose one of 0.8"):
        predict(rows, coverage=0.9)


def test_explanations_are_those_of_the_model(predict):
    rows = patients(2)
    results = predict(rows, explain=2, top_k=3)
    for row, result in zip(rows, results, strict=True):
        explanation = predict.model.explain(row, predict.tokenizer, top_k=2).to_dict()
        assert result["explanation"] == explanation
        assert [code["code"] for code in explanation["codes"]] == [one["code"] for one in result["ranking"][:2]]
    assert "explanation" not in predict(rows[0])


@pytest.mark.parametrize(
    ("patient", "message"),
    [
        ("428.0; 999", "patient 2, visit 2: '999' is not one of the 19 codes"),
        ("428.0; 428", "patient 2, visit 2: '428' is not one"),  # which of its codes is meant is not known
        ("428.0; ; 486", "patient 2, visit 2 of 3 is empty"),
        ("", "patient 2, visit 1 of 1 is empty"),
        ({"visits": [["428.0"], []]}, "patient 2, visit 2 of 2 is empty"),
        ({"visits": [[428.0]]}, "patient 2, visit 1: a code must be a string, got 428.0"),
        ({"visits": ["428.0", "486"]}, "patient 2, visit 1: its codes are '428.0'; give a list"),
        ({"visits": [{"code": ["428.0"]}]}, "patient 2, visit 1: its codes are None"),
        ({"visits": "428.0", "gender": "F"}, "patient 2 has the field 'gender'; the fields are"),
        ({"visits": "428.0", "profile": {"gender": "F"}}, "patient 2: the profile has the field 'gender'"),
        ({"profile": PROFILE}, "patient 2 has no 'visits'"),
        ({"visits": "428.0", "sex": "x"}, "patient 2: `sex` is 'x'; give 'F' or 'M'"),
        ({"visits": "428.0", "age": "old"}, "patient 2: `age` is 'old'"),
        ({"visits": "428.0", "age": -3}, "patient 2: `age` is -3"),
        ({"visits": "428.0", "age": float("nan")}, "patient 2: `age` is nan"),
        ({"visits": "428.0", "race": 3}, "patient 2: `race` is 3"),
        (["428.0"], "patient 2 is list; give a dict"),
    ],
)
def test_what_cannot_be_read_is_refused_by_patient_and_visit(patient, message, predict):
    with pytest.raises(ValueError, match=re.escape(message)):
        predict(["428.0", patient])
    with pytest.raises(ValueError, match=re.escape(message)):  # the second of all, in whatever batch
        predict(["428.0", patient], batch_size=1)


def test_wrong_parameters_are_refused(predict):
    for options, message in (({"top_k": 0}, "`top_k` is 0"), ({"icd": "10"}, "knows ICD-9-CM codes only")):
        with pytest.raises(ValueError, match=message):
            predict("428.0", **options)


def test_a_model_of_both_versions_asks_which():
    codes = sort_codes([*CODES, "ICD10CM:I10", "ICD10CM:E11.65", "ICD10CM:I50.9"])
    model, tokenizer = from_scratch(FAMILIES["llama"], memorizing_texts(codes), 0)
    add_code_tokens(model, tokenizer, codes)
    randomise_head(model)
    predict = DiagnosisPredictionPipeline(model=model, tokenizer=tokenizer, device="cpu")
    with pytest.raises(ValueError, match="patient 1, visit 1: '428.0' may be ICD-9-CM or ICD-10-CM"):
        predict("428.0")
    assert predict("428.0; ICD10CM:I10", icd="9")["visits"] == [["ICD9CM:428.0"], ["ICD10CM:I10"]]
    assert predict("E1165 I50.9", icd=10)["visits"] == [["ICD10CM:E11.65", "ICD10CM:I50.9"]]


def test_a_model_that_does_not_rank_is_refused():
    model, tokenizer = tiny_mera("llama", head=False)
    with pytest.raises(ValueError, match="was not trained to rank codes"):
        DiagnosisPredictionPipeline(model=model, tokenizer=tokenizer, device="cpu")


def test_an_adapter_loads_with_its_base(folder, tmp_path):
    from peft import get_peft_model

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    adapted = get_peft_model(model, peft_config(model, r=4)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.glob("adapter_*")} == {".json", ".safetensors"}
    rows = patients(3)
    results = pipeline("diagnosis-prediction", model=str(tmp_path), device="cpu")(rows)
    assert_same(results, DiagnosisPredictionPipeline(model=adapted, tokenizer=tokenizer, device="cpu")(rows))
    assert results != pipeline("diagnosis-prediction", model=str(folder), device="cpu")(rows)


def test_saving_writes_safetensors_and_code_and_leaves_the_model_as_it_was(predict, tmp_path):
    before = predict.model.config.to_dict()
    predict.save_pretrained(tmp_path / "with code")
    predict.model.save_pretrained(tmp_path / "without")
    assert predict.model.config.to_dict() == before
    names = {path.name for path in (tmp_path / "with code").iterdir()}
    code = {"attention", "configuration", "explanation", "modeling", "pipeline", "spelling", "timeline"}
    assert names == {f"{name}_mera.py" for name in code} | {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"config.json", "model.safetensors"}
    # With this package its own code is taken, and no trust is asked for
    again = pipeline("diagnosis-prediction", model=str(tmp_path / "with code"), device="cpu")
    assert type(again) is DiagnosisPredictionPipeline and type(again.model) is MeraForDiagnosis
    assert_same([again("428.0")], [predict("428.0")])


def run_example(code: str, folder) -> list[dict]:
    assert code.count("mera-demo/model") == 1
    names: dict = {}
    exec(code.replace("mera-demo/model", str(folder)), names)
    return names["result"]["ranking"]


def test_the_example_of_the_docstring_runs(folder, capsys):
    examples = doctest.DocTestParser().get_examples(textwrap.dedent(inspect.getdoc(DiagnosisPredictionPipeline)))
    ranking = run_example("".join(example.source for example in examples), folder)
    printed = capsys.readouterr().out
    assert len(ranking) == 5 and all(row["description"] in printed for row in ranking)
