"""Memorize and Rank: predict a patient's next diagnoses with a language model, at home in the Hugging Face ecosystem.

Importing this package is cheap: torch and transformers load with the first name that needs them. Once transformers' Auto
classes are imported, before or after this package, they know `MeraConfig` and `MeraForDiagnosis`, and its pipelines know the
task "diagnosis-prediction".
"""

import importlib

from mera_hf._auto_classes import register_when_imported


__version__ = "0.1.0"

_HOME = {
    "MeraConfig": "configuration_mera",
    "MeraForDiagnosis": "modeling_mera",
    "MeraRanking": "modeling_mera",
    "DiagnosisPredictionPipeline": "pipeline_mera",
    "Explanation": "explanation_mera",
    "TimelineEncoder": "timeline_mera",
    "InputError": "errors",
    "shipped_checkpoint": "shipped",
    "IcdTree": "icd",
    "prepare": "data.prepare",
    "load_prepared": "data.prepared",
    "add_code_tokens": "training.code_tokens",
    "peft_config": "training.code_tokens",
    "MemorizationTrainer": "training.memorization_trainer",
    "MemorizationTrainerConfig": "training.memorization_config",
    "MeraTrainer": "training.mera_trainer",
    "MeraTrainerConfig": "training.mera_config",
    "calibrate": "training.calibrate",
    "memorize": "training.memorize",
    "train": "training.train",
    "cross_validate": "training.cross_validate",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mera_hf' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *_HOME])


register_when_imported()
