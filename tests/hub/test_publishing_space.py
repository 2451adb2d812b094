"""A published Space: its repository, and its page, started as the Hub starts it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from loopback import OWNER
from publishing_cases import publish

import mera_hf
from mera_hf.app.space import space_files


def test_the_command_makes_a_space_beside_the_model(hub, run, trained):
    commands = ("trained/run --repo clinic/mera --space", "trained/run --repo clinic/open --space --public")
    printed = publish(run, *commands)
    for name, visibility in (("mera", "private"), ("open", "public")):
        assert f"published ({visibility}): {hub.url}/clinic/{name}\n" in printed
        assert f"published ({visibility}): {hub.url}/spaces/clinic/{name}\n" in printed
        model, space = hub.repos["model", f"clinic/{name}"], hub.repos["space", f"clinic/{name}"]
        assert model.private is space.private is (visibility == "private")
        files = {path: content.decode() for path, content in space.files().items() if path != ".gitattributes"}
        assert files == space_files(f"clinic/{name}")
        assert files["README.md"].startswith("---\n") and "\nsdk: gradio\n" in files["README.md"]
        assert f'serve("clinic/{name}")' in files["app.py"]
        assert "model.safetensors" in model.files(), "what the Space names is there"

    # Once more: the same repositories, and nothing new in them
    publish(run, commands[0])
    assert len(hub.repos) == 4 and len(hub.repos["space", "clinic/mera"].commits) == 2


@pytest.fixture
def start(tmp_path):
    """`start(folder, **variables)` runs the `app.py` of a folder and gives its address; it ends with the test."""
    running = []

    def run_app(folder: Path, **variables: str) -> tuple[subprocess.Popen, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRADIO_"))}
        settings |= {
            "HF_HOME": str(tmp_path / "home"),
            "GRADIO_SERVER_PORT": str(port),
            "SPACE_ID": "clinic/mera",
            "PYTHONPATH": str(Path(mera_hf.__file__).parents[1]),
            **variables,
        }
        with open(tmp_path / "log", "w") as log:
            command = [sys.executable, "app.py"]
            running.append(subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=log))
        return running[-1], f"http://127.0.0.1:{port}/"

    yield run_app
    for process in running:
        process.kill()
        process.wait()


def page_of(process: subprocess.Popen, address: str, log: Path) -> tuple[int, str]:
    """Status and text of the page once it answers."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + 240
    while time.monotonic() < limit and process.poll() is None:
        try:
            with direct.open(address, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the page does not answer: {log.read_text()}")


@pytest.mark.parametrize("provenance", ["diabetes130", "mimic4"])
def test_the_page_of_the_space_answers(provenance, hub, run, trained, start, tmp_path, request):
    """Fetched into a folder and started in a fresh process, with the Hub of this test and a token as its secret."""
    if provenance == "mimic4":
        request.getfixturevalue("mimic")
        more = "['--agreement', 'PhysioNet Credentialed Health Data License 1.5.0']"
    else:
        more = "[]"
    run(
        f"""
        from huggingface_hub import snapshot_download
        from mera_hf.cli.main import main

        assert main(["publish", "trained/run", "--repo", "clinic/mera", "--space", *{more}]) == 0
        snapshot_download("clinic/mera", repo_type="space", local_dir="space")
        """
    )
    hub.requests.clear()
    process, address = start(tmp_path / "space", HF_ENDPOINT=hub.url, HF_TOKEN=OWNER, HF_HUB_DISABLE_XET="1")
    status, page = page_of(process, address, tmp_path / "log")
    assert status == 200 and "clinic/mera" in page
    assert "This page is on a server: do not enter a real patient." in page
    assert ("Or load a patient" in page) is (provenance == "diabetes130"), "patients of open data alone"
    assert any("model.safetensors" in asked for asked in hub.requests), "the model comes from the Hub"
    assert not any(asked.startswith(("POST", "PUT")) for asked in hub.requests), "and nothing goes there"
