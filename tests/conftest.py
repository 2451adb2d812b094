import copy
import os

import pytest


# No test reaches for the network or tells anyone that it ran. Set before any Hugging Face library is imported.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
# Tests run in two processes, and tiny models gain nothing from threads
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def _llama():
    from tiny import tiny_mera

    return tiny_mera("llama")


@pytest.fixture
def llama(_llama):
    """A tiny untied Llama with code tokens and a random ranking head, fresh for every test, and its tokenizer."""
    model, tokenizer = _llama
    return copy.deepcopy(model), tokenizer


@pytest.fixture(scope="session")
def rows():
    """Eight synthetic patients with two to four visits."""
    from tiny import patients

    return patients(8)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """Folders of plain causal language models by family, each written once."""
    from tiny import save_base

    written = {}

    def folder(family: str):
        if family not in written:
            written[family] = tmp_path_factory.mktemp(family)
            save_base(written[family], family)
        return written[family]

    return folder
