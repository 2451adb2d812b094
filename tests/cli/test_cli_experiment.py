"""`mera experiment` from end to end, with trainings in processes of their own."""

import json

import pytest
import yaml
from command import SIZE, mera


RECIPE = {
    "from_scratch": {"model_type": "llama", **SIZE},
    "initialise": "description",
    "num_train_epochs": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
}


@pytest.fixture
def arguments(small, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    return ("--config", recipe, "--dataset", small / "dataset", "--output-dir", tmp_path / "output", "--seeds", "5")


def test_an_experiment_from_end_to_end_and_again(arguments, tmp_path):
    changed = ("--eov-loss", "none", "--learning-rate", "2e-3")  # so that one variant alone is not the recipe
    run = mera("experiment", "eov", *arguments, "--jobs", "2", *changed)
    assert run.status == 0, run.err
    output = tmp_path / "output"
    result = json.loads((output / "eov" / "experiment.json").read_text())
    assert result["seeds"] == [5] and result["overrides"] == list(changed)
    for text in (result["question"], result["says"], "form of ZLPR, EOV's own cut", f"written to {output / 'eov'}"):
        assert text in run.out
    assert "training: 100%" in run.err and "5/5" not in run.err
    names = {path.name for path in (output / "runs").iterdir()}
    assert names == {f"{name}-5{end}" for name in ("recipe", "eov_zlpr") for end in ("", ".log")}
    assert json.loads((output / "runs" / "eov_zlpr-5" / "result.json").read_text())["options"] == [
        *(*changed, "--eov-loss", "zlpr")
    ]
    assert "5/5" in (output / "runs" / "recipe-5.log").read_text(), "the progress of its steps"

    again = mera("experiment", "eov", *arguments, *changed)
    assert again.status == 0 and again.out == run.out and "training:" not in again.err
    other = mera("experiment", "eov", *arguments)
    assert other.status == 2 and other.out == ""
    assert other.err.startswith("mera experiment: ") and "recipe-5 was run with another recipe" in other.err


def test_bad_input_is_one_line(arguments, tmp_path):
    def refused(*more, name="eov", start=arguments):
        run = mera("experiment", name, *start, *more)
        assert run.status == 2 and run.out == "", run.out
        lines = run.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("mera experiment: "), run.err
        return lines[0]

    assert "`--jobs` is 0; it must be 1 or more" in refused("--jobs", "0")
    assert "`--threads` is -1; it must be 1 or more" in refused("--threads", "-1")
    for option in ("--seed", "--output_dir=x", "--resume", "--overwrite"):
        assert "seeds are named by `--seeds`" in refused(option)
    assert "unknown option `--epochs`" in refused("--epochs", "3")
    assert "name the recipe of that stage with `--memorize-config`" in refused(name="ablation")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "eov").write_text("mine")
    assert "holds something else than an experiment" in refused()
    (tmp_path / "file").write_text("mine")
    assert "file is a file; choose a folder" in refused("--output-dir", tmp_path / "file")
    assert not (tmp_path / "output" / "runs").exists()


def test_an_unknown_experiment(arguments):
    run = mera("experiment", "lucky", *arguments)
    assert run.status == 2 and "invalid choice: 'lucky'" in run.err
