"""The wheel holds every file of the package, and nothing else."""

from pathlib import Path

import pytest

import mera_hf


ROOT = Path(__file__).parents[1]
PACKAGE = Path(mera_hf.__file__).parent


def test_every_data_file_is_named_by_a_glob():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["packages"]["find"] == {"include": ["mera_hf*"]}
    (globs,) = settings["package-data"].values()
    named = {path for glob in globs for path in PACKAGE.glob(glob)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    forgotten = sorted(str(path.relative_to(PACKAGE)) for path in files - named if path.suffix != ".py")
    assert not forgotten, "add a glob to `package-data` in pyproject.toml"
    for glob in globs:
        assert any(PACKAGE.glob(glob)), f"`package-data` names {glob!r}, and no file is called so"
