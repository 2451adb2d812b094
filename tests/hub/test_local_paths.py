"""Paths of a machine are found wherever they hide, and nothing else is taken for one."""

import re

import pytest

from mera_hf.errors import InputError
from mera_hf.hub.local_paths import check_no_paths, is_local_path, without_paths


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
