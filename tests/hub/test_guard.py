"""What may be published: terms of the data, and files by name."""

import re

import pytest
from publishing_cases import OPEN

from mera_hf.errors import InputError
from mera_hf.hub.guard import (
    ADAPTER_FILES,
    CHECKPOINT_FILES,
    DATASET_FILES,
    check_rows,
    check_weights,
    is_listed,
    reason_to_stay,
)
from mera_hf.training.provenance import NO_PATIENTS, trained_on


AGREEMENT = "PhysioNet Credentialed Health Data License 1.5.0"
REPORT = {"source": "mimic4", "license": AGREEMENT, "credentialed": True, "agreement": AGREEMENT, "fingerprint": "b2"}
MIMIC = trained_on(NO_PATIENTS, REPORT)
MINE = {**MIMIC, "source": "visits_csv", "licence": "unknown", "agreement": None}


def refused(provenance, visibility, agreement, words):
    with pytest.raises(InputError, match=re.escape(words)):
        check_weights(provenance, visibility, agreement)


@pytest.mark.parametrize("visibility", ["private", "gated", "public"])
@pytest.mark.parametrize("provenance", [OPEN, NO_PATIENTS], ids=["open data", "no patients"])
def test_open_weights_go_anywhere(provenance, visibility):
    assert check_weights(provenance, visibility, None) == provenance


def test_credentialed_weights_are_never_public():
    for provenance, words in (
        (MIMIC, f"trained on patients of mimic4, which are under the {AGREEMENT}: it is not published for everyone"),
        (MINE, "trained on patients of visits_csv, which are credentialed: it is not published for everyone"),
        (
            None,
            "does not say whose patients are in it, and so counts as credentialed: it is not published for everyone",
        ),
    ):
        for agreement in (None, AGREEMENT):
            refused(provenance, "public", agreement, words)


@pytest.mark.parametrize("visibility", ["private", "gated"])
def test_credentialed_weights_need_their_agreement(visibility):
    for nothing in (None, "", "  "):
        refused(MIMIC, visibility, nothing, f'If it lets you, name it: `--agreement "{AGREEMENT}"`')
        refused(None, visibility, nothing, 'name it: `--agreement "NAME AND VERSION"`')
    refused(
        MIMIC,
        visibility,
        "MIT",
        "but `--agreement` is 'MIT'. If you hold that agreement and may share the model, name",
    )
    assert check_weights(MIMIC, visibility, AGREEMENT) == MIMIC
    assert check_weights(MIMIC, visibility, AGREEMENT.lower().replace(" ", "  ")) == MIMIC
    # What the user names is what the published checkpoint says from then on
    assert check_weights(MINE, visibility, " Hospital A, 2026-03 ") == {**MINE, "agreement": "Hospital A, 2026-03"}
    unknown = check_weights(None, visibility, "Hospital A")
    assert unknown["credentialed"] and unknown["patients"] and unknown["agreement"] == "Hospital A"


def test_a_later_training_on_open_data_opens_nothing():
    report = {"source": "diabetes130", "license": "CC BY 4.0", "credentialed": False, "fingerprint": "a1"}
    again = trained_on(MIMIC, report)
    refused(again, "public", AGREEMENT, "trained on patients of diabetes130 and mimic4, which are under the PhysioNet")
    refused(
        trained_on(None, report), "public", None, "patients of diabetes130 and an unknown data set, which are credent"
    )


def test_rows_of_credentialed_data_are_never_published():
    for report, words in (
        (
            REPORT,
            f"The dataset of mimic4 is not published, not even in a private repository: its rows are under the {AGREEMENT}",
        ),
        ({**REPORT, "agreement": None}, "access is shared with nobody else"),  # as an earlier version prepared it
        (REPORT, "share the command, and the fingerprint b2"),
        ({**REPORT, "source": "visits_csv", "agreement": None}, "mera does not know the terms of your table"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            check_rows(report)
    check_rows({**REPORT, "credentialed": False})


def test_only_listed_files_go():
    for name in (
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "config.json",
        "tokenizer.json",
        "training.json",
    ):
        assert is_listed(name, CHECKPOINT_FILES)
    assert is_listed("adapter_model.safetensors", ADAPTER_FILES) and not is_listed("training.json", ADAPTER_FILES)
    assert is_listed("data/train.parquet", DATASET_FILES) and not is_listed("data/other.parquet", DATASET_FILES)
    for name, words in {
        "checkpoints/checkpoint-50/model.safetensors": "steps of a training",
        "checkpoint-50/optimizer.pt": "steps of a training",
        "evaluation/rankings.parquet": "metrics.json goes",
        "rankings.parquet": "patients' identifiers",
        "report.html": "example patient",
        "optimizer.pt": "optimizer",
        "training_args.bin": "paths of this machine",
        "pytorch_model.bin": "a pickle",
        "scheduler.pt": "a pickle",
        "runs/Nov23/events.out.tfevents.1": "a log",
        "train.log": "a log",
        "trainer_state.json": "a log",
        "adapter/adapter_model.safetensors": "--adapter",
        "README.md": "written anew",
        "modeling_mera.py": "installed mera_hf",
        "patients.csv": "not on the list",
        "notes.txt": "not on the list",
        ".env": "not on the list",
    }.items():
        assert not is_listed(name, CHECKPOINT_FILES + ADAPTER_FILES) and words in reason_to_stay(name), name
