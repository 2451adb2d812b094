import copy
import os
import sys

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


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A tiny sentence encoder on disk, as a folder and as an importable package that carries it."""
    import torch
    from tiny import CODES
    from transformers import AutoModel, BertConfig

    from mera_hf.icd import describe
    from mera_hf.training.from_scratch import word_tokenizer

    root = tmp_path_factory.mktemp("packages")
    package = root / "tiny_sentence_encoder"
    tokenizer = word_tokenizer([describe(code) for code in CODES])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    AutoModel.from_config(config).eval().save_pretrained(package / "model")
    tokenizer.save_pretrained(package / "model")
    (package / "__init__.py").write_text("")
    sys.path.insert(0, str(root))
    yield package / "model"
    sys.path.remove(str(root))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The small cohort as a prepared folder, to be read only."""
    from cohort import write_visits

    from mera_hf.cli.main import main

    folder = tmp_path_factory.mktemp("cohort") / "dataset"
    table = write_visits(folder.parent / "visits.csv")
    assert main(["prepare", "visits_csv", "--data-dir", str(table), "--output-dir", str(folder)]) == 0
    return folder
