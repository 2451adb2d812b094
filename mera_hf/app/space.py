"""The app as a Space on the Hub: its files, and what runs there."""

from __future__ import annotations

import tempfile
from pathlib import Path


# What the tests ran with; a Space installs its own Gradio and Python
GRADIO = "6.31.0"
PYTHON = "3.11"

_README = """
# Diagnoses of the next visit

Enter a patient's earlier visits by searching diagnosis codes or words, and see how
[{repo_id}](https://huggingface.co/{repo_id}) ranks all its codes for the next visit: where the predicted set ends, what moved
a code, and where it stands in the tree of codes.

**For research, not for clinical decisions.** Do not enter a real patient: what you enter is sent to this Space. It is neither
logged nor stored there. Where the model learned from open data that comes with `mera_hf`, test patients of it can be loaded.

To run the same page on your own computer, where nothing leaves it:

```
pip install '{package}'
mera app {repo_id}
```
"""
_APP = '''"""The page of a MERA checkpoint. Written by `mera publish --space`."""

from mera_hf.app.space import serve


serve("{repo_id}")
'''


def space_files(repo_id: str, package: str | None = None) -> dict[str, str]:
    """
    The files of a Space for a checkpoint.

    Args:
        repo_id (`str`): the checkpoint on the Hub, `organisation/name`. For a private one the Space needs a token: set
            the secret `HF_TOKEN` in its settings.
        package (`str`, *optional*): how `pip` installs this package; by default this version by name.

    Returns:
        `dict[str, str]`: path in the Space to text: `README.md` with the Space's settings, `app.py`, `requirements.txt`.
    """
    from huggingface_hub import SpaceCardData

    import mera_hf

    package = package or f"mera_hf[app]=={mera_hf.__version__}"
    settings = SpaceCardData(
        title=f"MERA: {repo_id.split('/')[-1]}",
        emoji="🩺",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=PYTHON,
        app_file="app.py",
        models=[repo_id],
        license="apache-2.0",
        short_description="Rank the diagnoses of the next visit; for research",
        pinned=False,
    )
    return {
        "README.md": f"---\n{settings.to_yaml()}\n---\n{_README.format(repo_id=repo_id, package=package)}",
        "app.py": _APP.format(repo_id=repo_id),
        "requirements.txt": f"{package}\n",
    }


def serve(repo_id: str) -> None:
    """Serve the page of a checkpoint to everybody, as a Space does, until it is stopped.

    The port is that in the variable GRADIO_SERVER_PORT, or the first free one from 7860 on. Where the checkpoint
    learned from open data that this package carries, its test patients can be loaded; never those of other data.
    """
    from transformers import AutoModel, AutoTokenizer

    from mera_hf.app.launching import launch

    model, tokenizer = AutoModel.from_pretrained(repo_id).eval(), AutoTokenizer.from_pretrained(repo_id)
    launch(repo_id, model, tokenizer, bundled_patients(model.config), "0.0.0.0").block_thread()


def bundled_patients(config) -> Path | None:
    """A prepared folder of the open data that a checkpoint says it learned from, if this package carries it."""
    from mera_hf.data.prepare import prepare
    from mera_hf.data.sources import BUNDLED

    source = (getattr(config, "provenance", None) or {}).get("source")
    if source not in BUNDLED:
        return None
    folder = Path(tempfile.mkdtemp()) / source
    prepare(source, output_dir=folder)
    return folder
