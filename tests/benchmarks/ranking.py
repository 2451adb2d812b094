"""Ranking all codes from one forward pass, against the other ways to ask a language model, and in which batches."""

import copy
import random

import torch

from mera_hf.modeling_mera import FORWARD_INPUTS
from mera_hf.timeline_mera import TimelineEncoder, collate_timelines

from .cases import icd_codes, language_model, synthetic_patients
from .timing import best_of


# Patients of Diabetes 130-US Hospitals with so many visits before the last one, from 1 on
VISITS_BEFORE = (7303, 2332, 996, 524, 247, 148, 76, 53, 32, 8, 13, 13)


def generate(patients=8, tokens=14, codes=4_900, width=256, layers=4, repeat=5) -> tuple[float, str]:
    """Generating the codes of a visit one by one, greedily with a KV cache, one patient at a time."""
    case = _Case(patients, codes, width, layers)
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "use_cache": True}

    def generate():
        for ids in case.prompts:
            case.model.language_model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)

    times = best_of({"generate": generate, "rank": case.rank}, repeat)
    return times["generate"] / times["rank"], (
        f"`generate` of {tokens} codes (greedy, KV cache) / `rank` of all, time at batch 1: {case.size()}"
    )


def descriptions(patients=4, scored=64, codes=4_900, width=256, layers=4, repeat=5) -> tuple[float, str]:
    """The likelihood of every code's description behind the history, whose keys and values are computed once."""
    case = _Case(patients, codes, width, layers)
    chosen = random.Random(0).sample(case.model.config.descriptions, scored)
    texts = [case.tokenizer(text, add_special_tokens=False)["input_ids"] for text in chosen]
    batches = [texts[at : at + 32] for at in range(0, scored, 32)]
    caches = []

    @torch.no_grad()
    def read():
        caches[:] = [case.model.language_model(ids, use_cache=True, logits_to_keep=1) for ids in case.prompts]

    @torch.no_grad()
    def score():
        for history in caches:
            for batch in batches:
                text_likelihoods(case.model.language_model, history, batch)

    read()
    times = best_of({"read": read, "score": score, "rank": case.rank}, repeat)
    everything = times["read"] + times["score"] * codes / scored
    return everything / times["rank"], (
        f"likelihood of each code's description (KV cache of the history, batches of 32, {scored} codes measured and "
        f"scaled to all) / `rank`, time at batch 1: {case.size()}"
    )


def sorted_batches(patients=512, batch_size=32, codes=4_900, width=256, layers=4, repeat=5) -> tuple[float, str]:
    """`rank` sorts patients by length; here are batches as patients come, from the same parts."""
    names = icd_codes("ICD9CM", codes)
    model, tokenizer = language_model(names, width, layers)
    model.eval()
    draw = random.Random(0)
    visits = draw.choices(range(1, len(VISITS_BEFORE) + 1), VISITS_BEFORE, k=patients)
    rows = synthetic_patients(patients, names, visits)

    @torch.no_grad()
    def as_they_come():
        encoder = TimelineEncoder(model.config, tokenizer)
        timelines = [encoder.encode_history(row) for row in rows]
        for at in range(0, patients, batch_size):
            batch = collate_timelines(timelines[at : at + batch_size], 0)
            output = model(**{name: batch[name] for name in FORWARD_INPUTS if name in batch})
            model.decide(output, batch["history_codes"], batch["history_values"], top_k=20)

    calls = {
        "as they come": as_they_come,
        "sorted": lambda: model.rank(rows, tokenizer, top_k=20, batch_size=batch_size),
    }
    times = best_of(calls, repeat)
    return times["as they come"] / times["sorted"], (
        f"batches of {batch_size} patients as they come / `rank`, which sorts them by length, time: {patients} patients with "
        f"as many visits as those of Diabetes 130, 10 to 15 codes a visit, {codes:,} codes; Llama, d = {width:,}, "
        f"{layers} layers"
    )


class _Case:
    """A model, and patients with three visits, one at a time."""

    def __init__(self, patients: int, codes: int, width: int, layers: int):
        names = icd_codes("ICD9CM", codes)
        self.model, self.tokenizer = language_model(names, width, layers)
        self.model.eval()
        self.rows = synthetic_patients(patients, names, visits=[3])
        encoder = TimelineEncoder(self.model.config, self.tokenizer)
        self.prompts = [torch.tensor([encoder.encode_history(row).input_ids]) for row in self.rows]

    def rank(self) -> None:
        for row in self.rows:
            self.model.rank([row], self.tokenizer, top_k=20)

    def size(self) -> str:
        text = self.model.config.text_config
        return (
            f"histories of 3 visits of 10 to 15 codes, {self.model.config.num_codes:,} codes; Llama, d = "
            f"{text.hidden_size:,}, {text.num_hidden_layers} layers"
        )


def text_likelihoods(language_model, history, texts: list[list[int]]) -> torch.Tensor:
    """Log-likelihood of each text behind a history, shape `(N,)`.

    Args:
        language_model: a causal language model.
        history: its output for the history: `past_key_values`, and the logits of the last token.
        texts: token ids.
    """
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])  # (N, S)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    cache = copy.deepcopy(history.past_key_values)
    seen = cache.get_seq_length()
    cache.batch_repeat_interleave(len(texts))
    whole = torch.cat([torch.ones(len(texts), seen, dtype=torch.long), mask], dim=1)
    logits = language_model(ids[:, :-1], attention_mask=whole[:, :-1], past_key_values=cache, use_cache=True).logits
    logits = torch.cat([history.logits[:, -1:].expand(len(texts), -1, -1), logits], dim=1)  # (N, S, vocabulary)
    return (logits.log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0] * mask).sum(1)
