import copy

import pytest
import torch
from tiny import CODES, FAMILIES, save_base, texts, tiny_mera
from transformers import AutoModelForCausalLM, AutoTokenizer

from mera_hf.errors import InputError
from mera_hf.icd import describe, level_groups
from mera_hf.modeling_mera import MeraForDiagnosis
from mera_hf.training.code_tokens import add_code_tokens, configure, load_base, shuffle_code_rows
from mera_hf.training.from_scratch import from_scratch, word_tokenizer


def load(folder):
    return load_base(str(folder)).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_causal_language_model_becomes_a_ranker(family, base_folder, tmp_path):
    folder = base_folder(family)
    base = AutoModelForCausalLM.from_pretrained(folder).eval()
    _, report = MeraForDiagnosis.from_pretrained(
        folder, config=load_base(str(folder)).config, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]

    model, tokenizer = load(folder)
    assert model.config.base_model == folder.name, "the name of its base, and no path"
    words = len(tokenizer)
    ids = torch.tensor([[1, 9, 17, 25, 8]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        torch.testing.assert_close(model.language_model(ids).logits, base(ids).logits)
    add_code_tokens(model, tokenizer, CODES[::-1])
    config = model.config
    assert config.codes == CODES
    assert config.code_token_start == words
    assert tokenizer.convert_tokens_to_ids([f"<{code}>" for code in CODES]) == list(range(words, words + len(CODES)))
    marks = [config.eov_token_id, config.visit_token_id, config.profile_token_id]
    assert tokenizer.convert_tokens_to_ids(["<eov>", "<visit>", "<profile>"]) == marks
    assert marks == list(range(words + len(CODES), words + len(CODES) + 3))
    assert config.text_config.vocab_size == model.get_input_embeddings().weight.shape[0] == words + len(CODES) + 3
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert config.tie_word_embeddings == tied == base.config.tie_word_embeddings

    # The words read and write as they did, and the head that is zero gives the logits of the code tokens
    ids = torch.tensor([[1, 9, config.profile_token_id, words + 3, config.visit_token_id]])
    with torch.no_grad():
        language_model = model.language_model(ids, attention_mask=mask).logits[0]
        output = model(input_ids=ids, attention_mask=mask)
        torch.testing.assert_close(language_model[:2, :words], base(ids[:, :2]).logits[0])
        whole = model(input_ids=ids, attention_mask=mask, vocabulary_index=torch.tensor([1, 4])).vocabulary_logits
    codes = slice(words, words + len(CODES))
    torch.testing.assert_close(output.code_logits[0], language_model[-1, codes])
    torch.testing.assert_close(output.eov_logits[0], language_model[-1, config.eov_token_id])
    torch.testing.assert_close(whole, language_model[[1, 4]])
    assert output.code_logits.std() > 0.01


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_rows_start_at_the_mean_of_their_description(family, base_folder):
    model, tokenizer = load(base_folder(family))
    before = copy.deepcopy([model.get_input_embeddings().weight, model.get_output_embeddings().weight])
    words = len(tokenizer)
    ids = [tokenizer(describe(code), add_special_tokens=False)["input_ids"] for code in CODES]
    add_code_tokens(model, tokenizer, CODES)
    after = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[:words], old)
        means = torch.stack([old[tokens].mean(0) for tokens in ids])
        noise = new[words : words + len(CODES)] - means
        assert 0.08 < noise.std() / old.std() < 0.12
        assert noise.abs().max() < 0.6 * old.std()
        marks = new[words + len(CODES) :]
        assert 0.7 < marks.std() / old.std() < 1.3
        assert torch.cdist(new[words:], new[words:]).fill_diagonal_(1).min() > 0  # no two rows are equal
    if not model.config.tie_word_embeddings:
        assert not torch.equal(*after)


def test_rows_can_start_at_random(base_folder):
    model, tokenizer = load(base_folder("llama"))
    words = len(tokenizer)
    add_code_tokens(model, tokenizer, CODES, initialise="random")
    for matrix in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        old, new = matrix[:words], matrix[words:]
        assert 0.9 < new.std() / old.std() < 1.1
        ids = tokenizer([describe(code) for code in CODES], add_special_tokens=False)["input_ids"]
        means = torch.stack([old[tokens].mean(0) for tokens in ids])
        correlation = torch.nn.functional.cosine_similarity(new[: len(CODES)], means)
        assert correlation.abs().mean() < 0.3


def test_rows_are_the_same_every_time(base_folder):
    rows = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model, tokenizer = load(base_folder("llama"))
        add_code_tokens(model, tokenizer, CODES)
        rows.append(model.code_rows())
    assert torch.equal(*rows)


@pytest.mark.parametrize("padding", [5, 100])
def test_a_padded_vocabulary_does_not_shrink(padding, tmp_path):
    base, tokenizer = save_base(tmp_path, "llama", padding=padding)
    words = len(tokenizer)
    model, tokenizer = load(tmp_path)
    add_code_tokens(model, tokenizer, CODES)
    rows = model.get_input_embeddings().weight
    assert len(rows) == max(words + padding, words + len(CODES) + 3)
    assert model.config.code_token_start == words
    # Rows inside the padding are written too
    old = base.get_input_embeddings().weight
    first = tokenizer(describe(CODES[0]), add_special_tokens=False)["input_ids"]
    assert (rows[words] - old[first].mean(0)).std() < 0.15 * old[:words].std()


def test_the_config_carries_the_tree():
    model, _ = tiny_mera("llama")
    config = model.config
    assert config.level_groups == level_groups(CODES)
    assert config.descriptions == [describe(code) for code in CODES]
    assert config.label2id == {code: index for index, code in enumerate(CODES)}
    for level, names in config.group_names.items():
        assert len(names) == max(config.level_groups[level]) + 1
    categories = config.group_names["category"]
    assert categories[0] == "ICD9CM:250 " + describe("ICD9CM:250")
    assert categories[config.level_groups["category"][CODES.index("ICD9CM:428.1")]].startswith("ICD9CM:428 ")


def test_mixed_vocabularies_stand_side_by_side(base_folder):
    model, tokenizer = load(base_folder("llama"))
    add_code_tokens(model, tokenizer, ["ICD10CM:E11.65", "ICD9CM:E849.0", "ICD9CM:250.00"])
    assert model.config.codes == ["ICD9CM:250.00", "ICD9CM:E849.0", "ICD10CM:E11.65"]


def test_a_single_code_is_enough(base_folder):
    model, tokenizer = load(base_folder("llama"))
    add_code_tokens(model, tokenizer, CODES[:1])
    assert model.config.num_codes == 1
    assert model.rank([{"visits": [{"codes": CODES[:1]}]}], tokenizer).order.tolist() == [[0]]


def test_what_cannot_be_added_is_refused(base_folder, tmp_path):
    model, tokenizer = load(base_folder("llama"))
    with pytest.raises(InputError, match="`initialise` is 'zero'; choose one of description, random"):
        add_code_tokens(model, tokenizer, CODES, initialise="zero")
    for codes in ([], [CODES[0], CODES[0]]):
        with pytest.raises(InputError, match=rf"`codes` holds {len(codes)} codes, {len(set(codes))} distinct"):
            add_code_tokens(model, tokenizer, codes)
    with pytest.raises(ValueError, match="ICD9CM:999.99"):
        add_code_tokens(model, tokenizer, ["ICD9CM:999.99"])
    with pytest.raises(InputError, match="`histroy_term` is not a field of MeraConfig"):
        add_code_tokens(model, copy.deepcopy(tokenizer), CODES, histroy_term=True)
    model, _ = load(base_folder("llama"))
    extended = copy.deepcopy(tokenizer)
    add_code_tokens(model, extended, CODES[:2])
    with pytest.raises(InputError, match="the model already has tokens of 2 codes; start from its base model"):
        add_code_tokens(model, tokenizer, CODES)
    model, _ = load(base_folder("llama"))
    with pytest.raises(InputError, match=r"`tokenizer` already holds 5 of the new tokens \(<ICD9CM:250.00>\)"):
        add_code_tokens(model, extended, CODES[:3])
    with pytest.raises(InputError, match="`model_name_or_path` .*nowhere' cannot be loaded"):
        load_base(str(tmp_path / "nowhere"))


def test_other_models_are_refused(tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model("vit", hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a vit model, neither a causal language model nor an encoder-decoder"):
        load_base(str(tmp_path))


def test_a_checkpoint_of_ours_loads_as_it_is(tmp_path):
    model, _ = tiny_mera("llama")
    model.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path))
    assert loaded.config.codes == CODES
    assert torch.equal(loaded.ranking_head.code_bias, model.ranking_head.code_bias)


def test_configure_changes_the_head_of_an_untrained_model_only():
    model, _ = tiny_mera("llama", head=False)
    assert hasattr(model.ranking_head, "patient_gate")
    configure(model, history_term=False, history_text="description")
    assert not hasattr(model.ranking_head, "patient_gate") and model.config.history_text == "description"
    with pytest.raises(InputError, match="`history_text` is 'words'"):
        configure(model, history_text="words")

    trained, _ = tiny_mera("llama")
    bias = trained.ranking_head.code_bias.clone()
    configure(trained, history_term=True, use_profile=False)
    assert torch.equal(trained.ranking_head.code_bias, bias)
    with pytest.raises(InputError, match="`code_bias` is False, but this checkpoint was trained to rank with True"):
        configure(trained, code_bias=False)


def test_configure_knows_a_trained_head_without_prevalence():
    """`start_head: false` leaves the prevalence at zero, and what was trained from there must not be lost."""
    model, _ = tiny_mera("llama", head=False)
    model.ranking_head.code_bias.data[3] = 0.5
    configure(model, use_profile=False)
    assert model.ranking_head.code_bias[3] == 0.5
    with pytest.raises(InputError, match="`history_term` is False, but this checkpoint"):
        configure(model, history_term=False)


def test_models_from_scratch():
    model, tokenizer = from_scratch(FAMILIES["llama_tied"], texts(), 3)
    again, _ = from_scratch(FAMILIES["llama_tied"], texts(), 3)
    other, _ = from_scratch(FAMILIES["llama_tied"], texts(), 4)
    rows = [m.get_input_embeddings().weight for m in (model, again, other)]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    assert model.config.text_config.vocab_size == len(tokenizer)
    with pytest.raises(InputError, match="`from_scratch.model_type` is 'lama'"):
        from_scratch({"model_type": "lama"}, ["word"], 0)
    with pytest.raises(InputError, match="`from_scratch.model_type` is None"):
        from_scratch({"hidden_size": 8}, ["word"], 0)


def test_word_tokenizer_knows_its_words():
    tokenizer = word_tokenizer(["Heart failure, left", "5% (NOS)"])
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<bos>", "<eos>")
    for text in ("HEART FAILURE", "left, heart", "5% (nos)", "failure."):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (tokenizer.unk_token_id in ids) == (text == "failure.")


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_shuffled_rows_are_dealt_out_among_the_codes(family):
    model, _ = tiny_mera(family)
    start, count = model.config.code_token_start, len(CODES)
    matrices = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    before = [matrix.detach().clone() for matrix in matrices]
    shuffle_code_rows(model, seed=1)
    dealt = []
    for old, new in zip(before, matrices, strict=True):
        same = (old[start : start + count, None] == new[None, start : start + count]).all(-1)  # (old, new)
        assert same.sum(0).tolist() == same.sum(1).tolist() == [1] * count
        dealt.append(same.int().argmax(0))
        others = torch.arange(len(old)) < start
        others |= torch.arange(len(old)) >= start + count
        assert torch.equal(old[others], new[others])
    assert torch.equal(*dealt) and not torch.equal(dealt[0], torch.arange(count))
    again, _ = tiny_mera(family)
    shuffle_code_rows(again, seed=1)
    assert torch.equal(again.code_rows(), model.code_rows())
