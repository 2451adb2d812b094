from collections import Counter

from mera_hf.data.memorizing import TEMPLATES, definitions, memorizing_pairs, memorizing_texts
from mera_hf.icd import IcdTree, describe
from mera_hf.training.from_scratch import word_tokenizer


def test_pairs_of_one_code_by_hand():
    code = "ICD9CM:428.0"
    tree = IcdTree.load("ICD9CM")
    pairs = memorizing_pairs([code])
    assert all(pair.code == code for pair in pairs)
    by_task = Counter(pair.task for pair in pairs)
    ancestors = tree.ancestors(code)
    wordings = len(TEMPLATES["code_to_definition"]) - 1
    assert by_task == {
        "code_to_definition": wordings,
        "definition_to_code": wordings,
        "code_to_group": wordings * len(ancestors),
    }
    forward = [(pair.question, pair.answer) for pair in pairs if pair.task == "code_to_definition"]
    definition = describe(code)
    assert forward[:3] == [
        ("What does <ICD9CM:428.0> mean?", definition),
        ("Define <ICD9CM:428.0>.", definition),
        ("The definition of <ICD9CM:428.0> is", definition),
    ]
    back = [(pair.question, pair.answer) for pair in pairs if pair.task == "definition_to_code"]
    assert back[0] == (f"Which code means {definition}?", "<ICD9CM:428.0>")
    category = [pair for pair in pairs if pair.question == "Name the category of <ICD9CM:428.0>."]
    assert [pair.answer for pair in category] == [describe("ICD9CM:428")]
    assert not any(pair.task == "code_to_group" for pair in memorizing_pairs([code], groups=False))


def test_the_held_out_wording_is_never_trained():
    codes = ["ICD9CM:250.00", "ICD10CM:E11.65"]
    trained, held_out = memorizing_pairs(codes), memorizing_pairs(codes, held_out=True)
    assert {pair.question for pair in trained}.isdisjoint(pair.question for pair in held_out)
    assert {(pair.task, pair.wording) for pair in held_out} == {
        (task, len(wordings) - 1) for task, wordings in TEMPLATES.items()
    }
    assert {(pair.task, pair.wording) for pair in trained} == {
        (task, wording) for task, wordings in TEMPLATES.items() for wording in range(len(wordings) - 1)
    }
    # The same knowledge is asked for
    assert {(p.code, p.task, p.answer) for p in trained} == {(p.code, p.task, p.answer) for p in held_out}


def test_definitions_are_told_apart():
    tree = IcdTree.load("ICD9CM")
    by_text = {}
    for code in tree.codes():
        by_text.setdefault(describe(code).lower(), []).append(code)
    shared = next(codes for codes in by_text.values() if len(codes) > 1)
    alone = definitions(shared[:1])
    assert alone == [describe(shared[0])]
    together = definitions(shared)
    assert len({text.lower() for text in together}) == len(shared)
    assert all(text.startswith(describe(code)) for text, code in zip(together, shared, strict=True))


def test_definitions_are_told_apart_among_more_codes_than_are_asked_about():
    """So that a question is the same whichever codes are held out."""
    by_text = {}
    for code in IcdTree.load("ICD9CM").codes():
        by_text.setdefault(describe(code).lower(), []).append(code)
    among = [*next(codes for codes in by_text.values() if len(codes) > 1), "ICD9CM:428.0"]
    every = memorizing_pairs(among)
    few = memorizing_pairs(among[:1], among=among)
    assert few == [pair for pair in every if pair.code == among[0]]
    assert few != memorizing_pairs(among[:1])
    assert memorizing_pairs(among, among=among) == every


def test_no_two_codes_of_a_whole_tree_share_a_definition():
    codes = list(IcdTree.load("ICD9CM").codes())
    assert len({text.lower() for text in definitions(codes)}) == len(codes)


def test_a_tokenizer_of_the_texts_knows_every_word_of_every_pair():
    codes = ["ICD9CM:250.00", "ICD9CM:V58.67"]
    texts = memorizing_texts(codes)
    assert not any("<" in text for text in texts)
    tokenizer = word_tokenizer(texts)
    pairs = memorizing_pairs(codes) + memorizing_pairs(codes, held_out=True)
    for pair in pairs:
        for text in (pair.question, pair.answer):
            assert tokenizer.unk_token_id not in tokenizer(text.replace(f"<{pair.code}>", " "))["input_ids"]
