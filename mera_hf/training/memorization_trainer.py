"""Teaches a model what each code token means (paper, stage 'memorize')."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mera_hf.data.memorizing import Pair, memorizing_pairs
from mera_hf.errors import InputError
from mera_hf.training.code_tokens import code_token
from mera_hf.training.distributed import is_sharded, own_rows
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.stage import StageTrainer
from mera_hf.training.wrapped import base_model, guard_quantised, tokenizer_of, warn_left_out


class PairDataset(Dataset):
    """Question-answer pairs as token ids: the question, its answer, and the end of sequence.

    Args:
        pairs (`list[Pair]`): see `memorizing_pairs`.
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer with the code tokens.
    """

    def __init__(self, pairs: list[Pair], tokenizer: PreTrainedTokenizerBase):
        self.pairs = pairs
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        questions = tokenizer([pair.question for pair in pairs], add_special_tokens=False)["input_ids"]
        answers = tokenizer([pair.answer for pair in pairs], add_special_tokens=False)["input_ids"]
        self.items = [
            (bos + question, answer + [tokenizer.eos_token_id])
            for question, answer in zip(questions, answers, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[list[int], list[int]]:
        return self.items[row]


class PairCollator:
    """Pads pairs on the right; `labels` hold the tokens of the answer, -100 elsewhere.

    Args:
        pad_token_id (`int`): the padding token.
        decoder_start_token_id (`int`, *optional*):
            of an encoder-decoder: its encoder reads the question, and `decoder_input_ids` are the answer, shifted.
    """

    def __init__(self, pad_token_id: int, decoder_start_token_id: int | None = None):
        self.pad_token_id, self.decoder_start_token_id = pad_token_id, decoder_start_token_id

    def __call__(self, items: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        if self.decoder_start_token_id is not None:
            return self._pairs(items)
        width = max(len(question) + len(answer) for question, answer in items)
        rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for question, answer in items:
            padding = width - len(question) - len(answer)
            rows["input_ids"].append(question + answer + [self.pad_token_id] * padding)
            rows["attention_mask"].append([1] * (width - padding) + [0] * padding)
            rows["labels"].append([-100] * len(question) + answer + [-100] * padding)
        return {name: torch.tensor(values) for name, values in rows.items()}

    def _pairs(self, items: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        questions, answers = zip(*items, strict=True)
        shifted = [[self.decoder_start_token_id, *answer[:-1]] for answer in answers]
        return {
            "input_ids": _padded(questions, self.pad_token_id),
            "attention_mask": _padded([[1] * len(question) for question in questions], 0),
            "decoder_input_ids": _padded(shifted, self.pad_token_id),
            "labels": _padded(answers, -100),
        }


def _padded(rows: Sequence[list[int]], filler: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


class MemorizationTrainer(StageTrainer):
    """
    Trainer that teaches code <-> definition and code -> group by question and answer
    (huggingface.co/papers/2501.17326). It needs no patients, so its weights are free to share.

    Args:
        model (`MeraForDiagnosis`):
            a model with code tokens, see `add_code_tokens`; wrapped by PEFT or not. A warning names the code rows that the
            model would not train.
        args (`MemorizationTrainerConfig`, *optional*): arguments of the training.
        processing_class (`PreTrainedTokenizerBase`, *optional*):
            tokenizer of the model; by default loaded from where the model came from.
        codes (`list[str]`, *optional*): codes to memorize; defaults to all codes of the model.
        held_out (`Sequence[str]`, *optional*):
            those of `codes` that are held out, to see what a model says of codes that it has not memorized: no question is
            about them, and they are no rivals in the loss, so that their rows stay as they are, bit for bit.
        kwargs: passed to `transformers.Trainer`.

    Raises:
        [`InputError`]: for a model without code tokens, a foreign tokenizer, pairs that the model has no positions for, a
            quantised model whose gradients would be wrong, see [`guard_quantised`], or codes that cannot be held out.
    """

    args: MemorizationTrainerConfig
    train_dataset: PairDataset
    processing_class: PreTrainedTokenizerBase
    _tag_names = ["mera", "memorization"]
    _name = "MERA memorization"
    _what = "Knows what its ICD code tokens mean, in both directions. It has seen no patient and ranks nothing yet."

    def __init__(
        self,
        model: PreTrainedModel,
        args: MemorizationTrainerConfig | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        codes: list[str] | None = None,
        held_out: Sequence[str] = (),
        **kwargs,
    ):
        args = args or MemorizationTrainerConfig("memorization-output")
        guard_quantised(model)
        processing_class = tokenizer_of(model, processing_class)
        self.among = codes if codes is not None else model.config.codes
        self.codes = _without(self.among, held_out, args)
        tokens = processing_class.convert_tokens_to_ids([code_token(code) for code in held_out])
        self._held_out_tokens = torch.tensor(tokens, dtype=torch.int64)
        pairs = memorizing_pairs(self.codes, groups=args.groups, among=self.among)
        train_dataset = PairDataset(pairs, processing_class)
        _check_positions(train_dataset, model.config)
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(processing_class.pad_token_id or 0, model.config.decoder_start_token_id),
            train_dataset=train_dataset,
            # The Trainer asks for a dataset before it evaluates; `evaluate` below generates answers instead
            eval_dataset=PairDataset(memorizing_pairs(self.codes[:1]), processing_class),
            processing_class=processing_class,
            **kwargs,
        )
        if args.process_index == 0:
            warn_left_out(model, head=False)

    def train(self, *args, **kwargs):
        """As in `Trainer`; nothing is ranked, so the ranking head is not trained."""
        head = base_model(self.model).ranking_head
        trainable = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
        head.requires_grad_(False)
        try:
            return super().train(*args, **kwargs)
        finally:
            for name, parameter in head.named_parameters():  # FSDP has replaced the originals
                parameter.requires_grad_(name in trainable)

    def _get_num_items_in_batch(self, batch_samples: list[dict], device: torch.device) -> torch.Tensor | None:
        """Pairs of one step in all processes."""
        if not batch_samples:
            return None
        last = batch_samples[-1]["labels"]
        last[own_rows(self.accelerator, len(last), len(self.train_dataset)) :] = -100
        pairs: Any = sum(_asks(batch["labels"]).sum() for batch in batch_samples)
        pairs = pairs.to(device)
        return self.accelerator.gather(pairs).sum() if self.args.world_size > 1 else pairs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        width = labels.shape[1]
        if "decoder_input_ids" not in inputs:  # a decoder-only model predicts a token at the position before it
            labels = labels[:, 1:]  # (B, S - 1)
        rows, places = (labels != -100).nonzero(as_tuple=True)
        # Through the wrapper, so that DDP, FSDP and DeepSpeed see a forward pass; only the logits of the answers
        output = model(**inputs, vocabulary_index=rows * width + places)
        logits = output.vocabulary_logits.float()  # (answer tokens, vocabulary)
        if len(self._held_out_tokens):
            logits = logits.index_fill(1, self._held_out_tokens.to(logits.device), -torch.inf)
        losses = cross_entropy(logits, labels[rows, places], reduction="none")
        per_pair = losses.new_zeros(len(labels)).index_add(0, rows, losses) / (labels != -100).sum(1).clamp(min=1)
        # Gradients are averaged over processes, but the loss must be summed over them
        share = 1 / _asks(labels).sum() if num_items_in_batch is None else self.args.world_size / num_items_in_batch
        loss = per_pair.sum() * share
        return (loss, output) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Greedy exact match of the answers, see [`exact_match`]: the training wording `seen`, the held-out one `unseen`."""
        args = self.args
        shares = exact_match(
            self.model,
            self.processing_class,
            self.codes,
            args.groups,
            args.per_device_eval_batch_size,
            among=self.among,
        )
        shares = broadcast_object_list([shares])[0]  # whether to stop is one decision
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in shares.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        wanted = self.args.target_exact_match
        both = [metrics[f"{metric_key_prefix}_{task}_seen"] for task in ("code_to_definition", "definition_to_code")]
        if wanted is not None and min(both) >= wanted:
            self.control.should_training_stop = True
        return metrics


def _check_positions(dataset: PairDataset, config) -> None:
    """Refuse pairs that are longer than the language model has positions for, before it is trained on them."""
    # Answers are generated in batches, as long as the longest
    longest = max(len(question) for question, _ in dataset.items) + max(len(answer) for _, answer in dataset.items)
    if config.position_limit is not None and longest > config.position_limit:
        raise InputError(
            f"questions and answers take up to {longest} tokens, and the {config.text_config.model_type} model has positions "
            f"for {config.position_limit}; use a base with more, or fewer `codes`."
        )


def _without(codes: list[str], held_out: Sequence[str], args: MemorizationTrainerConfig) -> list[str]:
    """The codes that are not held out."""
    left = set(held_out)
    foreign = sorted(left.difference(codes))
    if foreign:
        raise InputError(f"`held_out` names {foreign[0]}, which is not one of the {len(codes)} codes to memorize.")
    asked = [code for code in codes if code not in left]
    if not asked:
        raise InputError(f"`held_out` holds all {len(codes)} codes; leave one at least to memorize.")
    if held_out and args.weight_decay:
        raise InputError(
            f"`weight_decay` is {args.weight_decay} and would shrink the rows of the codes in `held_out`; set it to 0."
        )
    return asked


def _asks(labels: torch.Tensor) -> torch.Tensor:
    """Which rows of a batch are pairs with an answer, bool of shape (B,)."""
    return (labels != -100).any(1)


def exact_match(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    codes: list[str],
    groups: bool = True,
    batch_size: int = 256,
    progress=None,
    by_level: bool = False,
    among: list[str] | None = None,
) -> dict[str, float]:
    """Share of questions whose greedily generated answer equals the expected one token by token, end included.

    Args:
        model (`MeraForDiagnosis`): the model, wrapped by PEFT or not.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        codes (`list[str]`): codes to ask about.
        groups (`bool`, *optional*, defaults to `True`): whether to ask for the groups of the codes.
        batch_size (`int`, *optional*, defaults to 256): questions per generated batch.
        progress (*optional*): called with an iterable of batches and returning it, such as `tqdm`.
        by_level (`bool`, *optional*, defaults to `False`): whether each level of the groups is counted separately, as
            `code_to_chapter_seen`, instead of `code_to_group_seen`.
        among (`list[str]`, *optional*): codes among which definitions are told apart, see `memorizing_pairs`.

    Returns:
        `{"code_to_definition_seen": share, "code_to_definition_unseen": share, "definition_to_code_seen": ...}`: one wording
        of the training for each question, and the held-out one.
    """
    training = model.training
    model.eval()
    hits: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    wordings = {
        "seen": [pair for pair in memorizing_pairs(codes, groups=groups, among=among) if pair.wording == 0],
        "unseen": memorizing_pairs(codes, held_out=True, groups=groups, among=among),
    }
    batches = []
    for kind, pairs in wordings.items():
        items = PairDataset(pairs, tokenizer).items
        rows = sorted(range(len(items)), key=lambda row: (len(items[row][1]), len(items[row][0])))
        batches += [
            (kind, [pairs[row] for row in chunk], [items[row] for row in chunk])
            for chunk in (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
        ]
    for kind, pairs, items in progress(batches) if progress is not None else batches:
        for pair, item, answer in zip(pairs, items, generate(model, tokenizer, items), strict=True):
            name = f"code_to_{pair.level}_{kind}" if by_level and pair.level else f"{pair.task}_{kind}"
            asked[name] += 1
            hits[name] += answer == item[1]
    model.train(training)
    return {name: hits[name] / asked[name] for name in sorted(asked)}


def generate(model, tokenizer, items: list[tuple[list[int], list[int]]]) -> list[list[int]]:
    """Greedy answers to questions, each cut to the length of its expected answer.

    An answer is right if it equals the expected tokens followed by the end of sequence, so no more than the
    longest expected answer of a batch has to be generated.
    """
    most = max(len(answer) for _, answer in items)
    said = answers(model, tokenizer, [question for question, _ in items], most)
    return [row[: len(answer)] for row, (_, answer) in zip(said, items, strict=True)]


@torch.no_grad()
def answers(model, tokenizer, questions: list[list[int]], most: int) -> list[list[int]]:
    """Greedy answers to questions as token ids, `most` tokens at most; what follows the end of sequence is padding."""
    from transformers import GenerationConfig

    config, pad = model.config, tokenizer.pad_token_id or 0
    width = max(map(len, questions))
    ids, mask = [], []
    for question in questions:
        padding, ones = width - len(question), [1] * len(question)
        if config.is_encoder_decoder:  # as in training: BART counts positions from the left
            ids.append(question + [pad] * padding)
            mask.append(ones + [0] * padding)
        else:
            ids.append([pad] * padding + question)
            mask.append([0] * padding + ones)
    greedy = GenerationConfig(
        max_new_tokens=most,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )
    inputs = {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }
    output = model.generate(greedy, **inputs, synced_gpus=is_sharded(model))
    return output[:, 1 if config.is_encoder_decoder else width :].tolist()  # after the start token, or the question
