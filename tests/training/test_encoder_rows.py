"""Code rows that start from a sentence encoder."""

import pytest
import torch
from tiny import CODES, SMALL, texts

from mera_hf.errors import InputError
from mera_hf.training.code_tokens import add_code_tokens, encode_sentences
from mera_hf.training.from_scratch import from_scratch


def base():
    return from_scratch({"model_type": "llama", **SMALL}, texts(), 0)


def test_an_embedding_is_the_mean_of_its_own_tokens_at_length_one(encoder):
    texts = ["heart failure", "acute kidney failure, unspecified"]
    together = encode_sentences(texts, str(encoder))
    assert together.shape == (2, 24) and together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))
    alone = torch.cat([encode_sentences([text], str(encoder)) for text in texts])  # without padding
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_a_package_is_as_good_as_its_folder(encoder):
    texts = ["heart failure"]
    torch.testing.assert_close(encode_sentences(texts, "tiny_sentence_encoder"), encode_sentences(texts, str(encoder)))


def test_rows_keep_the_neighbourhoods_of_the_encoder(encoder):
    """A code's nearest neighbour among the rows is its nearest neighbour among the embeddings, principal components and
    a tenth of noise apart."""
    model, tokenizer = base()
    add_code_tokens(model, tokenizer, CODES, "encoder", str(encoder))
    embeddings = encode_sentences(model.config.descriptions, str(encoder))
    rows = model.code_rows()[:-1].detach()
    wanted, found = embeddings - embeddings.mean(0), rows - rows.mean(0)
    wanted = torch.nn.functional.normalize(wanted, dim=1) @ torch.nn.functional.normalize(wanted, dim=1).T
    found = torch.nn.functional.normalize(found, dim=1) @ torch.nn.functional.normalize(found, dim=1).T
    upper = torch.triu_indices(len(CODES), len(CODES), 1)
    pairs = torch.stack([wanted[upper[0], upper[1]], found[upper[0], upper[1]]])
    assert torch.corrcoef(pairs)[0, 1] > 0.9


def test_an_encoder_that_is_none():
    model, tokenizer = base()
    with pytest.raises(InputError, match="`encoder` has to name the sentence encoder"):
        add_code_tokens(model, tokenizer, CODES, "encoder")
    with pytest.raises(InputError, match="`encoder` 'some_encoder' is neither .*`pip install some-encoder`"):
        encode_sentences(["heart failure"], "some_encoder")
    with pytest.raises(InputError, match="`encoder` './nowhere' cannot be loaded"):
        encode_sentences(["heart failure"], "./nowhere")
