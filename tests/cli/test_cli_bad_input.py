"""Bad input: exit status 2, one line on standard error that names the place and the value, and nothing written."""

import importlib.util
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cohort import COLUMNS, visit_rows, write_visits
from command import RECIPES, TINY, memorize, mera, succeed


RECIPE = {stage: RECIPES / "tiny-cpu" / f"{stage}.yaml" for stage in ("memorize", "train")}


def refused(verb, *arguments):
    """The one line that `mera` says."""
    run = mera(verb, *arguments)
    assert run.status == 2, run.err
    lines = [line for line in run.err.replace("\r", "\n").splitlines() if line.startswith(f"mera {verb}: ")]
    assert len(lines) == 1 and run.err.rstrip().endswith(lines[0]), run.err
    assert "Traceback" not in run.err and run.out == ""
    return lines[0]


@pytest.fixture
def stage(small, tmp_path):
    """`stage("train", text of a recipe, option, ...)`: the refusal, after a look that nothing was written."""

    def run(
        verb, recipe=None, *options, start=("--model-name-or-path", small / "memorized"), dataset=small / "dataset"
    ):
        path = RECIPE[verb]
        if recipe is not None:
            path = tmp_path / "recipe.yaml"
            path.write_text(recipe)
        output = tmp_path / "output"
        data = () if dataset is None else ("--dataset", dataset)
        line = refused(verb, "--config", path, "--output-dir", output, *data, *start, *options)
        assert not output.exists()
        return line

    return run


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("tua: 1.0", "unknown field `tua`; did you mean `tau`?"),
        ("a: [b", "is not valid YAML"),
        ("tau", "holds no `key: value` lines"),
        ("tau: hot", "--tau: invalid float value: 'hot'"),
        ("tau: -1.0", "`tau` is -1.0"),
        ("tau: [1, 2]", "`tau` takes one value, not a list"),
        ("seed: 1.5", "--seed: invalid int value: '1.5'"),
        ("use_profile: perhaps", "--use_profile"),
        ("save_strategy: no", "--save_strategy"),  # YAML's `no` is false; it has to be quoted
        ("levels: [space, chaptre]", "`levels` names 'chaptre'"),
        ("levels: []", "--levels: expected at least one argument"),
        ("level_weights: {sapce: 2}", "`level_weights` names 'sapce'"),
        ("eov_loss: mean", "`eov_loss` is 'mean'"),
        ("positions: nowhere", "`positions` is 'nowhere'"),
        ("history_text: title", "`history_text` is 'title'"),
        ("candidates: some", "`candidates` is 'some'"),
        ("from_scratch: llama", "`from_scratch` is 'llama'"),
        ("push_to_hub: true", "`push_to_hub` is true"),
        ("max_length: 3", "`max_length` is 3"),
    ],
)
def test_a_recipe_with_a_bad_value(stage, recipe, says):
    assert says in stage("train", recipe)


def test_a_quantised_base_without_bitsandbytes(stage, monkeypatch):
    if importlib.util.find_spec("bitsandbytes") is not None:
        assert "set `use_peft: true`" in stage("train", "load_in_4bit: true")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name)
    )
    assert "pip install 'mera_hf[quant]'" in stage("train", "load_in_4bit: true\nuse_peft: true")


def test_a_bad_option(stage):
    assert "unknown option `--tua`; did you mean `tau`?" in stage("train", None, "--tua", "1")
    assert "'stray' belongs to no option" in stage("train", None, "stray")
    assert "argument --tau: invalid float value: 'hot'" in stage("train", None, "--tau", "hot")
    assert "unknown field `levels`" in stage("memorize", "levels: [space]")


def test_a_missing_recipe(small, tmp_path):
    line = refused(
        "train", "--config", tmp_path / "no.yaml", "--dataset", small / "dataset", "--output-dir", tmp_path / "o"
    )
    assert "no.yaml cannot be read: No such file or directory" in line and not (tmp_path / "o").exists()


@pytest.mark.parametrize("verb", ["memorize", "train"])
def test_a_dataset_that_is_none(stage, verb, tmp_path):
    assert "`--dataset` is missing" in stage(verb, None, dataset=None)
    assert "is not a prepared dataset" in stage(verb, None, dataset=tmp_path / "nowhere")
    assert "is not a prepared dataset" in stage(verb, None, dataset=RECIPES)


def test_a_start_that_is_none(stage, tmp_path):
    assert "give `model_name_or_path` (a base model or a checkpoint), or" in stage("train", "seed: 0", start=())
    assert "cannot be loaded" in stage("train", "seed: 0", start=("--model-name-or-path", tmp_path / "no-model"))
    assert "`from_scratch.model_type` is 'lama'" in stage(
        "train", "seed: 0", start=("--from-scratch", '{"model_type": "lama"}')
    )


def test_no_output_folder(small):
    line = refused("train", "--config", RECIPE["train"], "--dataset", small / "dataset", "--from-scratch", TINY)
    assert "`--output-dir` is missing" in line


def test_an_output_folder_is_not_lost(small, tmp_path):
    def attempt(output, *options):
        arguments = ("--config", RECIPE["train"], "--dataset", small / "dataset", "--output-dir", output)
        return refused("train", *arguments, "--model-name-or-path", small / "memorized", *options)

    def content(folder):
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "config.json").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = content(small) | content(tmp_path)
    assert "is not empty" in attempt(small / "model") and "is not empty" in attempt(tmp_path / "letters")
    assert "holds no checkpoint of mera" in attempt(tmp_path / "letters", "--overwrite")
    assert "holds no checkpoint of mera" in attempt(small / "dataset", "--overwrite")
    assert "is a file" in attempt(tmp_path / "file", "--overwrite")
    assert "which this training reads" in attempt(small / "memorized", "--overwrite")
    # Of the user's own, but with something else that is wrong: kept until the input is known to be good
    assert "`levels` names 'x'" in attempt(small / "model", "--overwrite", "--levels", "x")
    assert content(small) | content(tmp_path) == before


def test_overwrite_replaces_a_checkpoint_whole(small, tmp_path):
    memorize(small / "dataset", tmp_path / "m")
    (tmp_path / "m" / "adapter").mkdir()
    (tmp_path / "m" / "adapter" / "of the last time").touch()
    memorize(small / "dataset", tmp_path / "m", "--overwrite")
    assert (tmp_path / "m" / "memorization.json").is_file() and not (tmp_path / "m" / "adapter").exists()


def test_a_folder_that_a_crash_left_without_a_file_counts_as_empty(small, tmp_path):
    (tmp_path / "m" / "checkpoints").mkdir(parents=True)
    memorize(small / "dataset", tmp_path / "m")
    assert not (tmp_path / "m" / "checkpoints").exists()


@pytest.fixture
def changed(small, tmp_path):
    """A copy of the trained checkpoint to break."""
    shutil.copytree(small / "model", tmp_path / "changed")
    return tmp_path / "changed"


@pytest.fixture
def reading(small, tmp_path):
    """The refusal of every verb that reads a checkpoint."""

    def run(checkpoint):
        lines = (
            refused("evaluate", checkpoint, "--dataset", small / "dataset"),
            refused("predict", checkpoint, "--visits", "486"),
            refused("predict", checkpoint, "--dataset", small / "dataset", "--output-dir", tmp_path / "rankings"),
            refused("export", checkpoint, "--output-dir", tmp_path / "plain"),
        )
        assert len({line.split(": ", 1)[1] for line in lines}) == 1
        assert not (tmp_path / "rankings").exists() and not (tmp_path / "plain").exists()
        return lines[0]

    return run


def test_a_checkpoint_that_cannot_rank(reading, small, tmp_path):
    assert "was memorized but not trained to rank" in reading(small / "memorized")
    assert "is not a folder here" in reading(tmp_path / "nowhere")
    assert "holds no model" in reading(small / "dataset")


def test_a_plain_language_model(reading, base_folder):
    assert "is a mistral model; train it with `mera train` first" in reading(base_folder("mistral"))


def test_a_checkpoint_without_its_tokenizer(reading, changed):
    for path in changed.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer" in reading(changed)


def test_a_checkpoint_with_another_tokenizer(reading, changed, base_folder, stage):
    shutil.copy(base_folder("mistral") / "tokenizer.json", changed)
    assert "does not belong to this model" in reading(changed)
    assert "does not belong to this model" in stage("train", None, start=("--model-name-or-path", changed))


def test_a_checkpoint_without_its_weights(reading, changed):
    (changed / "model.safetensors").unlink()
    assert "is not whole" in reading(changed)


def test_a_checkpoint_of_another_vocabulary(stage, small, tmp_path):
    rows = [[*row[:3], "733.00" if row[3] == "486" else row[3], *row[4:]] for row in visit_rows()]
    write_visits(tmp_path / "visits.csv", rows)
    dataset = tmp_path / "other"
    succeed("prepare", "visits_csv", "--data-dir", tmp_path / "visits.csv", "--output-dir", dataset)
    assert "is of another vocabulary: it lacks 1 of the 26 codes" in stage("train", None, dataset=dataset)
    assert "ICD9CM:733.00" in refused("evaluate", small / "model", "--dataset", dataset)


def test_evaluate_keeps_what_is_there(small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("mine")
    (tmp_path / "file").write_text("mine")
    arguments = (small / "model", "--dataset", small / "dataset", "--output-dir")
    assert "holds an evaluation" in refused("evaluate", *arguments, tmp_path / "out")
    assert "is a file" in refused("evaluate", *arguments, tmp_path / "file")
    assert "`--batch-size` is 0" in refused("evaluate", *arguments, tmp_path / "new", "--batch-size", "0")
    assert "is not a prepared dataset" in refused("evaluate", small / "model", "--dataset", tmp_path)
    assert (tmp_path / "out" / "metrics.json").read_text() == (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_a_patient_in_two_splits(stage, small, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(small / "dataset", edited)
    test, train = (pq.read_table(edited / "data" / f"{split}.parquet") for split in ("test", "train"))
    pq.write_table(pa.concat_tables([test, train.slice(0, 1)]), edited / "data" / "test.parquet")
    says = "A patient is in two splits: row 0 of train and row 14 of test"
    assert says in stage("train", None, dataset=edited)
    assert says in refused("evaluate", small / "model", "--dataset", edited)


def rows_with(row, **changes):
    rows = visit_rows()
    for column, value in changes.items():
        rows[row][COLUMNS.index(column)] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (rows_with(7, code="999999"), ("row 9", "'999999'")),
        (rows_with(7, code=""), ("row 9", "empty `code`")),
        (rows_with(7, version="11"), ("row 9", "`version` is '11'")),
        (rows_with(7, version="10"), ("row 9", "set version 9")),
        (rows_with(7, time="2050-01-01"), ("row 9", "Give a visit one time")),
        (rows_with(7, sex="X"), ("row 9", "`sex` is 'X'")),
        ([[*row[:1], f"v{row[1]}", "2020-01-01", *row[3:]] for row in visit_rows()], ("their order is unknown",)),
        ([row for row in visit_rows() if row[1] == "1"], ("The cohort is empty: of 60 patients",)),
        ([], ("The cohort is empty: of 0 patients",)),
    ],
    ids=[
        "unknown code",
        "empty visit",
        "version",
        "wrong version",
        "two times",
        "sex",
        "equal times",
        "cohort",
        "no rows",
    ],
)
def test_a_table_with_a_fault(tmp_path, rows, says):
    table = write_visits(tmp_path / "visits.csv", rows)
    line = refused("prepare", "visits_csv", "--data-dir", table, "--output-dir", tmp_path / "out")
    for words in says:
        assert words in line
    assert {path.name for path in tmp_path.iterdir()} == {"visits.csv"}


def test_a_table_without_a_column(tmp_path):
    table = write_visits(tmp_path / "visits.csv", [row[1:] for row in visit_rows()], COLUMNS[1:])
    line = refused("prepare", "visits_csv", "--data-dir", table, "--output-dir", tmp_path / "out")
    assert "patient" in line and not (tmp_path / "out").exists()


def test_a_prepared_folder_is_not_overwritten_unasked(small, tmp_path):
    table = small / "visits.csv"
    before = (small / "dataset" / "prepare.json").read_bytes()
    arguments = ("visits_csv", "--data-dir", table, "--output-dir")
    assert "--overwrite" in refused("prepare", *arguments, small / "dataset")
    (tmp_path / "mine").write_text("")
    assert "never overwritten" in refused("prepare", *arguments, tmp_path, "--overwrite")
    assert json.loads(before) and (small / "dataset" / "prepare.json").read_bytes() == before
