"""The checkpoints that come with the package are what their files say, and are found by name."""

import hashlib
import json
import re

import pytest
from transformers import AutoModel, AutoTokenizer

import mera_hf
from mera_hf.data.prepare import prepare
from mera_hf.data.prepared import load_prepared
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.shipped import CHECKPOINTS, find_checkpoint, shipped_names
from mera_hf.training.calibrate import measure
from mera_hf.training.memorization_trainer import exact_match


TRAINED, MEMORIZED = "mera-tiny-diabetes130", "mera-tiny-memorized"


def load(name):
    folder = mera_hf.shipped_checkpoint(name)
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_names_give_folders_and_a_folder_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_names() == [TRAINED, MEMORIZED]
    assert find_checkpoint(TRAINED) == mera_hf.shipped_checkpoint(TRAINED) == str(CHECKPOINTS / TRAINED)
    for other in ("org/mera-biomistral", "runs/mera", "README.md", ""):
        assert find_checkpoint(other) == other
    (tmp_path / TRAINED).mkdir()
    assert find_checkpoint(TRAINED) == TRAINED
    with pytest.raises(InputError, match=f"'mera-large'.* are {TRAINED}, {MEMORIZED}"):
        mera_hf.shipped_checkpoint("mera-large")


def test_the_files_are_small_whole_and_of_no_machine():
    sums = dict(reversed(line.split()) for line in (CHECKPOINTS / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {f"{name}/model.safetensors" for name in (TRAINED, MEMORIZED)}
    for path, digest in sums.items():
        assert hashlib.sha256((CHECKPOINTS / path).read_bytes()).hexdigest() == digest
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    for path in files:
        if path.suffix == ".json":
            assert not re.search(r'"(/|~|[A-Z]:\\|file:)', path.read_text()), f"{path.name} holds a path"
    common = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (CHECKPOINTS / TRAINED).iterdir()} == common | {"training.json"}
    assert {path.name for path in (CHECKPOINTS / MEMORIZED).iterdir()} == common | {
        "memorization.json",
        "memorize_run.json",
    }


def test_the_trained_one_reaches_what_it_says_on_validation(tmp_path):
    prepare("diabetes130", output_dir=tmp_path)
    model, tokenizer = load(TRAINED)
    training = json.loads((CHECKPOINTS / TRAINED / "training.json").read_text())
    assert (training["recipe"], training["seed"]) == ("tiny-cpu/train", 0)
    samples = prediction_samples(load_prepared(tmp_path)["validation"], model.config.codes)
    measured = measure(rank_samples(model, tokenizer, samples), samples)
    # Of 1,639 patients a few may change places with rounding on another processor
    assert measured == pytest.approx(training["validation"], abs=1e-3)


def test_the_memorized_one_knows_the_codes_and_nothing_of_patients():
    model, tokenizer = load(MEMORIZED)
    chosen = model.config.codes[::8]
    known = exact_match(model, tokenizer, chosen, False, 128)
    said = json.loads((CHECKPOINTS / MEMORIZED / "memorization.json").read_text())
    assert min(said.values()) > 0.98 and min(known.values()) > 0.97 and len(chosen) == 100
    assert not model.ranking_head.is_trained and not model.ranking_head.log_prevalence.any()
    fields = (model.config.calibration, model.config.conformal, model.config.eov_value)
    assert fields == (None, None, 0.5), "nothing was fitted on patients"


@pytest.mark.parametrize(("name", "patients"), [(TRAINED, True), (MEMORIZED, False)])
def test_they_may_be_published(name, patients):
    provenance = json.loads((CHECKPOINTS / name / "config.json").read_text())["provenance"]
    assert provenance["credentialed"] is False and provenance["patients"] is patients
    assert (provenance["source"], provenance["licence"]) == (
        ("diabetes130", "CC BY 4.0") if patients else (None, None)
    )
