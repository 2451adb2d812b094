"""The files of a Space."""

import re
from pathlib import Path

import pytest
import yaml

import mera_hf
from mera_hf.app import space
from mera_hf.app.space import GRADIO, PYTHON, bundled_patients, space_files


PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def files():
    return space_files("clinic/mera-small")


def settings(files):
    _, text, body = files["README.md"].split("---\n", 2)
    return yaml.safe_load(text), body


def test_the_space_has_what_the_hub_asks_for(files):
    """huggingface.co/docs/hub/spaces-config-reference"""
    found, body = settings(files)
    assert set(files) == {"README.md", "app.py", "requirements.txt"}
    assert found["sdk"] == "gradio" and found["sdk_version"] == GRADIO and found["python_version"] == PYTHON
    assert found["app_file"] in files and found["models"] == ["clinic/mera-small"]
    assert len(found["short_description"]) <= 60 and len(found["title"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {found["colorFrom"], found["colorTo"]} <= colours
    assert "For research, not for clinical decisions." in body and "Do not enter a real patient" in body


def test_versions_are_those_of_the_project(files):
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    project = PROJECT.read_text()
    gradio = Requirement(re.search(r'^app = \["(.*)"\]$', project, flags=re.M)[1])
    assert gradio.name == "gradio" and GRADIO in gradio.specifier
    assert PYTHON in SpecifierSet(re.search(r'^requires-python = "(.*)"$', project, flags=re.M)[1])
    assert files["requirements.txt"] == f"mera_hf[app]=={mera_hf.__version__}\n"


def test_another_place_of_the_package(files):
    other = space_files("clinic/mera-small", package="mera_hf[app] @ file:///wheels/mera_hf.whl")
    assert other["requirements.txt"] == "mera_hf[app] @ file:///wheels/mera_hf.whl\n"
    assert other["app.py"] == files["app.py"]


def test_the_script_serves_the_checkpoint_to_all(files, monkeypatch, plain, tmp_path):
    """`app.py` as the Space runs it, up to the moment of serving."""
    served = []

    class Page:
        def block_thread(self):
            served.append("waits")

    def launch(*arguments):
        served.append(arguments)
        return Page()

    model, tokenizer = plain
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    monkeypatch.setattr("mera_hf.app.launching.launch", launch)
    source = files["app.py"].replace("clinic/mera-small", str(tmp_path / "saved"))
    exec(compile(source, "app.py", "exec"), {})
    (name, loaded, _, dataset, host), waits = served
    assert (name, dataset, host, waits) == (str(tmp_path / "saved"), None, "0.0.0.0", "waits")
    assert loaded.config.codes == model.config.codes


@pytest.mark.parametrize(
    ("provenance", "prepared"),
    [({"source": "diabetes130"}, ["diabetes130"]), ({"source": "mimic4"}, []), ({"source": None}, []), (None, [])],
)
def test_patients_come_from_open_data_that_the_package_carries(provenance, prepared, monkeypatch):
    asked = []
    monkeypatch.setattr("mera_hf.data.prepare.prepare", lambda source, output_dir: asked.append(source))

    class Config:
        pass

    Config.provenance = provenance
    folder = bundled_patients(Config())
    assert asked == prepared and (folder is not None) == bool(prepared)
    assert space.bundled_patients(object()) is None  # a checkpoint that says nothing of its data
