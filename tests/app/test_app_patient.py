"""The patient as entered, and what the page may do to it."""

import random

import pytest

from mera_hf.app.edits import edit
from mera_hf.app.patient import EnteredPatient


THREE = EnteredPatient((("a", "b"), ("c",), ("d",)), recorded=("e",))
KNOWN = frozenset("abcdefgh")


def do(patient, name, **action):
    return edit(patient, {"do": name, **action}, KNOWN.__contains__)


def test_a_visit_holds_a_code_once():
    patient = EnteredPatient().add_code(1, "a").add_code(1, "a").add_code(1, "b")
    assert patient.visits == (("a", "b"),) and patient.history == {"a", "b"}
    assert patient.remove_code(1, "a").visits == (("b",),)


def test_there_is_always_a_visit_to_enter_codes_into():
    assert EnteredPatient().remove_visit(1).visits == ((),)
    assert THREE.remove_visit(2).visits == (("a", "b"), ("d",))


def test_visits_move_and_stop_at_the_ends():
    assert THREE.move_visit(3, -1).visits == (("a", "b"), ("d",), ("c",))
    assert THREE.move_visit(1, 1).visits == (("c",), ("a", "b"), ("d",))
    assert THREE.move_visit(1, -1).visits == THREE.visits == THREE.move_visit(3, 1).visits


def test_the_model_reads_visits_with_codes_and_what_is_known():
    patient = EnteredPatient(((), ("a",), (), ("b",)))
    assert patient.filled == [2, 4]
    row = patient.row({"sex": "F", "age": 70.0, "patient_id": "17"})
    assert row == {"profile": {"sex": "F", "age": 70.0, "race": None}, "visits": [{"codes": ["a"]}, {"codes": ["b"]}]}


@pytest.mark.parametrize(
    "change",
    [
        lambda patient: patient.add_code(1, "g"),
        lambda patient: patient.remove_code(1, "a"),
        lambda patient: patient.add_visit(),
        lambda patient: patient.remove_visit(1),
        lambda patient: patient.move_visit(1, 1),
    ],
)
def test_what_was_recorded_belongs_to_the_unchanged_patient(change):
    assert THREE.add_code(1, "a").recorded == ("e",)
    assert change(THREE).recorded == ()


@pytest.mark.parametrize(
    ("action", "visits", "focus"),
    [
        ({"do": "add-code", "visit": 2, "code": "f"}, (("a", "b"), ("c", "f"), ("d",)), "search-2"),
        ({"do": "remove-code", "visit": 1, "code": "a"}, (("b",), ("c",), ("d",)), "code-1-1"),
        ({"do": "remove-code", "visit": 1, "code": "b"}, (("a",), ("c",), ("d",)), "code-1-1"),
        ({"do": "remove-code", "visit": 2, "code": "c"}, (("a", "b"), (), ("d",)), "search-2"),
        ({"do": "add-visit"}, (("a", "b"), ("c",), ("d",), ()), "search-4"),
        ({"do": "remove-visit", "visit": 3}, (("a", "b"), ("c",)), "search-2"),
        # The pressed button goes along; at an end it is off, and the other one has the keyboard
        ({"do": "move-visit", "visit": 3, "by": -1}, (("a", "b"), ("d",), ("c",)), "earlier-2"),
        ({"do": "move-visit", "visit": 2, "by": -1}, (("c",), ("a", "b"), ("d",)), "later-1"),
        ({"do": "move-visit", "visit": 1, "by": 1}, (("c",), ("a", "b"), ("d",)), "later-2"),
        ({"do": "move-visit", "visit": 2, "by": 1}, (("a", "b"), ("d",), ("c",)), "earlier-3"),
    ],
)
def test_actions_of_the_page(action, visits, focus):
    patient, has_keyboard = edit(THREE, action, KNOWN.__contains__)
    assert patient.visits == visits and has_keyboard == focus


@pytest.mark.parametrize(
    "action",
    [
        {"do": "add-code", "visit": 1, "code": "unknown"},
        {"do": "add-code", "visit": 1},
        {"do": "add-code", "visit": 4, "code": "a"},
        {"do": "remove-code", "visit": 1, "code": "c"},
        {"do": "remove-visit", "visit": 0},
        {"do": "move-visit", "visit": 1, "by": 5},
        {"do": "drop"},
        {},
    ],
)
def test_what_the_page_does_not_send_is_refused(action):
    with pytest.raises(ValueError, match="there is no visit|cannot be done"):
        edit(THREE, action, KNOWN.__contains__)


def test_any_row_of_actions_keeps_the_visits_whole():
    """Codes are neither lost nor doubled, but for those that were removed; empty visits stay where they are."""
    draw = random.Random(0)
    patient = EnteredPatient()
    for _ in range(500):
        before = sorted(code for codes in patient.visits for code in codes)
        visit = draw.randint(1, len(patient.visits))
        name = draw.choice(["add-code", "remove-code", "add-visit", "remove-visit", "move-visit"])
        action = {"visit": visit, "code": draw.choice("abcd"), "by": draw.choice([-1, 1])}
        own = patient.visits[visit - 1]
        if name == "remove-code" and action["code"] not in own:
            continue
        expected = {
            "add-code": before + ([] if action["code"] in own else [action["code"]]),
            "remove-code": [*before],
            "add-visit": before,
            "move-visit": before,
            "remove-visit": [*before],
        }[name]
        gone = {"remove-code": [action["code"]], "remove-visit": list(own)}.get(name, [])
        for code in gone:
            expected.remove(code)
        patient, _ = do(patient, name, **action)
        assert sorted(code for codes in patient.visits for code in codes) == sorted(expected)
        assert patient.visits and all(len(set(codes)) == len(codes) for codes in patient.visits)
