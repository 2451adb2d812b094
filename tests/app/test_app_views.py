"""What the page shows, as HTML: everything that is said, in its order, and nothing that a checkpoint smuggles in."""

import copy
import json
import re
from html import unescape

import pytest
from tiny import CODES

from mera_hf.app import views
from mera_hf.app.codes import Codes
from mera_hf.app.patient import EnteredPatient
from mera_hf.app.reading import ChosenCut, CodeRow, CutRanking, ranked, read, scale


EVIL = '<img src=x onerror="alert(1)">'
PATIENT = EnteredPatient((("ICD9CM:428.0", "ICD9CM:401.9"), (), ("ICD9CM:428.0",)))


def codes_of(model):
    return Codes(model.config.codes, model.config.descriptions, [0.0] * len(CODES))


def page(model, tokenizer, cut=None, top_k=5, patient=PATIENT, chosen=None):
    reading = read(model, tokenizer, patient.row({"sex": "F", "age": 70.0}))
    found = ranked(model, reading, cut or ChosenCut(), top_k)
    record = views.record(reading, found, patient, "tiny")
    return found, views.ranking(found, patient, codes_of(model), chosen, record), record


def lines(html):
    """The rows of a ranking in order: ranks as numbers, and the line of the cut as its words."""
    rows = re.findall(r'<li class="(ranked|line)[^"]*">(.*?)</li>', html, flags=re.S)
    words = [re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", inside)).strip() for _, inside in rows]
    return [
        int(re.match(r"Rank (\d+)", text)[1]) if kind == "ranked" else text
        for (kind, _), text in zip(rows, words, strict=True)
    ]


def test_the_line_stands_behind_the_set(plain):
    for value in (0.9, 0.2, 0.1, 0.05):
        found, html, _ = page(*plain, ChosenCut(value))
        size = found.size
        if size == 0:
            expected = ["Your cut no code is likely enough to be in the set", 1, 2, 3, 4, 5]
        elif size <= 5:
            above = "the code above is" if size == 1 else f"the {size} codes above are"
            expected = [*range(1, size + 1), f"Your cut {above} the predicted set", *range(size + 1, 6)]
        else:
            expected = [1, 2, 3, 4, 5, f"Your cut stands behind {size} codes: show more of them"]
        assert lines(html) == expected
        assert f"{size} code{'' if size == 1 else 's'} in the predicted set" in html
        assert html.count('class="ranked in"') == min(size, 5)


def test_what_the_line_is_called(plain):
    assert any("EOV" in str(line) for line in lines(page(*plain)[1]))
    found, html, record = page(*plain, ChosenCut(coverage=0.9), top_k=19)
    assert 1 < found.size < 19 and f"90 % the {found.size} codes above are the predicted set" in lines(html)
    assert "On average over patients like those of the validation split, 90" in html
    assert "in_set" in record["ranking"][0] and record["coverage"] == 0.9
    assert "have all codes of the visit in their set" in page(*plain, ChosenCut(coverage=0.8, coverage_of="visits"))[1]


def test_history_chosen_code_and_probabilities(plain):
    found, html, _ = page(*plain, top_k=19, chosen="ICD9CM:401.9")
    assert html.count("in the history") == 2
    assert re.findall(r'data-code="([^"]*)" aria-pressed="true"', html) == ["ICD9CM:401.9"]
    shown = [unescape(text) for text in re.findall(r'class="chance">([^<]*)<', html)]
    assert shown == [views.percent(row.probability) for row in found.rows]


def test_what_was_not_read_is_said(plain):
    model, tokenizer = copy.deepcopy(plain[0]), plain[1]
    assert "not read" not in page(model, tokenizer)[1]
    model.config.max_length = 15  # 9 tokens of head and mark, 4 of the first visit and 3 of the last
    found, html, record = page(model, tokenizer)
    assert found.unread_visits == record["unread_visits"] == 1
    assert "The oldest visit was not read: the history is longer than this model reads." in html
    row = PATIENT.row({"sex": "F", "age": 70.0})
    explained = views.code(model.explain(row, tokenizer, top_k=1), PATIENT, codes_of(model), False)
    names = [re.sub(r"\s+", " ", name) for name in re.findall(r'<span class="what">(Visit [^<]*)</span>', explained)]
    assert names and all(name.endswith("not read") == name.startswith("Visit 1") for name in names)


def test_what_was_recorded_is_counted_in_the_set(plain):
    model, tokenizer = plain
    order = [row.code for row in page(model, tokenizer, top_k=19)[0].rows]
    patient = EnteredPatient(PATIENT.visits, recorded=(order[0], order[18]))
    found, html, _ = page(model, tokenizer, ChosenCut(0.12), 19, patient)
    assert 0 < found.size < 19
    assert "recorded at the next visit: 2 codes, 1 of them in the set." in html
    assert html.count("recorded</span>") == 2


def test_the_record_is_what_predict_prints(weighed):
    from mera_hf.cli.predict import predict

    model, tokenizer = weighed
    patient = EnteredPatient((("ICD9CM:428.0", "ICD9CM:401.9"), ("ICD9CM:584.9",)))
    _, html, record = page(model, tokenizer, patient=patient)
    told = predict(model, tokenizer, patient.row({"sex": "F", "age": 70.0}), 5)
    for row in told["ranking"]:
        del row["levels"]  # a row here is a row of a table
    for name in ("visits", "set_size", "ranking"):
        assert record[name] == told[name]
    assert record["eov_value"] == model.config.eov_value and "not for clinical" in record["note"]
    assert record["profile"] == {"sex": "F", "age": 70.0, "race": None}
    assert json.loads(unescape(re.search(r'data-record="([^"]*)"', html)[1])) == record


@pytest.mark.parametrize(
    ("chances", "reordered", "says"),
    [
        ((0.3, 0.2, 0.1), 0, False),
        ((0.3, 0.1, 0.2), 0, True),
        ((0.2, 0.3, 0.1), 2, False),
        ((0.3, 0.2, 0.1, 0.2), 2, True),
    ],
)
def test_it_says_where_codes_do_not_stand_by_their_probability(plain, chances, reordered, says):
    rows = [CodeRow(rank, CODES[rank], "some", chance, chance) for rank, chance in enumerate(chances, start=1)]
    html = views.ranking(CutRanking(rows, 1, 1, ChosenCut(), 0.1, 0), PATIENT, codes_of(plain[0]), None, {}, reordered)
    assert ("stand in the order of the model's score" in html) is says
    assert ("weighted F1" in html) is (reordered > 0)


def test_bars_are_as_long_as_their_share(plain):
    rows = [CodeRow(1, CODES[0], "one", 0.2, 0.2), CodeRow(2, CODES[1], "two", 0.05, 0.05)]
    html = views.ranking(CutRanking(rows, 1, 1, ChosenCut(), 0.1, 0), PATIENT, codes_of(plain[0]), None, {})
    assert re.findall(r"<i style=\"width: ([\d.]+)%", html) == ["80.00", "20.00"]  # a full bar is 25 %


def test_every_visit_can_be_filled_moved_and_removed(plain):
    html = views.visits(PATIENT, codes_of(plain[0]), focus="search-2")
    assert re.findall(r'id="(search-\d|earlier-\d|later-\d|code-\d-\d)"', html) == [
        *("earlier-1", "later-1", "code-1-1", "code-1-2", "search-1"),
        *("earlier-2", "later-2", "search-2"),
        *("earlier-3", "later-3", "code-3-1", "search-3"),
    ]
    assert re.findall(r'id="([a-z]+-\d)"[^>]* disabled', html) == ["earlier-1", "later-3"]
    assert 'data-focus="search-2"' in html
    for control in re.findall(r"<(?:button|input)[^>]*>", html):
        assert "aria-label=" in control or 'class="quiet add"' in control, "a name for those who cannot see it"
    assert 'data-do="add-visit" disabled' in views.visits(EnteredPatient(), codes_of(plain[0]))


def test_the_scale_places_codes_eov_and_the_cut(plain, weighed, by_logit):
    for model, tokenizer in (plain, weighed, by_logit):
        reading = read(model, tokenizer, PATIENT.row({}))
        found = scale(model, reading, ChosenCut())
        html = views.cut(found, codes_of(model))
        places = [float(place) for place in re.findall(r'class="tick[^"]*" style="left: ([\d.-]+)%', html)]
        assert len(places) == len(found.rows) and all(0 <= place <= 100 for place in places)
        assert html.count('class="tick in"') == ranked(model, reading, ChosenCut(), 1).size
        assert f'value="{found.value}"' in html and f'data-eov="{found.eov}"' in html
        assert ("at its probability" in html) is (found.unit == "probability")
        assert ("the surer the model is of it" in html) is (found.unit == "logit")
    assert views.cut(None, codes_of(model)) == ""


def explained(model, tokenizer, code=None):
    reading = read(model, tokenizer, PATIENT.row({"sex": "F", "age": 70.0}))
    explanation = model.explain(reading.row, tokenizer, codes=None if code is None else [code], top_k=1)
    return explanation, views.code(explanation, PATIENT, codes_of(model), False)


def test_reasons_are_those_of_the_explanation_with_visits_as_entered(plain):
    explanation, html = explained(*plain, "ICD9CM:428.0")
    (of,) = explanation.codes
    assert f"Rank {of.rank} · {views.percent(of.probability)}" in html
    effects = [effect for branch in explanation.branches(of) for effect in branch]
    largest = max(abs(effect.probability) for effect in effects)
    large = [effect for effect in effects if abs(effect.probability) >= 0.1 * largest]
    changes = [unescape(text) for text in re.findall(r'class="change">([^<]*)<', html)]
    assert {views.points(effect.probability, 1 if largest >= 0.005 else 3) for effect in large} <= set(changes)
    folded = re.search(r"(\d+) parts? with less effect", html)
    assert len(changes) + int(folded[1] if folded else 0) == len(effects)
    parts = " ".join(re.findall(r'<span class="what">(.*?)</span>\n', html, flags=re.S))
    assert "Visit 2" not in parts and ("Visit 3" in parts or "Visit 1" in parts), "visit 2 is empty"


def test_the_tree_path_and_the_siblings_are_shown(plain):
    explanation, html = explained(*plain, "ICD9CM:250.01")
    (of,) = explanation.codes
    tree = html[html.index("Where it stands") :]
    for group in of.path:
        assert f"{group.expected_codes:.2f}" in tree and group.name.split()[0].removeprefix("ICD9CM:") in tree
    assert {f"ICD9CM:{code}" for code in ("250.00", "250.02")} <= set(re.findall(r'data-code="([^"]*)"', tree))
    assert 'data-code="ICD9CM:250.01"' not in tree and tree.count('aria-current="true"') == 1
    assert views.code(None, PATIENT, codes_of(plain[0]), False) == ""


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.1234, "12.3\u202f%"), (1.0, "100.0\u202f%"), (0.0005, "0.1\u202f%"), (0.0004, "<\u202f0.1\u202f%")],
)
def test_percent(share, text):
    assert views.percent(share) == text


@pytest.mark.parametrize(
    ("change", "digits", "text"),
    [(0.123, 1, "+12.3"), (-0.004, 1, "\u22120.4"), (0.0001, 1, "0"), (-0.00012, 3, "\u22120.012"), (0.0, 1, "0")],
)
def test_points(change, digits, text):
    assert views.points(change, digits) == text


def test_descriptions_of_a_checkpoint_are_text_and_never_markup(plain):
    model, tokenizer = plain
    before = model.config.descriptions
    try:
        model.config.descriptions = [EVIL] * len(CODES)
        _, html, _ = page(model, tokenizer, top_k=19)
        _, reasons = explained(model, tokenizer)
        codes = codes_of(model)
        shown = [html, reasons, views.visits(PATIENT, codes), views.header(EVIL, 3, True), views.stored_head(EVIL)]
        shown.append(views.cut(scale(model, read(model, tokenizer, PATIENT.row({})), ChosenCut()), codes))
    finally:
        model.config.descriptions = before
    for part in shown:
        assert "<img" not in part and "&lt;img" in part
