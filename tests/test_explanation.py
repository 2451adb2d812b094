"""What a part of the history did is what the ranking is without it."""

import copy
import json
import re
from dataclasses import asdict

import pytest
import torch
from tiny import CODES, TEXTS, patients, tiny_mera
from transformers import AutoModel

from mera_hf.explanation_mera import Effect, ExplainedCode, Explanation, RankedCode, TreeGroup, explain
from mera_hf.training.from_scratch import word_tokenizer


A, B, C = "ICD9CM:250.01", "ICD9CM:401.9", "ICD9CM:428.0"
PROFILE = {"sex": "F", "age": 72.0, "race": "White"}


def patient(*visits, profile=PROFILE):
    return {"profile": profile, "visits": [{"codes": list(codes)} for codes in visits]}


def double(family="llama", **fields):
    model, tokenizer = tiny_mera(family, **fields)
    return model.double(), tokenizer


def without(row: dict, effect: Effect) -> dict:
    """The row by hand without what an effect says was left out."""
    row = copy.deepcopy(row)
    if effect.kind in ("sex", "age", "race"):
        del row["profile"][effect.kind]
        return row
    for number in effect.visits:
        visit = row["visits"][number - 1]
        if effect.kind == "text":
            visit["text"] = None
        else:
            visit["codes"] = [code for code in visit["codes"] if effect.code not in (None, code)]
    row["visits"] = [visit for visit in row["visits"] if visit["codes"]]
    return row


def said(model, tokenizer, row, code, **options):
    """Log-odds, probability and rank of a code, and the size of the set, from one pass of one patient."""
    index = CODES.index(code)
    ranking = model.rank([row], tokenizer, **options)
    ((_, output, batch),) = model.decisions([row], tokenizer, **options)
    log_odds = model.log_odds(output, batch["history_codes"], batch["history_values"])[0, index]
    place = ranking.order[0].tolist().index(index)
    return float(log_odds), float(ranking.probabilities[0, place]), place + 1, int(ranking.set_sizes[0])


CALIBRATED = {"calibration": [0.2, 0.8, 0.5, -0.3, 0.1, 0.4], "eov_value": 0.18, "rerank_depth": 5}


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {}),
        ("llama", {"use_visit_text": True, **CALIBRATED}),
        ("llama", {"positions": "visit", "use_profile": False}),
        ("t5", {"history_text": "code+description"}),
    ],
    ids=["plain", "text and calibration", "shared positions", "encoder-decoder"],
)
def test_an_effect_is_the_ranking_less_the_ranking_without_the_part(family, fields):
    written = {name: fields[name] for name in fields if name not in CALIBRATED}
    model, tokenizer = double(family, **written)
    for name in CALIBRATED.keys() & fields.keys():
        setattr(model.config, name, CALIBRATED[name])
    kinds, sizes, moved = set(), set(), 0
    for row in patients(3, seed=5, fewest_visits=1):
        row["profile"] = PROFILE
        explanation = model.explain(row, tokenizer, top_k=2)
        assert [code.rank for code in explanation.codes] == [1, 2]
        for code in explanation.codes:
            log_odds, probability, rank, size = said(model, tokenizer, row, code.code)
            assert (code.rank, explanation.set_size) == (rank, size)
            assert code.probability == pytest.approx(probability, abs=1e-6)
            assert code.log_odds == pytest.approx(log_odds, abs=1e-6)
            for effect in code.effects:
                other = said(model, tokenizer, without(row, effect), code.code)
                assert effect.log_odds == pytest.approx(log_odds - other[0], abs=1e-6)
                assert effect.probability == pytest.approx(probability - other[1], abs=1e-6)
                assert (effect.rank_without, effect.set_size_without) == other[2:]
                moved += effect.rank_without != rank
                kinds.add(effect.kind)
                sizes.add(effect.set_size_without)
    profile = set() if fields.get("use_profile") is False else {"sex", "age", "race"}
    text = {"text"} if fields.get("use_visit_text") else set()
    assert kinds == {"history", "visit", "code"} | profile | text
    assert moved and len(sizes) > 1  # something was there to be measured


def test_the_parts_by_hand(llama):
    model, tokenizer = llama
    row = patient([C, A, C], [B], [A], profile={"sex": "F", "age": None})
    code = model.explain(row, tokenizer, top_k=1).codes[0]
    assert [(effect.kind, effect.visits, effect.code) for effect in code.effects] == [
        ("history", [1, 2, 3], None),
        ("visit", [1], None),
        ("code", [1], A),
        ("code", [1], C),
        ("visit", [2], None),
        ("code", [2], B),
        ("visit", [3], None),
        ("code", [3], A),
        ("code", [1, 3], A),
        ("sex", [], None),
    ]
    described = {effect.code: effect.description for effect in code.effects}
    assert described[C] == model.config.descriptions[CODES.index(C)] and described[None] is None


def test_what_is_left_the_same_is_read_once(llama):
    model, tokenizer = llama
    read = []

    def count(batches):
        for batch in batches:
            read.append(len(batch))
            yield batch

    explanation = model.explain(patient([A], [A], profile=None), tokenizer, progress=count)
    # Without everything, without either visit, and the same for the code: nothing, or one visit with A
    assert [len(code.effects) for code in explanation.codes] == [6, 6, 6] and sum(read) == 2
    first, second = (explanation.codes[0].effects[place] for place in (1, 3))
    assert (first.kind, second.kind) == ("visit", "visit") and first.log_odds == second.log_odds


def test_taking_out_what_helped_most_lowers_the_score_by_what_was_said(llama):
    model, tokenizer = llama
    row = patient([A, B], [C, A, "ICD9CM:486"])
    code = model.explain(row, tokenizer, codes=[A]).codes[0]
    best = max((effect for effect in code.effects if effect.kind == "code"), key=lambda effect: effect.log_odds)
    assert best.log_odds > 0.01
    left = model.explain(without(row, best), tokenizer, codes=[A]).codes[0]
    assert left.log_odds == pytest.approx(code.log_odds - best.log_odds, abs=1e-5)
    assert left.probability == pytest.approx(code.probability - best.probability, abs=1e-5)
    assert left.rank == best.rank_without


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_batch_and_the_order_of_codes_change_nothing(family):
    model, tokenizer = double(family)
    row = patients(1, seed=2, fewest_visits=4)[0]
    whole = model.explain(row, tokenizer).to_dict()
    for options in ({"batch_size": 1}, {"batch_size": 3}, {"batch_tokens": 20}, {"batch_tokens": None}):
        assert_close(model.explain(row, tokenizer, **options).to_dict(), whole)
    turned = {**row, "visits": [{**visit, "codes": visit["codes"][::-1] * 2} for visit in row["visits"]]}
    assert model.explain(turned, tokenizer).to_dict() == whole
    model.train()
    assert model.explain(row, tokenizer).to_dict() == whole and model.training


def assert_close(found, wanted):
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        found, wanted = list(found.values()), list(wanted.values())
    if isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    else:
        assert found == (pytest.approx(wanted, abs=2e-6) if isinstance(wanted, float) else wanted)


def test_a_budget_of_tokens_bounds_the_batches(llama):
    model, tokenizer = llama
    shapes = []
    forward = model.forward
    model.forward = lambda **batch: shapes.append(batch["input_ids"].shape) or forward(**batch)
    row = patients(1, seed=2, fewest_visits=4)[0]
    model.explain(row, tokenizer, batch_tokens=60)
    assert max(count * width for count, width in shapes[1:]) <= 60 < sum(count * width for count, width in shapes[1:])
    assert max(count for count, _ in shapes) > 1


def test_a_history_that_does_not_fit_is_explained_as_it_is_ranked(llama):
    model, tokenizer = llama
    model.double()
    row = patient(*[[A, B], [C], [B, C]] * 3)
    options = {"max_length": 18}
    explanation = model.explain(row, tokenizer, top_k=1, **options)
    code = explanation.codes[0]
    log_odds, _, rank, _ = said(model, tokenizer, row, code.code, **options)
    assert rank == 1 and log_odds != said(model, tokenizer, row, code.code)[0]
    for effect in code.effects:
        other, _, rank, _ = said(model, tokenizer, without(row, effect), code.code, **options)
        assert effect.log_odds == pytest.approx(log_odds - other, abs=1e-6) and effect.rank_without == rank
    (unread,) = model.rank([row], tokenizer, **options).unread_visits.tolist()
    assert 0 < unread < 9 and explanation.unread_visits == explanation.to_dict()["unread_visits"] == unread
    assert model.explain(row, tokenizer).unread_visits == 0
    model.config.max_length = 18
    assert model.explain(row, tokenizer, top_k=1) == explanation


def test_the_text_says_which_visits_were_not_read(llama):
    model, tokenizer = llama
    row = patient(*[[A, B], [C], [B, C]] * 3)
    explanation = model.explain(row, tokenizer, top_k=len(CODES), max_length=18)
    lines = [
        line for line in explanation.to_text().splitlines() if re.search(r" visit \d", line) and "Codes in" not in line
    ]
    said = {int(re.search(r"visit (\d)", line)[1]): "not read" in line for line in lines}
    assert said and all(unread == (number <= explanation.unread_visits) for number, unread in said.items())


def test_patients_of_whom_little_is_known(llama):
    model, tokenizer = llama
    profile_alone = model.explain({"profile": {"age": 50}, "visits": []}, tokenizer)
    assert [effect.kind for effect in profile_alone.codes[0].effects] == ["age"]
    assert profile_alone.profile == {"age": "aged 50 to 59"} and "without any visit" not in profile_alone.to_text()
    nothing = model.explain({"visits": []}, tokenizer, top_k=1)
    assert nothing.codes[0].effects == [] and "no visit and no profile to leave out" in nothing.to_text()
    one = model.explain(patient([C], profile=None), tokenizer, top_k=1)
    effects = one.codes[0].effects
    assert [effect.kind for effect in effects] == ["history", "visit", "code"]
    assert len({effect.log_odds for effect in effects}) == 1
    # Without the one visit nothing is known
    alone = model.explain({"visits": []}, tokenizer, codes=[one.codes[0].code])
    assert alone.codes[0].rank == effects[0].rank_without


def test_codes_are_explained_in_the_order_in_which_they_are_named(llama):
    model, tokenizer = llama
    row = patient([A, B], [C])
    named = explain(model, row, tokenizer, codes=[C, A, C])
    assert [code.code for code in named.codes] == [C, A]
    everything = model.explain(row, tokenizer, top_k=1000)
    assert [code.rank for code in everything.codes] == list(range(1, len(CODES) + 1))
    ranking = model.rank([row], tokenizer)
    assert [code.code for code in everything.codes] == [CODES[index] for index in ranking.order[0]]
    for code in named.codes:
        assert_close(asdict(code), next(asdict(other) for other in everything.codes if other.code == code.code))


def test_what_cannot_be_explained_is_refused(llama):
    model, tokenizer = llama
    row = patient([A])
    with pytest.raises(ValueError, match="`codes`: ICD9CM:001.0 is not one of the 19 codes of this model"):
        model.explain(row, tokenizer, codes=[A, "ICD9CM:001.0"])
    with pytest.raises(ValueError, match="code ICD9CM:001.0 is not one of the 19 codes of this model"):
        model.explain(patient(["ICD9CM:001.0"]), tokenizer)
    with pytest.raises(ValueError, match="`codes` is empty"):
        model.explain(row, tokenizer, codes=[])
    for name in ("top_k", "batch_size", "batch_tokens"):
        with pytest.raises(ValueError, match=f"`{name}` is 0; it must be 1 or more"):
            model.explain(row, tokenizer, **{name: 0})
    with pytest.raises(ValueError, match="`tokenizer` does not belong to this model"):
        model.explain(row, word_tokenizer(["nothing"]))


# -- the tree -----------------------------------------------------------------------------------------------------


def test_the_place_on_the_tree_by_hand(llama, tmp_path):
    model, tokenizer = llama
    model.save_pretrained(tmp_path)  # puts the levels in alphabetical order
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    row = patient([B], [C])
    explanation = model.explain(row, tokenizer, codes=["ICD9CM:250.01", "ICD9CM:486", "ICD9CM:410.71"])
    assert loaded.explain(row, tokenizer, codes=["ICD9CM:250.01", "ICD9CM:486", "ICD9CM:410.71"]) == explanation
    ranking = model.rank([row], tokenizer)
    chances = dict(zip(ranking.order[0].tolist(), ranking.probabilities[0].tolist(), strict=True))
    ranks = {CODES[index]: rank for rank, index in enumerate(ranking.order[0].tolist(), start=1)}

    def expected(count, *prefixes):
        codes = [i for i, code in enumerate(CODES) if code.removeprefix("ICD9CM:").startswith(prefixes)]
        return count, pytest.approx(sum(chances[index] for index in codes), abs=1e-5)

    def path(code):
        return [(group.level, group.name.split()[0], (group.codes, group.expected_codes)) for group in code.path]

    diabetes, pneumonia, infarction = explanation.codes
    assert path(diabetes) == [
        ("chapter", "ICD9CM:240-279", expected(7, "250", "272", "276")),
        ("block", "ICD9CM:249-259", expected(4, "250")),
        ("category", "ICD9CM:250", expected(4, "250")),
        ("subcategory1", "ICD9CM:250.0", expected(3, "250.0")),
    ]
    siblings = [code for code in CODES if code.startswith("ICD9CM:250.0") and code != "ICD9CM:250.01"]
    assert [sibling.code for sibling in diabetes.siblings] == sorted(siblings, key=ranks.get)
    assert [sibling.rank for sibling in diabetes.siblings] == sorted(map(ranks.get, siblings))
    for sibling in diabetes.siblings:
        assert sibling.probability == pytest.approx(chances[CODES.index(sibling.code)], abs=1e-5)
    # Alone in every group: on a path of groups without siblings
    assert path(pneumonia) == [
        ("chapter", "ICD9CM:460-519", expected(1, "486")),
        ("block", "ICD9CM:480-488", expected(1, "486")),
    ]
    assert pneumonia.siblings == []
    # Alone in its block: the chapter holds its siblings
    assert [sibling.code[7:10] for sibling in sorted(infarction.siblings, key=lambda s: s.code)] == [
        *("401", "401", "427", "428", "428")
    ]
    assert explanation.expected_codes == pytest.approx(sum(chances.values()), abs=1e-4)


# -- what is written ----------------------------------------------------------------------------------------------


def made_up(**fields) -> Explanation:
    """A small explanation with round figures."""
    effects = [
        Effect("history", [1, 2], None, None, 0.38, 2.0, 14, 0),
        Effect("visit", [1], None, None, -0.02, -0.1, 1, 3),
        Effect("code", [1], C, "Heart failure", 0.01, 0.1, 1, 2),
        Effect("code", [1], B, "Hypertension", -0.05, -0.2, 1, 2),
        Effect("visit", [2], None, None, 0.12, 0.5, 3, 1),
        Effect("code", [2], C, "Heart failure", 0.12, 0.5, 3, 1),
        Effect("code", [1, 2], C, "Heart failure", 0.25, 1.5, 9, 0),
        Effect("age", [], None, None, 0.006, 0.01, 1, 2),
    ]
    path = [
        TreeGroup("chapter", "ICD9CM:390-459 Circulation", 9, 1.25),
        TreeGroup("block", "ICD9CM:420-429 Heart", 6, 0.5),
    ]
    siblings = [RankedCode(f"ICD9CM:42{i}", f"Sibling {i}", 10 * i, 0.1 / 10**i) for i in range(1, 6)]
    fields = {"code": C, "description": "Heart failure", "rank": 1, "probability": 0.41, "log_odds": -0.36} | fields
    code = ExplainedCode(**fields, path=path, siblings=siblings, effects=effects)
    return Explanation([[B, C], [C]], {"age": "aged 70 to 79"}, 2, 2.9, [code])


def test_the_text_line_by_line():
    assert made_up().to_text().splitlines()[3:] == [
        "rank 1: 428.0 Heart failure, 41.0%, in the predicted set",
        "  without any visit: rank 14, 3.0%",
        "   +25.0  428.0 Heart failure, all 2 times; without it rank 9, not in the set",
        "   +12.0  visit 2, the last: 428.0; without it rank 3, not in the set",
        "    -2.0  visit 1: 401.9 428.0",
        "    -5.0    401.9 Hypertension",
        "          parts not shown (2): 1.0 points or less each",
        "  on the tree: codes expected at the next visit (2.90 in all), and the probabilities of codes",
        "    1.25  390-459 Circulation",
        "    0.50    420-429 Heart",
        "   41.0%      > rank 1  428.0 Heart failure",
        "    1.0%        rank 10 421 Sibling 1",
        "    0.1%        rank 20 422 Sibling 2",
        "   <0.1%        rank 30 423 Sibling 3",
        "                2 more that it beat",
        "",
        "Codes in the predicted set: 2; 0 without any visit; 0 without 428.0; 3 without visit 1.",
        "This says what the model used, not what causes a disease.",
    ]


def test_the_text_of_a_code_that_lost():
    text = made_up(rank=35, probability=0.41).to_text()
    assert "rank 35: 428.0 Heart failure, 41.0%, not in the predicted set" in text
    lines = text.splitlines()
    at = lines.index("   41.0%      > rank 35 428.0 Heart failure")
    assert lines[at - 1] == "   <0.1%        rank 30 423 Sibling 3"
    assert lines[at + 1] == "   <0.1%        rank 40 424 Sibling 4"
    text = made_up(rank=45).to_text()
    assert "1 more ahead of it" in text and "more that it beat" not in text


def test_small_effects_have_digits_of_their_own():
    explanation = made_up()
    for effect in explanation.codes[0].effects:
        effect.probability /= 100
    text = explanation.to_text()
    assert "  +0.250  428.0 Heart failure, all 2 times" in text and "0.010 points or less each" in text


def test_text_fits_the_terminal_and_names_the_version_where_there_are_two():
    explanation = made_up(description="Heart failure " * 20)
    explanation.codes[0].path[0].name += " of words" * 20
    explanation.visits[0] = [f"ICD9CM:4{number}" for number in range(60)]
    lines = explanation.to_text().splitlines()
    assert max(map(len, lines)) == 100
    assert [line for line in lines if line.startswith("rank 1: ")][0].endswith("..., 41.0%, in the predicted set")
    explanation.visits[0] = ["ICD10CM:E11.9", "ICD10CM:I10"]
    assert (
        "rank 1: ICD9CM:428.0 Heart" in explanation.to_text()
        and "visit 1: ICD10CM:E11.9 ICD10CM:I10" in explanation.to_text()
    )


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_text_and_json_of_a_model(family):
    model, tokenizer = tiny_mera(family, use_visit_text=True)
    row = patients(1, seed=1, fewest_visits=4)[0]
    row["visits"][0]["text"], row["profile"] = TEXTS[0], PROFILE
    explanation = model.explain(row, tokenizer, top_k=4)
    written = json.loads(json.dumps(explanation.to_dict()))
    assert [code["rank"] for code in written["codes"]] == [1, 2, 3, 4]
    assert written["profile"] == {"sex": "female", "age": "aged 70 to 79", "race": "white"}
    assert written["visits"] == [[c for c in CODES if c in visit["codes"]] for visit in row["visits"]]
    first = explanation.codes[0].effects[0]
    assert written["codes"][0]["effects"][0]["log_odds"] == pytest.approx(first.log_odds, abs=5e-7)
    assert first.kind == "history" and isinstance(first.log_odds, float)
    text = explanation.to_text()
    assert max(map(len, text.splitlines())) <= 100 and text.count("\nrank ") == 4
    assert torch.is_grad_enabled()
