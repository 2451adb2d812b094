import math
import random

import pytest
import torch
from tiny import CODES, TEXTS, encoder_of, patients, tiny_mera

from mera_hf.errors import InputError
from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import (
    HISTORY_FEATURES,
    Timeline,
    TimelineEncoder,
    batches_by_length,
    check_code_tokens,
    collate_pairs,
    collate_timelines,
    history_entries,
    profile_text,
)
from mera_hf.training.code_tokens import configure


def visit(*codes: int, text: str | None = None) -> dict:
    return {"codes": [CODES[code] for code in codes], "text": text}


def marks(model):
    """`<bos>`, `<profile>`, `<visit>`, `<eov>` and the token id of code 0."""
    config = model.config
    bos = config.text_config.bos_token_id
    return bos, config.profile_token_id, config.visit_token_id, config.eov_token_id, config.code_token_start


def forward(model, batch: dict):
    with torch.no_grad():
        return model(**{name: tensor for name, tensor in batch.items() if name in FORWARD_INPUTS})


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (None, ""),
        ({}, ""),
        ({"sex": "F", "age": 72.0, "race": None}, "female, aged 70 to 79"),
        ({"sex": "M", "age": 0.0, "race": "White"}, "male, aged 0 to 9, white"),
        ({"sex": None, "age": 9.99, "race": "Black"}, "aged 0 to 9, black"),
        ({"sex": "Other", "age": 90}, "other, aged 90 and over"),
        ({"sex": None, "age": 103.5, "race": None}, "aged 90 and over"),
    ],
)
def test_profile_text(profile, text):
    assert profile_text(profile) == text


def test_timeline_by_hand(llama):
    model, tokenizer = llama
    bos, profile, start, eov, code = marks(model)
    words = tokenizer("female, aged 70 to 79", add_special_tokens=False)["input_ids"]
    patient = {"profile": {"sex": "F", "age": 72}, "visits": [visit(4, 2), visit(7), visit(3, 9, 1)]}
    timeline = encoder_of(model, tokenizer).encode(patient)
    head = [bos, profile, *words]
    body = [start, code + 2, code + 4, eov, start, code + 7, eov, start, code + 1, code + 3, code + 9, eov]
    assert timeline.input_ids == head + body
    assert timeline.positions == list(range(len(head + body)))
    at = len(head)
    # Before code 7 and its EOV; before codes 1, 3, 9 and their EOV
    assert timeline.decisions == [at + 4, at + 5, at + 7, at + 8, at + 9, at + 10]
    assert timeline.decision_visits == [1, 1, 2, 2, 2, 2]
    assert timeline.decision_given == [0, 1, 0, 1, 2, 3]
    assert timeline.visits == [[2, 4], [7], [1, 3, 9]]
    assert timeline.unread_visits == 0


def test_first_visit_and_history_by_hand(llama):
    model, tokenizer = llama
    bos, profile, start, eov, code = marks(model)
    encoder = encoder_of(model, tokenizer)
    patient = {"profile": None, "visits": [visit(5), visit(6)]}
    timeline = encoder.encode(patient, first_target=0)
    assert timeline.input_ids == [bos, profile, start, code + 5, eov, start, code + 6, eov]
    assert timeline.decisions == [2, 3, 5, 6]
    assert timeline.decision_visits == [0, 0, 1, 1]

    history = encoder.encode_history(patient)
    assert history.input_ids == [bos, profile, start, code + 5, eov, start, code + 6, eov, start]
    assert (history.decisions, history.decision_visits, history.decision_given) == ([8], [2], [0])

    nothing = encoder.encode_history({"visits": []})
    assert nothing.input_ids == [bos, profile, start] and nothing.decisions == [2]


def test_shared_positions_by_hand():
    model, tokenizer = tiny_mera("llama", positions="visit", use_profile=False, use_visit_text=True)
    patient = {"visits": [visit(1, 2, 3, text=TEXTS[0]), visit(4), visit(5, 6)]}
    words = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    timeline = encoder_of(model, tokenizer).encode(patient)
    # bos profile | visit c c c eov words | visit c eov | visit c c eov
    after = 5 + len(words)
    expected = [0, 1, 2, 3, 3, 3, 4, *range(5, after), after, after + 1, after + 2]
    expected += [after + 3, after + 4, after + 4, after + 5]
    assert timeline.positions == expected
    history = encoder_of(model, tokenizer).encode_history(patient)
    assert history.positions == [*expected, after + 6]


def test_max_length_cuts_the_oldest_visits(llama):
    model, tokenizer = llama
    _, _, start, eov, code = marks(model)
    model.config.use_profile = False
    patient = {"visits": [visit(1, 2), visit(3), visit(4, 5), visit(6)]}  # 4, 3, 4 and 3 tokens behind 2 of the head
    # The history of the last visit and its mark; the codes of the visit come on top
    whole = encoder_of(model, tokenizer, 14).encode(patient)
    assert len(whole.input_ids) == 16 and whole.unread_visits == 0
    cut = encoder_of(model, tokenizer, 13).encode(patient)
    assert cut.unread_visits == 1
    assert cut.input_ids == whole.input_ids[:2] + whole.input_ids[6:]
    assert cut.decision_visits == [1, 1, 2, 2, 2, 3, 3]
    assert cut.visits == whole.visits  # the history term still sees them
    assert cut.decisions == [place - 4 for place in whole.decisions]
    # The last visit is the first to be kept, even where an older one would fit
    short = encoder_of(model, tokenizer, 6).encode(patient)
    assert short.input_ids[2:] == [start, code + 6, eov] and short.unread_visits == 3
    assert encoder_of(model, tokenizer, 3).encode(patient) == short
    # Of a history nothing but the mark of the next visit has to fit
    open_visit = encoder_of(model, tokenizer, 3).encode_history(patient)
    assert open_visit.input_ids[2:] == [start] and open_visit.decisions == [2] and open_visit.unread_visits == 4
    assert encoder_of(model, tokenizer, 6).encode_history(patient).input_ids[2:] == [start, code + 6, eov, start]


@pytest.mark.parametrize("layout", ["encode", "encode_tree"])
def test_what_is_read_does_not_depend_on_the_visit_to_predict(layout, llama):
    for length in (20, 30, 45):
        encoder = encoder_of(*llama, length)
        for row in patients(12, seed=length, fewest_visits=4, most_visits=8):
            history = encoder.encode_history({**row, "visits": row["visits"][:-1]})
            assert len(history.input_ids) <= length
            for target in (CODES[:1], CODES):
                timeline = getattr(encoder, layout)({**row, "visits": [*row["visits"][:-1], {"codes": target}]})
                at = timeline.decision_visits.index(timeline.decision_visits[-1])
                assert timeline.unread_visits == history.unread_visits
                begin, limit, _ = timeline.pieces[-1]
                mark = timeline.decisions[at]
                seen = timeline.input_ids[: limit or begin] + timeline.input_ids[begin or limit : mark + 1]
                assert seen == history.input_ids
                assert len(timeline.visits[-1]) == len(target)
                assert timeline.decision_given[at:] == list(range(len(target) + 1))


def test_the_length_of_the_config_is_that_of_every_encoder(llama):
    model, tokenizer = llama
    row = patients(1, seed=3, fewest_visits=4)[0]
    model.config.max_length = 25
    assert encoder_of(model, tokenizer).encode_history(row) == encoder_of(model, tokenizer, 25).encode_history(row)
    assert encoder_of(model, tokenizer).encode_history(row).unread_visits > 0
    assert encoder_of(model, tokenizer, 200).encode_history(row).unread_visits == 0  # an argument goes before it


@pytest.mark.parametrize(("family", "layout"), [("gpt2", "encode"), ("gpt2", "encode_tree"), ("bart", "encode")])
def test_decisions_beyond_the_positions_are_left_out_and_the_first_is_not(family, layout):
    model, tokenizer = tiny_mera(family, use_profile=False)
    limit = "n_positions" if family == "gpt2" else "max_position_embeddings"
    setattr(model.config.text_config, limit, 12)
    row = {"visits": [visit(1, 2), visit(3, 4, 5), visit(*range(15))]}  # 2 of the head, 4 and 5
    encoder = encoder_of(model, tokenizer)
    assert encoder.max_length == 12  # a table of positions ends
    timeline = getattr(encoder, layout)(row)
    # 2 + 4 + 5 tokens are before the mark, which has the last position; the decoder of BART begins anew
    count = 1 if family == "gpt2" else 11
    assert timeline.unread_visits == 0 and timeline.visits[-1] == list(range(15))
    last = timeline.decision_visits[-1]
    given = [n for n, at in zip(timeline.decision_given, timeline.decision_visits, strict=True) if at == last]
    assert given == list(range(count))
    assert timeline.positions[timeline.decisions[-1]] == 11 + count - 1
    if family == "gpt2":
        assert max(timeline.positions) == 11 and len(timeline.positions) == len(timeline.input_ids)
    else:
        batch = collate_pairs([timeline], 0, 0)
        assert batch["input_ids"].shape[1] == 11 and batch["decoder_input_ids"].shape[1] == 12


def test_a_profile_that_does_not_fit_is_refused(llama):
    row = {"profile": {"sex": "F", "age": 70}, "visits": [visit(1)]}
    message = "`max_length` is 5, but the profile of a patient takes 9 tokens .* raise it, or shorten the profile"
    for write in (encoder_of(*llama, 5).encode, encoder_of(*llama, 5).encode_history):
        with pytest.raises(ValueError, match=message):
            write(row)


def test_lengths_that_cannot_be_are_refused(llama):
    for length, message in (
        (0, "`max_length` is 0; it must be 1 or more"),
        (257, "positions for 256 tokens; set it to"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder_of(*llama, length)
        with pytest.raises(InputError, match=message):
            configure(llama[0], max_length=length)
        llama[0].config.max_length = None


@pytest.mark.parametrize("history_text", ["code", "code+description", "description"])
def test_history_texts(history_text):
    model, tokenizer = tiny_mera("llama", history_text=history_text, use_profile=False)
    bos, profile, start, eov, code = marks(model)
    segments = []
    for index in (0, 9):
        words = tokenizer(model.config.descriptions[index], add_special_tokens=False)["input_ids"]
        assert words and tokenizer.unk_token_id not in words
        token = [code + index]
        segments.append({"code": token, "code+description": token + words, "description": words}[history_text])
    timeline = encoder_of(model, tokenizer).encode({"visits": [visit(0), visit(9, 0)]})
    first = [bos, profile, start, *segments[0], eov]
    assert timeline.input_ids == [*first, start, *segments[0], *segments[1], eov]
    at = len(first)
    assert timeline.decisions == [at, at + len(segments[0]), at + len(segments[0]) + len(segments[1])]


def test_visit_text_stands_behind_the_eov():
    model, tokenizer = tiny_mera("llama", use_visit_text=True)
    bos, profile, start, eov, code = marks(model)
    words = tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"]
    patient = {"visits": [visit(3, text=TEXTS[1]), visit(4, text=None)]}
    timeline = encoder_of(model, tokenizer).encode(patient)
    assert timeline.input_ids == [bos, profile, start, code + 3, eov, *words, start, code + 4, eov]
    model.config.use_visit_text = False
    timeline = encoder_of(model, tokenizer).encode(patient)
    assert timeline.input_ids == [bos, profile, start, code + 3, eov, start, code + 4, eov]


def test_history_entries_by_hand():
    vocabularies = ["ICD9CM"] * 7 + ["ICD10CM"]
    codes, values = history_entries([[3, 5], [5, 7], [1], [5, 3]], vocabularies)
    assert codes == [1, 3, 5, 7]
    expected = [
        [0.0, 1.0, math.log(2), 1 / 4, math.log(2), 1.0, 1.0],
        [1.0, 0.0, math.log(3), 2 / 4, 0.0, 1.0, 1.0],
        [1.0, 0.0, math.log(4), 3 / 4, 0.0, 1.0, 1.0],
        [0.0, 1.0, math.log(2), 1 / 4, math.log(3), 0.0, 1.0],  # ICD-10 has not reached the last visit
    ]
    assert len(HISTORY_FEATURES) == 7
    assert values == [pytest.approx(row) for row in expected]
    assert history_entries([], vocabularies) == ([], [])
    assert history_entries([[], []], vocabularies) == ([], [])


def test_histories_of_a_timeline_are_those_before_each_target(llama):
    encoder = encoder_of(*llama)
    row = patients(1, seed=3, fewest_visits=4)[0]
    timeline = encoder.encode(row)
    assert list(timeline.histories) == [1, 2, 3]
    for number, history in timeline.histories.items():
        assert history == history_entries(timeline.visits[:number], ["ICD9CM"] * len(CODES))
    assert list(encoder.encode_history(row).histories) == [4]
    # What `max_length` cuts from the sequence stays in the history
    cut = encoder_of(*llama, 20).encode(row)
    assert cut.unread_visits and cut.histories[3] == timeline.histories[3]


@pytest.mark.parametrize("side", ["right", "left"])
def test_collated_tensors_by_hand(side):
    long = Timeline([10, 11, 12, 13, 14], [0, 1, 2, 2, 3], [1, 2, 4], [1, 1, 2], [0, 1, 0], [[4], [2, 0], [3]], {})
    short = Timeline([20, 21], [0, 1], [1], [1], [0], [[5, 6]], {})  # its next visit is open
    one, two = [[1.0] * 7], [[float(feature)] * 7 for feature in range(2, 5)]
    long.histories = {1: ([4], one), 2: ([0, 2, 4], two)}
    short.histories = {1: ([5, 6], two[:2])}
    batch = collate_timelines([long, short], 9, side)
    right = side == "right"
    assert batch["input_ids"].tolist() == [long.input_ids, [20, 21, 9, 9, 9] if right else [9, 9, 9, 20, 21]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0] if right else [0, 0, 0, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0] if right else [0, 0, 0, 0, 1]]
    assert batch["decision_index"].tolist() == [1, 2, 4, 6 if right else 9]
    assert batch["decision_visit"].tolist() == [0, 0, 1, 2]
    assert batch["decision_given"].tolist() == [0, 1, 0, 0]
    assert batch["visit_patient"].tolist() == [0, 0, 1]
    assert batch["visit_codes"].tolist() == [[2, 0], [3, -1], [-1, -1]]
    assert batch["history_codes"].tolist() == [[4, -1, -1], [0, 2, 4], [5, 6, -1]]
    assert batch["history_values"].dtype == torch.float32
    assert batch["history_values"].tolist() == [[*one, [0.0] * 7, [0.0] * 7], two, [*two[:2], [0.0] * 7]]


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {"use_visit_text": True}),
        ("llama", {"positions": "visit"}),
        ("llama", {"history_text": "code+description"}),
        ("gpt2", {}),
        ("mistral", {"history_text": "description"}),
        ("qwen2", {"use_profile": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_one_pass_equals_one_forward_per_visit_and_prefix(family, fields):
    model, tokenizer = tiny_mera(family, **fields)
    encoder = encoder_of(model, tokenizer)
    rows = patients(3, seed=4)
    orders = [encoder.encode(row, 1, random.Random(number)) for number, row in enumerate(rows)]
    together = forward(model, collate_timelines(orders, tokenizer.pad_token_id))
    decision = 0
    for row, timeline in zip(rows, orders, strict=True):
        for number in range(1, len(timeline.visits)):
            history = [
                {"codes": [CODES[code] for code in codes], "text": visit["text"]}
                for codes, visit in zip(timeline.visits[:number], row["visits"], strict=False)
            ]
            encoder.indices = lambda codes: [CODES.index(code) for code in codes]  # keep the order that was drawn
            variant = encoder.encode_history({"profile": row["profile"], "visits": history})
            for given in range(len(timeline.visits[number]) + 1):
                ids, positions = list(variant.input_ids), list(variant.positions)
                for place, code in enumerate(timeline.visits[number][:given]):
                    step = 0 if fields.get("positions") == "visit" and place else 1
                    ids += encoder.segments[code]
                    positions += [positions[-1] + step + more for more in range(len(encoder.segments[code]))]
                alone = Timeline(ids, positions, [len(ids) - 1], [number], [0], variant.visits, variant.histories)
                output = forward(model, collate_timelines([alone], tokenizer.pad_token_id))
                torch.testing.assert_close(together.code_logits[decision], output.code_logits[0], rtol=0, atol=1e-5)
                torch.testing.assert_close(together.eov_logits[decision], output.eov_logits[0], rtol=0, atol=1e-5)
                decision += 1
    assert decision == len(together.eov_logits)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_side_and_order_of_the_batch_change_nothing(family):
    model, tokenizer = tiny_mera(family)
    encoder = encoder_of(model, tokenizer)
    timelines = [encoder.encode(row) for row in patients(5, seed=1)]
    right = forward(model, collate_timelines(timelines, tokenizer.pad_token_id))
    left = forward(model, collate_timelines(timelines, tokenizer.pad_token_id, "left"))
    torch.testing.assert_close(right.code_logits, left.code_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(right.eov_logits, left.eov_logits, rtol=0, atol=1e-5)

    back = forward(model, collate_timelines(timelines[::-1], tokenizer.pad_token_id))
    counts = [len(timeline.decisions) for timeline in timelines]
    parts = back.code_logits.split(counts[::-1])
    torch.testing.assert_close(right.code_logits, torch.cat(parts[::-1]), rtol=0, atol=1e-5)


# -- trees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history_text", ["code", "code+description", "description"])
def test_tree_by_hand(history_text):
    model, tokenizer = tiny_mera("llama", history_text=history_text, use_profile=False, use_visit_text=True)
    bos, profile, start, eov, code = marks(model)
    encoder = encoder_of(model, tokenizer)
    words = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    row = {"profile": None, "visits": [visit(3), visit(7, 2, text=TEXTS[0]), visit(9, 1)]}
    tree = encoder.encode_tree(row, orders=2, shuffle=random.Random(5))
    # The trunk is the timeline without the last visit
    timeline = encoder.encode(row, 1, random.Random(5))
    first, second = [bos, profile, start, *encoder.segments[3], eov], [start]
    for index in timeline.visits[1]:
        second += encoder.segments[index]
    second += [eov, *words]
    trunk = first + second
    assert timeline.input_ids[: len(trunk)] == trunk
    assert tree.input_ids[: len(trunk)] == trunk
    # Behind it the codes alone: two orders of the second visit, two of the third
    assert tree.visits[0] == timeline.visits[1] and tree.visits[2] == timeline.visits[2]
    assert [sorted(codes) for codes in tree.visits] == [[2, 7], [2, 7], [1, 9], [1, 9]]
    expected = [token for codes in tree.visits for token in (start, code + codes[0], code + codes[1])]
    assert tree.input_ids[len(trunk) :] == expected
    at = len(trunk)
    assert tree.branches == [(at, len(first)), (at + 3, len(first)), (at + 6, at), (at + 9, at)]
    one, two = list(range(len(first), len(first) + 3)), list(range(at, at + 3))
    assert tree.positions == [*range(at), *one, *one, *two, *two]
    assert tree.decisions == list(range(at, at + 12))
    assert tree.decision_visits == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert tree.decision_given == [0, 1, 2] * 4
    before = {number: history_entries(timeline.visits[:number], ["ICD9CM"] * len(CODES)) for number in (1, 2)}
    assert tree.histories == {0: before[1], 1: before[1], 2: before[2], 3: before[2]}
    assert tree.pieces[:2] == [(0, 0, at), (at, len(first), at + 3)]
    assert tree.reach == at + 3


def test_trees_of_the_first_visit_and_in_tree_order(llama):
    model, tokenizer = llama
    model.config.use_profile = False
    bos, profile, start, eov, code = marks(model)
    encoder = encoder_of(model, tokenizer)
    tree = encoder.encode_tree({"visits": [visit(6, 5)]}, first_target=0)
    assert tree.input_ids == [bos, profile, start, code + 5, code + 6]
    assert (tree.branches, tree.decisions, tree.histories) == ([(2, 2)], [2, 3, 4], {0: ([], [])})
    drawn = [encoder.encode_tree({"visits": [visit(1), visit(*range(9))]}, 1, 3, random.Random(0)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len({tuple(codes) for codes in drawn[0].visits}) == 3
    assert encoder.encode_tree({"visits": [visit(1), visit(4, 2)]}).visits == [[2, 4]]


def test_positions_of_a_tree_are_those_of_the_timeline():
    model, tokenizer = tiny_mera("llama", positions="visit")
    for row in patients(4, seed=6):
        timeline, tree = encoder_of(model, tokenizer).encode(row), encoder_of(model, tokenizer).encode_tree(row)
        assert [timeline.positions[at] for at in timeline.decisions] == [tree.positions[at] for at in tree.decisions]
        assert [timeline.input_ids[at] for at in timeline.decisions] == [tree.input_ids[at] for at in tree.decisions]


def test_max_length_of_a_tree_is_that_of_its_trunk(llama):
    model, tokenizer = llama
    model.config.use_profile = False
    _, _, start, eov, code = marks(model)
    row = {"visits": [visit(1, 2), visit(3), visit(4, 5)]}  # 2 of the head, 4, 3, and 3 of the branch
    whole = encoder_of(model, tokenizer, 10).encode_tree(row, orders=3)  # 2, 4, 3 and the mark
    assert (whole.reach, whole.unread_visits, len(whole.branches)) == (12, 0, 6)
    cut = encoder_of(model, tokenizer, 9).encode_tree(row, orders=3)
    assert (cut.reach, cut.unread_visits) == (8, 1)
    assert cut.input_ids[:8] == [*whole.input_ids[:2], start, code + 3, eov, start, code + 3, start]
    assert cut.branches[0] == (5, 2) and cut.histories[0] == whole.histories[0]
    assert encoder_of(model, tokenizer, 3).encode_tree(row).decision_given == [0, 1, 2]


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {"use_visit_text": True}),
        ("llama", {"positions": "visit"}),
        ("llama", {"history_text": "code+description"}),
        ("gpt2", {"history_text": "description"}),
        ("qwen2", {"use_profile": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_tree_equals_one_forward_per_visit_and_order(family, fields):
    """Logits at every decision, and the gradients of a sum of them, against batches of one without a mask of pairs."""
    model, tokenizer = tiny_mera(family, **fields)
    encoder = encoder_of(model, tokenizer)
    rows = patients(3, seed=4)
    trees = [encoder.encode_tree(row, 1, 2, random.Random(number)) for number, row in enumerate(rows)]
    keep_order = encoder_of(model, tokenizer)
    keep_order.indices = lambda codes: [CODES.index(code) for code in codes]

    def gradients(total):
        model.zero_grad()
        total.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    def logits(batch):
        output = model(**{name: tensor for name, tensor in batch.items() if name in FORWARD_INPUTS})
        return torch.cat([output.code_logits, output.eov_logits[:, None]], 1)

    alone = []
    for number, row in enumerate(rows):
        drawn = encoder.encode(row, 1, random.Random(number)).visits  # the orders of the trunk
        written = [
            {"codes": [CODES[code] for code in codes], "text": visit["text"]}
            for codes, visit in zip(drawn, row["visits"], strict=True)
        ]
        for branch, order in enumerate(trees[number].visits):
            target = 1 + branch // 2
            assert sorted(order) == sorted(drawn[target])
            variant = keep_order.encode_history({"profile": row["profile"], "visits": written[:target]})
            for place, code in enumerate(order):
                step = 0 if fields.get("positions") == "visit" and place else 1
                variant.input_ids.append(model.config.code_token_start + code)
                variant.positions.append(variant.positions[-1] + step)
                variant.decisions.append(len(variant.input_ids) - 1)
            variant.decision_visits = [target] * (1 + len(order))
            variant.decision_given = list(range(1 + len(order)))
            alone.append(logits(collate_timelines([variant], tokenizer.pad_token_id)))
    alone = torch.cat(alone)
    weights = torch.randn(alone.shape, generator=torch.Generator().manual_seed(0)) / len(alone)
    wanted = gradients((alone * weights).sum())
    for how in ({}, {"padding_side": "left"}, {"packed": True}):
        together = logits(collate_timelines(trees, tokenizer.pad_token_id, **how))
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
        for name, gradient in gradients((together * weights).sum()).items():
            torch.testing.assert_close(
                gradient, wanted[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )


def test_packed_tensors_by_hand():
    long = Timeline([10, 11, 12], [0, 1, 1], [1, 2], [1, 1], [0, 1], [[4], [2]], {1: ([], [])})
    short = Timeline([20, 21], [0, 1], [1], [1], [0], [[5, 6]], {1: ([5, 6], [[1.0] * 7] * 2)})
    batch = collate_timelines([long, short], 9, "left", packed=True)
    assert batch["input_ids"].tolist() == [[10, 11, 12, 20, 21]]
    assert batch["position_ids"].tolist() == [[0, 1, 1, 0, 1]]
    assert batch["attention_mask"].tolist() == [[[0, 0, 0]] * 3 + [[3, 3, 3]] * 2]
    assert batch["decision_index"].tolist() == [1, 2, 4]
    assert batch["visit_patient"].tolist() == [0, 1]
    assert batch["visit_codes"].tolist() == [[2], [-1]]
    assert batch["history_codes"].tolist() == [[-1, -1], [5, 6]]


# -- batches --------------------------------------------------------------------------------------------------------


def test_batches_by_length_by_hand():
    lengths = [5, 2, 9, 2, 30, 5, 4]
    assert batches_by_length(range(7), lengths, 3) == [[1, 3, 6], [0, 5, 2], [4]]
    # 2 2 4 | 5 5 | 9 | 30: three of 5 would be 15, two of 9 would be 18, and 30 is too long for any
    assert batches_by_length(range(7), lengths, 8, 14) == [[1, 3, 6], [0, 5], [2], [4]]
    assert batches_by_length(range(7), lengths, 2, 14) == [[1, 3], [6, 0], [5], [2], [4]]
    assert batches_by_length(range(7), lengths, 8, 12) == [[1, 3, 6], [0, 5], [2], [4]]
    assert batches_by_length(range(7), lengths, 8, 1) == [[1], [3], [6], [0], [5], [2], [4]]
    # Ties stand as they come
    assert batches_by_length([3, 5, 1, 0], lengths, 4) == [[3, 1, 5, 0]]
    assert batches_by_length([], lengths, 4) == []


def test_shuffle_draws_the_order_of_every_visit(llama):
    encoder = encoder_of(*llama)
    row = patients(1, seed=1)[0]
    plain = encoder.encode(row)
    shuffled = encoder.encode(row, 1, random.Random(1))
    assert shuffled.visits != plain.visits
    assert [sorted(codes) for codes in shuffled.visits] == plain.visits
    assert sorted(shuffled.input_ids) == sorted(plain.input_ids)
    assert encoder.encode(row, 1, random.Random(1)) == shuffled


def test_indices_are_in_tree_order_and_unique(llama):
    encoder = encoder_of(*llama)
    assert encoder.indices([CODES[4], CODES[1], CODES[4]]) == [1, 4]
    with pytest.raises(ValueError, match=r"999\.99 is not one of the 19 codes .* \(2 such codes in one visit\)"):
        encoder.indices([CODES[0], "ICD9CM:999.99", "ICD9CM:000.0"])
    with pytest.raises(ValueError, match="code 250.00 is not one of"):
        encoder.indices(["250.00"])


def test_foreign_tokenizers_are_refused(llama, tmp_path):
    from mera_hf.configuration_mera import MeraConfig
    from mera_hf.training.from_scratch import word_tokenizer

    model, tokenizer = llama
    check_code_tokens(model.config, tokenizer)
    with pytest.raises(ValueError, match=r"the code token <ICD9CM:250.00> at id \d+, and the tokenizer does not"):
        TimelineEncoder(model.config, word_tokenizer(["a word"]))
    shifted = word_tokenizer(["a word"])
    shifted.add_tokens([f"<{code}>" for code in CODES] + ["<eov>", "<visit>", "<profile>"], special_tokens=True)
    with pytest.raises(ValueError, match=r"<ICD9CM:250.00> at id \d+, and the tokenizer has it at 6\. Load"):
        TimelineEncoder(model.config, shifted)
    with pytest.raises(ValueError, match="no code tokens yet; add them with `mera_hf.add_code_tokens"):
        TimelineEncoder(MeraConfig(text_config=model.config.text_config), tokenizer)


def test_the_encoder_can_be_sent_to_another_process(llama):
    import pickle

    encoder = encoder_of(*llama)
    row = patients(1)[0]
    assert pickle.loads(pickle.dumps(encoder)).encode(row) == encoder.encode(row)
