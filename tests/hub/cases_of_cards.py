"""Checkpoint folders with the files that a card reads, and no weights."""

import json


CODES = ["ICD9CM:250.00", "ICD9CM:272.4", "ICD9CM:401.9", "ICD9CM:428.0"]
OPEN = {
    "source": "diabetes130",
    "licence": "cc-by-4.0",
    "credentialed": False,
    "fingerprint": "abc123",
    "agreement": None,
    "patients": True,
}
TRAINING = {
    "recipe": "tiny-cpu/train",
    "seed": 0,
    "seconds": 7384.2,
    "hardware": {"device": "NVIDIA H100 80GB HBM3", "accelerators": 2},
    "validation": {"recall@20": 0.6584},
    "memorization": None,
    "log": [{"loss": 5.6, "step": 50}, {"train_loss": 5.3, "epoch": 8.0, "step": 1744}],
}
MEMORIZATION = {
    "code_to_definition_seen": 0.9975,
    "code_to_definition_unseen": 0.9962,
    "code_to_group_seen": 1.0,
    "code_to_group_unseen": 0.9827,
    "definition_to_code_seen": 1.0,
    "definition_to_code_unseen": 0.9962,
}


def write_checkpoint(folder, training=None, memorization=None, provenance=OPEN, base_model=None):
    folder.mkdir()
    config = {
        "model_type": "mera",
        "id2label": dict(enumerate(CODES)),
        "text_config": {"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 64},
        "use_profile": True,
        "provenance": provenance,
        "base_model": base_model,
    }
    files = {"config": config, "training": training, "memorization": memorization}
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
