"""`--coverage`: sets of a known coverage from a checkpoint that has them, in both forms of `mera predict`."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
from command import mera, succeed
from transformers import AutoModel, AutoTokenizer

from mera_hf.data.prepared import load_prepared
from mera_hf.evaluation.conformal import fit_conformal


@pytest.fixture(scope="module")
def covered(small, tmp_path_factory):
    """The small checkpoint with conformal sets fitted on its training patients, who are enough."""
    folder = tmp_path_factory.mktemp("covered") / "model"
    shutil.copytree(small / "model", folder)
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert fit_conformal(model, tokenizer, load_prepared(small / "dataset")["train"])
    model.config.save_pretrained(folder)
    return folder


def one(checkpoint, *options):
    return mera("predict", checkpoint, "--visits", "250.00 401.9; 428.0", "--top-k", "1000", *options)


def test_one_patient(covered):
    model = AutoModel.from_pretrained(covered).eval()
    tokenizer = AutoTokenizer.from_pretrained(covered)
    patient = {"profile": {}, "visits": [{"codes": ["ICD9CM:250.00", "ICD9CM:401.9"]}, {"codes": ["ICD9CM:428.0"]}]}
    sizes = {}
    for kind in ("codes", "visits"):
        for level in (0.8, 0.95):
            run = one(covered, "--coverage", level, "--coverage-of", kind, "--json")
            result = json.loads(run.out)
            ranking = model.rank([patient], tokenizer, coverage=level, coverage_of=kind)
            assert result["set_size"] == int(ranking.set_sizes[0])
            assert [row["code"] for row in result["ranking"]] == [model.config.codes[c] for c in ranking.order[0]]
            assert [row["in_set"] for row in result["ranking"]].count(True) == result["set_size"]
            assert (result["coverage"], result["coverage_of"]) == (level, kind)
            assert result["ordered_for_weighted_f1"] == 0 and "above_eov" not in result["ranking"][0]
            sizes[kind, level] = result["set_size"]
    assert sizes["codes", 0.8] < sizes["codes", 0.95] <= sizes["visits", 0.95]
    table = one(covered, "--coverage", "0.8").out
    assert f"coverage 80% of codes: the {sizes['codes', 0.8]} codes above are the predicted set" in table
    assert "80% or more of a visit's codes are in the set" in table and "EOV" not in table
    assert "80% or more have all codes" in one(covered, "--coverage", "0.8", "--coverage-of", "visits").out


def test_a_data_set(covered, small, tmp_path):
    arguments = ("predict", covered, "--dataset", small / "dataset", "--output-dir", tmp_path / "out")
    succeed(*arguments, "--coverage", "0.9", "--top-k", "5")
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    patients = load_prepared(small / "dataset")["test"].to_list()
    model, tokenizer = AutoModel.from_pretrained(covered).eval(), AutoTokenizer.from_pretrained(covered)
    ranking = model.rank(patients, tokenizer, coverage=0.9)
    assert [row["set_size"] for row in rows] == ranking.set_sizes.tolist()
    assert [row["codes"][0] for row in rows] == [model.config.codes[order[0]] for order in ranking.order]
    summary = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert (summary["coverage"], summary["coverage_of"]) == (0.9, "codes")
    run = mera(*arguments, "--top-k", "5", "--resume")
    assert run.status == 2 and "another `coverage` (it was 0.9, now it is None)" in run.err


def test_what_the_checkpoint_has_no_sets_for_is_refused(covered, small, tmp_path):
    run = one(covered, "--coverage", "0.7")
    assert run.status == 2 and "`coverage` 0.7: this checkpoint has no sets of that coverage" in run.err
    run = one(small / "model", "--coverage", "0.9")
    assert run.status == 2 and "training fits on 20 validation patients or more" in run.err
    options = ("--dataset", small / "dataset", "--output-dir", tmp_path / "out", "--coverage", "0.9")
    run = mera("predict", small / "model", *options)
    assert run.status == 2 and "`coverage` 0.9" in run.err and not (tmp_path / "out").exists()
    run = one(covered, "--coverage-of", "visits")
    assert run.status == 2 and "add `--coverage 0.9`" in run.err


def test_training_says_that_few_patients_give_no_sets(work):
    assert "there are no sets of a known coverage" in work("visits_csv")[1]["train"].out
