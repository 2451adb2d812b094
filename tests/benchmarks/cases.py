"""What the comparisons share: codes of the ICD trees, language models with random weights, synthetic patients."""

import random

import torch

from mera_hf.data.memorizing import memorizing_texts
from mera_hf.icd import IcdTree, sort_codes
from mera_hf.timeline_mera import Timeline, collate_timelines
from mera_hf.training.code_tokens import add_code_tokens
from mera_hf.training.from_scratch import from_scratch


def icd_codes(vocabulary: str, count: int | None = None) -> list[str]:
    """Billable codes of a tree in its order: all, or a random subset."""
    codes = sort_codes(IcdTree.load(vocabulary).codes(billable=True))
    return codes if count is None or count >= len(codes) else sort_codes(random.Random(0).sample(codes, count))


def language_model(codes: list[str], width: int, layers: int, **config_fields):
    """A Llama with 8 heads, of which 4 have keys, tokens for the codes and no ranking head, and its tokenizer."""
    architecture = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 11 * width // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    }
    model, tokenizer = from_scratch(architecture, memorizing_texts(codes), seed=0)
    fields = {"code_bias": False, "history_term": False, "use_profile": False, **config_fields}
    add_code_tokens(model, tokenizer, codes, initialise="random", **fields)
    return model, tokenizer


def synthetic_patients(
    count: int, codes: list[str], visits: list[int], fewest: int = 10, most: int = 15
) -> list[dict]:
    """Rows of a visits dataset: the number of visits drawn from `visits`, `fewest` to `most` codes in each."""
    draw = random.Random(0)
    return [
        {
            "patient_id": str(number),
            "profile": None,
            "visits": [
                {"codes": draw.sample(codes, draw.randint(fewest, most)), "time": None, "text": None}
                for _ in range(draw.choice(visits))
            ],
        }
        for number in range(count)
    ]


def batches_by_length(timelines: list[Timeline], size: int) -> list[dict[str, torch.Tensor]]:
    """Batches of `size` timelines of similar length, which have little padding."""
    timelines = sorted(timelines, key=lambda timeline: len(timeline.input_ids))
    return [collate_timelines(timelines[at : at + size], 0) for at in range(0, len(timelines), size)]
