"""`mera_hf.memorize`, `train` and `cross_validate`: what the verbs of the same names do, with keywords."""

import json
from pathlib import Path

import pytest
import torch
from cohort import CODES, visit_rows, write_visits
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

import mera_hf
from mera_hf.cli.main import main
from mera_hf.errors import InputError
from mera_hf.training.memorization_config import MemorizationTrainerConfig
from mera_hf.training.mera_config import MeraTrainerConfig
from mera_hf.training.recipe import RECIPES, parse_recipe


RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-cpu" / "train.yaml"
TINY = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
TINY |= {"num_attention_heads": 4}
FAST = {"from_scratch": TINY, "initialise": "description", "num_train_epochs": 1, "disable_tqdm": True}
TIMES = ("seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second")


def untimed(value):
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name not in TIMES}
    return [untimed(part) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    return mera_hf.train(RECIPE, dataset, folder, seed=3, levels=("space", "chapter"), **FAST)


def test_it_is_what_the_verb_does(trained, dataset, tmp_path, capsys):
    options = ["--from-scratch", json.dumps(TINY), "--initialise", "description", "--num-train-epochs", "1"]
    options += [
        "--disable-tqdm",
        "true",
        "--levels",
        "space",
        "chapter",
        "--seed",
        "3",
        "--output-dir",
        str(tmp_path / "m"),
    ]
    assert main(["train", "--config", str(RECIPE), "--dataset", str(dataset), *options]) == 0
    ours, theirs = load_file(trained.folder / "model.safetensors"), load_file(tmp_path / "m" / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("config.json", "tokenizer.json"):
        assert (trained.folder / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    logs = [json.loads((folder / "training.json").read_text()) for folder in (trained.folder, tmp_path / "m")]
    assert untimed(logs[0]) == untimed(logs[1]) and list(logs[0]) == list(logs[1])


def test_it_says_what_it_made(trained, dataset):
    log = json.loads((trained.folder / "training.json").read_text())
    assert log["recipe"] == "tiny-cpu/train" and log["seed"] == 3
    assert log["settings"]["levels"] == ["space", "chapter"] and log["settings"]["num_train_epochs"] == 1
    assert log["settings"]["start_head"] and "output_dir" not in log["settings"]
    assert trained.metrics == log["validation"] and 0 < trained.metrics["recall@10"] <= 1
    assert trained.dataset == dataset and 0 < trained.patients < 20
    assert trained.calibration.cut and trained.calibration.visits >= 20 and not trained.calibration.conformal
    assert AutoModel.from_pretrained(trained.folder).config.num_codes == len(CODES)


def test_memorize_and_train_one_after_the_other(dataset, tmp_path):
    """From the recipes that come with the package, by name."""
    small = {"per_device_train_batch_size": 16, "max_steps": 2, "disable_tqdm": True}
    memorized = mera_hf.memorize("demo/memorize", dataset, tmp_path / "m", groups=False, from_scratch=TINY, **small)
    assert memorized.exact_match == json.loads((memorized.folder / "memorization.json").read_text())
    assert memorized.folder == tmp_path / "m" and memorized.dataset == dataset
    trained = mera_hf.train("demo/train", dataset, tmp_path / "t", model_name_or_path=memorized.folder, **small)
    log = json.loads((trained.folder / "training.json").read_text())
    assert log["recipe"] == "demo/train" and log["memorization"] == memorized.exact_match
    assert AutoConfig.from_pretrained(trained.folder).provenance["patients"]


def test_dataset_and_output_folder_may_stand_in_the_recipe(dataset, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.read_text() + f"dataset: {dataset}\noutput_dir: {tmp_path / 'm'}\n")
    trained = mera_hf.train(recipe, max_steps=1, **FAST)
    assert trained.folder == tmp_path / "m" and trained.dataset == dataset
    with pytest.raises(InputError, match="`--output-dir` .*m is not empty"):
        mera_hf.train(recipe, max_steps=1, **FAST)
    assert mera_hf.train(recipe, overwrite=True, max_steps=1, **FAST).calibration == trained.calibration
    with pytest.raises(InputError, match="`--resume`: .* holds no saved step"):
        mera_hf.train(recipe, resume=True, **FAST)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tua": 1.0}, "^unknown field `tua`; did you mean `tau`?"),
        ({"tau": "hot"}, "argument --tau: invalid float value: 'hot'"),
        ({"tau": -1.0}, "`tau` is -1.0; a temperature is above 0"),
        ({"tau": [1, 2]}, "^`tau` takes one value, not a list"),
        ({"levels": []}, "--levels: expected at least one argument"),
        ({"levels": ["space", "chaptre"]}, "`levels` names 'chaptre'"),
        ({"seed": 1.5}, "--seed: invalid int value: '1.5'"),
        ({"groups": False}, "^unknown field `groups`"),
        ({"from_scratch": None}, "give `model_name_or_path` .* or `from_scratch`"),
        ({"overrides": ["--tua", "1"]}, "^unknown option `--tua`; did you mean `tau`?"),
    ],
)
def test_bad_fields_are_refused_as_bad_options_are(fields, says, dataset, tmp_path):
    with pytest.raises(InputError, match=says):
        mera_hf.train(RECIPE, dataset, tmp_path / "m", **{**FAST, **fields})
    assert not (tmp_path / "m").exists()


def test_fields_stand_for_those_of_the_recipe():
    fields = {"ema_decay": None, "softmax": False, "levels": ("space", "block"), "level_weights": {"block": 0.5}}
    training_args, model_args, _ = parse_recipe(RECIPE, ["--tau", "0.5"], MeraTrainerConfig, {**fields, "tau": 0.1})
    assert training_args.ema_decay is None and training_args.softmax is False and training_args.tau == 0.5
    assert (training_args.levels, training_args.level_weights) == (["space", "block"], {"block": 0.5})
    assert parse_recipe(RECIPE, [], MeraTrainerConfig)[0].ema_decay == 0.995


def test_a_file_comes_before_a_recipe_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups = parse_recipe("demo/memorize", ["--eval-strategy", "no"], MemorizationTrainerConfig)[0].groups
    assert groups and (RECIPES / "demo" / "memorize.yaml").is_file()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "memorize").write_text("groups: false\n")
    assert not parse_recipe("demo/memorize", [], MemorizationTrainerConfig)[0].groups


def test_cross_validation(dataset):
    few = RECIPE.with_name("train-few-patients.yaml")
    metrics = mera_hf.cross_validate(few, dataset, folds=2, max_steps=1, references=("prevalence",))
    assert (
        metrics["rankers"].keys() == {"mera", "prevalence"}
        and metrics["run"]["recipe"] == "tiny-cpu/train-few-patients"
    )
    assert metrics["protocol"] == {
        "target": "every visit from the second on",
        "candidates": "cohort",
        "history": "codes + profile",
    }
    with pytest.raises(InputError, match="`folds` is 1; choose 2 to"):
        mera_hf.cross_validate(few, dataset, folds=1)


def test_a_fold_shapes_nothing_of_the_model_that_ranks_it(tmp_path, monkeypatch):
    """Every patient brings a word of his own; a model from scratch knows those of the training folds alone."""
    from mera_hf.training import cross_validate

    rows = [[*row[:-1], f"race{row[0]}"] for row in visit_rows(24)]
    table = write_visits(tmp_path / "visits.csv", rows)
    folder = tmp_path / "dataset"
    assert main(["prepare", "visits_csv", "--data-dir", str(table), "--output-dir", str(folder)]) == 0
    seen = []

    def rank_samples(model, tokenizer, fold):
        words = {word for word in tokenizer.get_vocab() if word.startswith("race")}
        seen.append((words, {sample.profile["race"].lower() for sample in fold}))
        return ranking(model, tokenizer, fold)

    ranking = cross_validate.rank_samples
    monkeypatch.setattr(cross_validate, "rank_samples", rank_samples)
    few = RECIPE.with_name("train-few-patients.yaml")
    options = {"max_steps": 1, "references": ("prevalence",), "disable_tqdm": True, "use_profile": False}
    metrics = mera_hf.cross_validate(few, folder, folds=3, from_scratch=TINY, **options)
    everybody = {f"race{row[0]}" for row in rows}
    for words, held_out in seen:
        assert held_out and words == everybody - held_out
    assert set.union(*(held_out for _, held_out in seen)) == everybody
    assert metrics["protocol"]["history"] == "codes"


def test_they_are_of_the_package_and_hide_no_module():
    import mera_hf.training.train

    assert mera_hf.train is mera_hf.training.train.train and mera_hf.training.__name__ == "mera_hf.training"
    assert mera_hf.calibrate.__module__ == "mera_hf.training.calibrate"
    assert mera_hf.MeraRanking.__module__ == "mera_hf.modeling_mera"
    assert {"train", "memorize", "calibrate", "cross_validate"} < {*dir(mera_hf)} & {*mera_hf.__all__}
