"""What may be published: terms of the data, files by name, and no path of this machine."""

import re

import pytest
from publishing_cases import OPEN

from mera_hf.errors import InputError
from mera_hf.hub.guard import (
    ADAPTER_FILES,
    CHECKPOINT_FILES,
    DATASET_FILES,
    check_no_paths,
    check_rows,
    check_weights,
    is_listed,
    is_local_path,
    reason_to_stay,
    without_paths,
)
from mera_hf.training.provenance import NO_PATIENTS, trained_on


AGREEMENT = "PhysioNet Credentialed Health Data License 1.5.0"
REPORT = {"source": "mimic4", "license": AGREEMENT, "credentialed": True, "agreement": AGREEMENT, "fingerprint": "b2"}
MIMIC = trained_on(NO_PATIENTS, REPORT)
MINE = {**MIMIC, "source": "visits_csv", "licence": "unknown", "agreement": None}
PATHS = ("/home/ann/runs/mera", "/data/x/", "C:\\Users\\ann\\runs", "~/runs/mera", "file:///home/ann", "/a/b.json")
OTHERS = (
    "runs/mera",
    "BioMistral/BioMistral-7B",
    "https://huggingface.co/org/model/tree/main",
    "and/or",
    "3/4/5",
    "tiny-cpu/train",
    "</s>",
    "<|a/b|>",
    "</div></p>",
    "R@10/20/40",
    "see [x](../docs/y/z.md)",
    "org/model",
    "/",
    "mg/dl/day",
)


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


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_found_alone_and_in_a_sentence(path):
    assert is_local_path(path) and is_local_path(f" {path}\n")
    assert not is_local_path(f"see {path}")
    for text in (
        f"see {path}",
        f"`{path}`",
        f'base_model: "{path}"',
        f"({path})",
        f"--dataset={path}",
        f"fine\n{path}",
    ):
        with pytest.raises(InputError, match=r"card.md, line \d names a path of this machine"):
            check_no_paths(text, "card.md")


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_no_path_stays(text):
    assert not is_local_path(text)
    check_no_paths(f"see {text} and {text}", "card.md")
    assert without_paths({"a": text}) == ({"a": text}, [])


def test_fields_that_are_paths_go_by_name():
    content = {
        "_name_or_path": "/home/ann/base",
        "n": 1,
        "log": [{"file": "~/x", "loss": 0.5}],
        "deep": {"base": "C:\\x\\y"},
    }
    kept, removed = without_paths(content)
    assert kept == {"n": 1, "log": [{"loss": 0.5}], "deep": {}}
    assert removed == ["_name_or_path", "log.file", "deep.base"]


def test_the_line_is_named():
    with pytest.raises(
        InputError, match=re.escape("x.md, line 3 names a path of this machine, '/home/ann/runs', and")
    ):
        check_no_paths("a\nb\nrun in /home/ann/runs today\n", "x.md")
