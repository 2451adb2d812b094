import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from loopback import OWNER, Hub
from publishing_cases import METRICS, OPEN, edit_json

import mera_hf


@pytest.fixture
def hub():
    """A Hub in memory, empty."""
    server = Hub()
    yield server
    server.close()
    assert not server.bugs, server.bugs[0]


@pytest.fixture
def run(hub, tmp_path):
    """`run(code)` runs Python in a fresh process that knows this Hub and no other, and gives what it printed.

    The client reads its settings when it is imported, and this process has it in offline mode. `blocked` makes `mera_hf`
    impossible to import there; `variables` are set in its environment. Each process has a cache of its own.
    """
    homes = iter(range(100))

    def execute(code: str, token: str | None = OWNER, blocked=False, fails=False, **variables: str) -> str:
        settings = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / f"home{next(homes)}"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": "" if blocked else str(Path(mera_hf.__file__).parents[1]),
            **({"HF_TOKEN": token} if token else {}),
            **variables,
        }
        code = textwrap.dedent(code)
        if blocked:
            code = "import sys\nsys.modules['mera_hf'] = None\n" + code
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout

    return execute


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory):
    from mera_hf.data.prepare import prepare

    folder = tmp_path_factory.mktemp("hub") / "prepared"
    prepare("diabetes130", output_dir=folder, sample=60)
    return folder


@pytest.fixture
def prepared(_prepared, tmp_path):
    """A prepared folder of sixty patients whose rows everyone may have."""
    return Path(shutil.copytree(_prepared, tmp_path / "prepared"))


@pytest.fixture(scope="session")
def _trained(tmp_path_factory):
    """Two models that rank, one started from the other with an adapter, as trainings leave them."""
    import torch
    from datasets import Dataset
    from tiny import CODES, patients, tiny_mera
    from trl import ModelConfig

    from mera_hf.training.arguments import MeraArguments
    from mera_hf.training.checkpoints import load_model, save_checkpoint, wrap_with_adapter
    from mera_hf.training.provenance import NO_PATIENTS

    folder = tmp_path_factory.mktemp("trained")
    save_checkpoint(*tiny_mera(seed=1, provenance=dict(NO_PATIENTS)), folder / "base")
    model_args = ModelConfig(
        model_name_or_path=str(folder / "base"), dtype="float32", use_peft=True, lora_r=4, lora_dropout=0.0
    )
    train = Dataset.from_list(patients(4))
    model, tokenizer = load_model(model_args, MeraArguments(), train, CODES, 0)
    model.config.provenance = dict(OPEN)
    wrapped, generator = wrap_with_adapter(model, model_args), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_checkpoint(wrapped.eval(), tokenizer, folder / "run")
    log = {"recipe": "tiny/train", "seed": 0, "seconds": 1.0, "memorization": None, "log": [{"loss": 1.5, "step": 1}]}
    (folder / "run" / "training.json").write_text(json.dumps(log))
    (folder / "run" / "evaluation").mkdir()
    (folder / "run" / "evaluation" / "metrics.json").write_text(json.dumps(METRICS))
    return folder


@pytest.fixture
def trained(_trained, tmp_path):
    """`base`, a checkpoint without patients, and `run`, one on open data with an `adapter` and an `evaluation`."""
    return Path(shutil.copytree(_trained, tmp_path / "trained"))


@pytest.fixture
def mimic(trained):
    """`run`, as if it was trained on credentialed patients."""
    name = "PhysioNet Credentialed Health Data License 1.5.0"
    data = {"source": "mimic4", "licence": name, "credentialed": True, "agreement": name}
    edit_json(trained / "run" / "config.json", provenance={**OPEN, **data})
    return trained / "run"
