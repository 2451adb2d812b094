import copy

import pytest
import torch
from tiny import CODES, tiny_mera
from transformers import set_seed

from mera_hf.data.memorizing import LEVEL_WORDS, memorizing_pairs
from mera_hf.errors import InputError
from mera_hf.training import memorization_trainer
from mera_hf.training.from_scratch import word_tokenizer
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.memorization_trainer import (
    MemorizationTrainer,
    PairCollator,
    PairDataset,
    exact_match,
    generate,
)


FEW = CODES[:7]


def trainer_of(model, tokenizer, folder, codes=None, held_out=(), **arguments):
    defaults = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    args = MemorizationTrainerConfig(str(folder), **{**defaults, "per_device_train_batch_size": 8, **arguments})
    return MemorizationTrainer(copy.deepcopy(model), args, processing_class=tokenizer, codes=codes, held_out=held_out)


def test_pairs_as_tokens(llama):
    model, tokenizer = llama
    (pair,) = [pair for pair in memorizing_pairs(FEW[:1], groups=False) if pair.question.startswith("Define")]
    ((question, answer),) = PairDataset([pair], tokenizer).items
    assert question[0] == tokenizer.bos_token_id and answer[-1] == tokenizer.eos_token_id
    assert model.config.code_token_start in question and tokenizer.unk_token_id not in question + answer
    assert tokenizer.decode(answer[:-1]).replace(" ,", ",") == pair.answer.lower()
    back = next(pair for pair in memorizing_pairs(FEW[:1]) if pair.task == "definition_to_code")
    ((_, answer),) = PairDataset([back], tokenizer).items
    assert answer == [model.config.code_token_start, tokenizer.eos_token_id]


def test_collator_by_hand():
    batch = PairCollator(9)([([1, 2, 3], [4, 5]), ([1], [6])])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 2, 3, 4, 5], [1, 6, 9, 9, 9]],
        "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
        "labels": [[-100, -100, -100, 4, 5], [-100, 6, -100, -100, -100]],
    }


def test_collator_of_an_encoder_decoder_by_hand():
    batch = PairCollator(9, 7)([([1, 2, 3], [4, 5]), ([1], [6])])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 2, 3], [1, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "decoder_input_ids": [[7, 4], [7, 9]],
        "labels": [[4, 5], [6, -100]],
    }


def next_words(model, question: list[int], said: list[int]) -> torch.Tensor:
    """Logits of the word behind the question, and behind each word of the answer, shape `(1 + said, vocabulary)`."""
    if model.config.is_encoder_decoder:
        start = [model.config.decoder_start_token_id]
        inputs = {"input_ids": torch.tensor([question]), "decoder_input_ids": torch.tensor([start + said])}
    else:
        inputs = {"input_ids": torch.tensor([question + said])}
    with torch.no_grad():
        return model.language_model(**inputs).logits[0, -1 - len(said) :]


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart"])
def test_loss_is_the_mean_over_pairs_of_the_mean_over_answer_tokens(family, tmp_path):
    model, tokenizer = tiny_mera(family)
    trainer = trainer_of(model, tokenizer, tmp_path, FEW)
    items = [trainer.train_dataset[row] for row in (0, 5, 12, 30)]
    losses = []
    for question, answer in items:
        logits = next_words(trainer.model, question, answer[:-1]).log_softmax(-1)
        losses.append(-sum(logits[at, token] for at, token in enumerate(answer)) / len(answer))
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(items))
    torch.testing.assert_close(loss, sum(losses) / len(losses), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama_tied", "t5"])
def test_codes_are_memorized_in_both_directions(family, tmp_path):
    """All answers by generation, the training wording as well as, mostly, the one that training never saw."""
    model, tokenizer = tiny_mera(family, head=False)
    set_seed(0)
    trainer = trainer_of(
        model,
        tokenizer,
        tmp_path,
        FEW,
        learning_rate=1e-2,
        num_train_epochs=60,
        per_device_train_batch_size=32,
        target_exact_match=1.0,
        eval_strategy="epoch",
        lr_scheduler_type="constant",
        groups=False,
    )
    before = trainer.evaluate()
    assert before["eval_code_to_definition_seen"] < 0.2
    trainer.control.should_training_stop = False
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_code_to_definition_seen"] == metrics["eval_definition_to_code_seen"] == 1.0
    assert metrics["eval_definition_to_code_unseen"] > 0.5
    assert trainer.state.epoch < 60  # stopped by `target_exact_match`
    assert not model.ranking_head.is_trained
    assert not trainer.model.ranking_head.is_trained  # nothing is ranked yet


def loop_exact_match(model, tokenizer, codes, groups, by_level=False) -> dict:
    """One question at a time, greedy, one token at a time, over the whole sequence."""
    hits, asked = {}, {}
    pairs = [("seen", pair) for pair in memorizing_pairs(codes, groups=groups) if pair.wording == 0]
    pairs += [("unseen", pair) for pair in memorizing_pairs(codes, held_out=True, groups=groups)]
    for kind, pair in pairs:
        ids = [tokenizer.bos_token_id, *tokenizer(pair.question, add_special_tokens=False)["input_ids"]]
        wanted = [*tokenizer(pair.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        said = []
        while len(said) < len(wanted) and (not said or said[-1] != tokenizer.eos_token_id):
            said.append(int(next_words(model, ids, said)[-1].argmax()))
        level = next((level for level, words in LEVEL_WORDS.items() if f" {words} " in pair.question), None)
        name = f"code_to_{level}_{kind}" if by_level and pair.task == "code_to_group" else f"{pair.task}_{kind}"
        asked[name] = asked.get(name, 0) + 1
        hits[name] = hits.get(name, 0) + (said == wanted)
    return {name: hits[name] / asked[name] for name in asked}


@pytest.mark.parametrize(("family", "steps"), [("llama_tied", 45), ("t5", 80)])
def test_exact_match_is_that_of_a_loop_over_questions(family, steps, tmp_path):
    """On a half-trained model, so that some answers are right and others wrong."""
    model, tokenizer = tiny_mera(family)
    set_seed(0)
    trainer = trainer_of(model, tokenizer, tmp_path, FEW[:4], learning_rate=1e-2, max_steps=steps)
    trainer.train()
    trained = trainer.model.eval()
    wanted = loop_exact_match(trained, tokenizer, FEW[:4], True)
    assert len(wanted) == 6 and 0 < sum(wanted.values()) < 6, wanted
    for batch_size in (256, 3, 1):
        assert exact_match(trained, tokenizer, FEW[:4], batch_size=batch_size) == wanted
    levels = loop_exact_match(trained, tokenizer, FEW[:4], True, by_level=True)
    assert {"code_to_chapter_seen", "code_to_category_unseen"} < set(levels)
    assert exact_match(trained, tokenizer, FEW[:4], by_level=True) == levels
    without = {name: value for name, value in wanted.items() if "group" not in name}
    assert exact_match(trained, tokenizer, FEW[:4], groups=False) == without


def test_exact_match_counts_hits(llama, monkeypatch):
    """A model that answers everything but one code's questions."""
    model, tokenizer = llama
    wrong = model.config.code_token_start + 1

    def answer(model, tokenizer, items):
        return [[0] if wrong in question or wrong in answer else answer for question, answer in items]

    monkeypatch.setattr(memorization_trainer, "generate", answer)
    model.train()
    shares = exact_match(model, tokenizer, CODES[:4], groups=False)
    assert shares == {
        f"{task}_{kind}": 0.75 for task in ("code_to_definition", "definition_to_code") for kind in ("seen", "unseen")
    }
    assert model.training


@pytest.mark.parametrize("family", ["llama", "t5", "bart"])
def test_generation_does_not_depend_on_the_batch(family):
    model, tokenizer = tiny_mera(family)
    items = PairDataset(memorizing_pairs(FEW[:2]), tokenizer).items[:9]
    together = generate(model, tokenizer, items)
    assert together == [generate(model, tokenizer, [item])[0] for item in items]
    assert all(len(said) <= len(answer) for said, (_, answer) in zip(together, items, strict=True))


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_generation_is_greedy_whatever_the_checkpoint_says(family):
    model, tokenizer = tiny_mera(family)
    items = PairDataset(memorizing_pairs(FEW[:2], groups=False), tokenizer).items[:6]
    loop = []
    for question, answer in items:
        said = []
        while len(said) < len(answer) and tokenizer.eos_token_id not in said:
            said.append(int(next_words(model, question, said)[-1].argmax()))
        loop.append(said)
    config = model.language_model.generation_config
    config.num_beams, config.repetition_penalty, config.min_length = 3, 5.0, 30
    config.forced_eos_token_id = tokenizer.eos_token_id
    said = [
        row[: row.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in row else row
        for row in generate(model, tokenizer, items)
    ]
    assert said == loop
    assert model.language_model.generation_config is config


def test_answers_that_go_on_are_wrong(llama):
    """The end of sequence belongs to the answer."""
    model, tokenizer = llama
    start = model.config.code_token_start
    question = [tokenizer.bos_token_id, start]
    first = generate(model, tokenizer, [(question, [0])])[0][0]
    assert first != tokenizer.eos_token_id
    said = generate(model, tokenizer, [(question, [first, tokenizer.eos_token_id])])[0]
    assert said[0] == first and said != [first, tokenizer.eos_token_id]


def test_groups_can_be_left_out_and_codes_chosen(llama, tmp_path):
    model, tokenizer = llama
    everything = trainer_of(model, tokenizer, tmp_path)
    assert everything.codes == CODES
    assert len(everything.train_dataset) == len(memorizing_pairs(CODES))
    few = trainer_of(model, tokenizer, tmp_path, FEW, groups=False)
    assert {pair.task for pair in few.train_dataset.pairs} == {"code_to_definition", "definition_to_code"}
    assert {pair.code for pair in few.train_dataset.pairs} == set(FEW)
    held_out = {pair.question for pair in memorizing_pairs(FEW, held_out=True)}
    assert held_out.isdisjoint(pair.question for pair in everything.train_dataset.pairs)


@pytest.mark.parametrize("family", ["llama", "llama_tied", "t5"])
def test_held_out_codes_are_in_no_question_and_their_rows_stay(family, tmp_path):
    model, tokenizer = tiny_mera(family)
    left_out = [CODES[5], CODES[2]]
    trainer = trainer_of(model, tokenizer, tmp_path, FEW, held_out=left_out, learning_rate=1e-2, max_steps=6)
    assert trainer.codes == [code for code in FEW if code not in left_out] and trainer.among == FEW
    assert {pair.code for pair in trainer.train_dataset.pairs} == set(trainer.codes)
    start = model.config.code_token_start
    tokens = torch.tensor([start + 2, start + 5])
    for question, answer in trainer.train_dataset.items:
        assert not {start + 2, start + 5} & {*question, *answer}
    trainer.train()
    for name in ("get_input_embeddings", "get_output_embeddings"):
        before, after = (getattr(each, name)().weight for each in (model, trainer.model))
        assert torch.equal(before[tokens], after[tokens]), "bit for bit"
        assert not torch.equal(before[start : start + 2], after[start : start + 2])
    # Without being held out, codes that nobody asks about are pushed down as rivals
    rivals = trainer_of(model, tokenizer, tmp_path, trainer.codes, learning_rate=1e-2, max_steps=6)
    rivals.train()
    before, after = (each.get_output_embeddings().weight[tokens] for each in (model, rivals.model))
    assert not torch.equal(before, after)


def test_held_out_codes_are_no_rivals_in_the_loss(llama, tmp_path):
    model, tokenizer = llama
    trainer = trainer_of(model, tokenizer, tmp_path, FEW, held_out=FEW[1:3])
    items = [trainer.train_dataset[row] for row in (0, 5, 12)]
    start, losses = model.config.code_token_start, []
    for question, answer in items:
        logits = next_words(trainer.model, question, answer[:-1])
        logits[:, start + 1 : start + 3] = -torch.inf
        logits = logits.log_softmax(-1)
        losses.append(-sum(logits[at, token] for at, token in enumerate(answer)) / len(answer))
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(items))
    torch.testing.assert_close(loss, sum(losses) / len(losses), rtol=0, atol=1e-5)


def test_rows_of_held_out_codes_stay_in_an_adapter(llama, tmp_path):
    from trl import ModelConfig

    from mera_hf.training.checkpoints import wrap_with_adapter

    model, tokenizer = llama
    wrapped = wrap_with_adapter(model, ModelConfig(use_peft=True, lora_r=4))
    start = copy.deepcopy({n: p for n, p in wrapped.named_parameters() if "trainable_tokens_delta" in n})
    trainer = trainer_of(wrapped, tokenizer, tmp_path, FEW[:4], held_out=FEW[1:2], max_steps=3, learning_rate=3e-2)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert len(start) == 2
    for name, delta in start.items():
        assert torch.equal(delta[1], after[name][1]) and not torch.equal(delta[0], after[name][0])


def test_codes_that_cannot_be_held_out_are_refused(llama, tmp_path):
    for held_out, message, arguments in (
        (["ICD9CM:999"], "`held_out` names ICD9CM:999, which is not one of the 7 codes to memorize", {}),
        (FEW, "`held_out` holds all 7 codes; leave one at least", {}),
        (FEW[:1], "`weight_decay` is 0.1 and would shrink the rows of the codes in `held_out`", {"weight_decay": 0.1}),
    ):
        with pytest.raises(InputError, match=message):
            trainer_of(*llama, tmp_path, FEW, held_out=held_out, **arguments)


def test_micro_batches_give_the_same_step(llama, tmp_path):
    model, tokenizer = llama
    after = []
    for size, steps in ((6, 1), (2, 3)):
        trainer = trainer_of(
            model,
            tokenizer,
            tmp_path,
            FEW,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
        )
        trainer.train()
        after.append(trainer.model.code_rows().detach())
    torch.testing.assert_close(*after, rtol=0, atol=1e-5)
    assert not torch.equal(after[0], model.code_rows())


def test_adapters_memorize(llama, tmp_path):
    from trl import ModelConfig

    from mera_hf.training.checkpoints import wrap_with_adapter

    model, tokenizer = llama
    wrapped = wrap_with_adapter(model, ModelConfig(use_peft=True, lora_r=4))
    trainer = trainer_of(wrapped, tokenizer, tmp_path, FEW[:3], max_steps=12, learning_rate=3e-2, logging_steps=1)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    deltas = [p for name, p in trainer.model.named_parameters() if "trainable_tokens_delta" in name]
    assert len(deltas) == 2 and all(delta.grad is None or delta.grad.any() for delta in deltas)
    assert set(exact_match(trainer.model, tokenizer, FEW[:2], groups=False)) == {
        f"{task}_{kind}" for task in ("code_to_definition", "definition_to_code") for kind in ("seen", "unseen")
    }


def test_what_does_not_belong_together_is_refused(llama, tmp_path):
    model, _ = llama
    with pytest.raises(InputError, match="`tokenizer` does not belong to this model"):
        trainer_of(model, word_tokenizer(["word"]), tmp_path)


def test_card_and_telemetry(llama, tmp_path, monkeypatch):
    import trl.trainer.base_trainer

    def fail(*args, **kwargs):
        raise AssertionError("telemetry was sent")

    for name in ("CI", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", fail)
    trainer_of(*llama, tmp_path).create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "It has seen no patient" in card and "not for clinical decisions" in card and "2501.17326" in card


def test_a_loss_that_is_not_a_number_stops_the_training(llama, tmp_path):
    model, tokenizer = llama
    with torch.no_grad():
        model.code_rows()[3] = torch.nan
    trainer = trainer_of(model, tokenizer, tmp_path, FEW, max_steps=2, logging_steps=1)
    with pytest.raises(InputError, match="the loss is not a number at step 1 .loss nan"):
        trainer.train()
