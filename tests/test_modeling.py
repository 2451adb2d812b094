import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from tiny import CODES, FAMILIES, batch_of, encoder_of, patients, randomise_head, tiny_mera
from transformers import AutoConfig, AutoModel

from mera_hf.configuration_mera import MeraConfig
from mera_hf.modeling_mera import FORWARD_INPUTS, MeraForDiagnosis, MeraOutput
from mera_hf.pipeline_mera import DiagnosisPredictionPipeline
from mera_hf.timeline_mera import collate_timelines
from mera_hf.training.from_scratch import word_tokenizer


def rank(model, tokenizer, rows, **arguments):
    return model.rank(rows, tokenizer, **arguments)


def by_code(ranking):
    """Logits in the order of the codes."""
    return torch.zeros_like(ranking.logits).scatter(1, ranking.order, ranking.logits)


# -- ranking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_a_ranking_does_not_depend_on_the_batch(family):
    model, tokenizer = tiny_mera(family)
    rows = patients(9, fewest_visits=1)
    together = rank(model, tokenizer, rows)
    assert together.order.shape == (9, len(CODES))
    for batch_size in (1, 2, 4):
        other = rank(model, tokenizer, rows, batch_size=batch_size)
        assert torch.equal(other.order, together.order)
        torch.testing.assert_close(other.logits, together.logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.probabilities, together.probabilities, rtol=0, atol=1e-5)
        assert torch.equal(other.set_sizes, together.set_sizes)
    for batch_tokens in (1, 40, 90):
        assert torch.equal(rank(model, tokenizer, rows, batch_tokens=batch_tokens).order, together.order)
    backwards = rank(model, tokenizer, rows[::-1], batch_size=4)
    assert torch.equal(backwards.order.flip(0), together.order)


@pytest.mark.parametrize("family", ["llama", "t5", "bart"])
def test_a_ranking_is_that_of_the_training_forward(family):
    """The decision before the first code of the last visit, in a pass over the whole timeline."""
    model, tokenizer = tiny_mera(family)
    for row in patients(3, seed=8):
        timeline = encoder_of(model, tokenizer).encode(row)
        batch = batch_of(model, [timeline])
        with torch.no_grad():
            output = model(**{name: tensor for name, tensor in batch.items() if name in FORWARD_INPUTS})
        decision = max(at for at, given in enumerate(timeline.decision_given) if given == 0)
        ranking = rank(model, tokenizer, [{**row, "visits": row["visits"][:-1]}])
        torch.testing.assert_close(by_code(ranking)[0], output.code_logits[decision], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_order_of_codes_in_a_visit_means_nothing_and_the_order_of_visits_does(family):
    model, tokenizer = tiny_mera(family)
    rows = patients(4, seed=3, fewest_visits=3)
    ranking = rank(model, tokenizer, rows)
    reordered = [
        {**row, "visits": [{**v, "codes": [*v["codes"][::-1], v["codes"][0]]} for v in row["visits"]]} for row in rows
    ]
    same = rank(model, tokenizer, reordered)
    assert torch.equal(same.order, ranking.order)
    assert torch.equal(same.logits, ranking.logits)
    assert torch.equal(same.probabilities, ranking.probabilities)

    turned = rank(model, tokenizer, [{**row, "visits": row["visits"][::-1]} for row in rows])
    assert ((by_code(turned) - by_code(ranking)).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("field", ["history_term", "code_bias"])
def test_parts_of_the_ranking_head_by_hand(field):
    """Logits are the language model's, plus b_c and (g(h) + r_c) . f_c."""
    fields = {"history_term": field == "history_term", "code_bias": field == "code_bias"}
    model, tokenizer = tiny_mera("llama", **fields)
    plain = copy.deepcopy(model)
    for tensor in plain.ranking_head.parameters():
        tensor.data.zero_()
    patient = {"visits": [{"codes": [CODES[3], CODES[8]]}, {"codes": [CODES[3]]}]}
    timeline = encoder_of(model, tokenizer).encode_history(patient)
    batch = {name: tensor for name, tensor in collate_timelines([timeline], 0).items() if name in FORWARD_INPUTS}
    with torch.no_grad():
        ours, base = model(**batch), plain(**batch)
        language_model = plain.language_model(batch["input_ids"]).logits[0, -1]
        start = model.config.code_token_start
        torch.testing.assert_close(base.code_logits[0], language_model[start : start + len(CODES)])
        torch.testing.assert_close(base.eov_logits[0], language_model[start + len(CODES)])
        head = model.ranking_head
        expected, eov = base.code_logits[0].clone(), base.eov_logits[0].clone()
        if field == "code_bias":
            assert not hasattr(head, "patient_gate")
            expected, eov = expected + head.code_bias[:-1], eov + head.code_bias[-1]
        else:
            assert not hasattr(head, "code_bias")
            hidden = model.language_model.model(batch["input_ids"]).last_hidden_state[0, -1]
            log = torch.tensor([2.0, 3.0]).log()
            features = {3: [1, 0, log[1], 1.0, 0, 1, 1], 8: [0, 1, log[0], 0.5, log[0], 1, 1]}
            for code, values in features.items():
                values = torch.tensor([*values, head.log_prevalence[code]])
                gate = head.patient_gate(hidden) + head.code_gate(model.code_rows()[code])
                expected[code] += gate @ values
    torch.testing.assert_close(ours.code_logits[0], expected)
    torch.testing.assert_close(ours.eov_logits[0], eov)


def test_forward_without_decisions_reads_the_last_token_on_either_side(llama):
    model, _ = llama
    ids = torch.tensor([[1, 8, 9, 10], [1, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        right = model(input_ids=ids, attention_mask=mask).code_logits
        left = model(
            input_ids=torch.tensor([[1, 8, 9, 10], [0, 0, 1, 7]]),
            attention_mask=mask.flip(1),
            position_ids=torch.tensor([[0, 1, 2, 3], [0, 0, 0, 1]]),
        ).code_logits
        alone = model(input_ids=ids[1:, :2]).code_logits
    torch.testing.assert_close(right, left, rtol=0, atol=1e-5)
    torch.testing.assert_close(right[1:], alone, rtol=0, atol=1e-5)


def test_dropout_acts_in_training_alone():
    model, tokenizer = tiny_mera("llama", hidden_dropout=0.5)
    batch = collate_timelines([encoder_of(model, tokenizer).encode(row) for row in patients(2)], 0)
    inputs = {name: tensor for name, tensor in batch.items() if name in FORWARD_INPUTS}
    assert torch.equal(model(**inputs).code_logits, model(**inputs).code_logits)
    model.train()
    assert not torch.equal(model(**inputs).code_logits, model(**inputs).code_logits)
    model.rank(patients(2), tokenizer)
    assert model.training
    model.eval()
    model.rank(patients(2), tokenizer)
    assert not model.training


def test_a_ranking_that_is_not_finished_leaves_the_mode_alone(llama):
    model, tokenizer = llama
    model.train()
    for _ in model.decisions(patients(4), tokenizer, batch_size=1):
        break
    assert model.training


def test_a_budget_of_tokens_bounds_the_batches_of_a_ranking(llama):
    model, tokenizer = llama
    rows = patients(20, seed=2, fewest_visits=1)
    lengths = [len(encoder_of(model, tokenizer).encode_history(row).input_ids) for row in rows]
    budget = 2 * max(lengths)
    batches = model.decisions(rows, tokenizer, batch_size=3, batch_tokens=budget)
    seen = [(batch_rows, batch["input_ids"].shape) for batch_rows, _, batch in batches]
    assert sorted(row for batch_rows, _ in seen for row in batch_rows) == list(range(20))
    for batch_rows, (count, width) in seen:
        assert count <= 3 and count * width <= budget
        assert width == max(lengths[row] for row in batch_rows)
    assert {count for _, (count, _) in seen} >= {2, 3}


def test_rank_refuses_what_it_cannot_do(llama):
    model, tokenizer = llama
    rows = patients(2)
    for value in (0, -3):
        with pytest.raises(ValueError, match=rf"`top_k` is {value}; it must be 1 or more"):
            rank(model, tokenizer, rows, top_k=value)
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        rank(model, tokenizer, rows, batch_size=0)
    with pytest.raises(ValueError, match="`batch_tokens` is 0"):
        rank(model, tokenizer, rows, batch_tokens=0)
    with pytest.raises(ValueError, match="code ICD9CM:001.0 is not one of the 19 codes of this model"):
        rank(model, tokenizer, [{"visits": [{"codes": ["ICD9CM:001.0"]}]}])
    with pytest.raises(ValueError, match="`tokenizer` does not belong to this model"):
        rank(model, word_tokenizer(["nothing"]), rows)
    with pytest.raises(ValueError, match="`patients` is empty"):
        rank(model, tokenizer, [])


def test_top_k_cuts_the_ranking(llama):
    model, tokenizer = llama
    whole, short = (rank(model, tokenizer, patients(3), top_k=top_k) for top_k in (None, 4))
    assert short.order.shape == (3, 4)
    assert torch.equal(short.order, whole.order[:, :4])
    assert torch.equal(short.logits, whole.logits[:, :4])
    assert torch.equal(short.set_sizes, whole.set_sizes)  # may be larger than the ranking
    assert rank(model, tokenizer, patients(3), top_k=999).order.shape == (3, len(CODES))


# -- logits into rankings -----------------------------------------------------------------------------------------


def small_decider(**fields):
    """A model whose `decide` is used alone: it needs the config only."""
    text = AutoConfig.for_model("llama", hidden_size=8, intermediate_size=8, num_attention_heads=2, vocab_size=16)
    config = MeraConfig(text_config=text, id2label=dict(enumerate("abcde")), code_token_start=0, **fields)
    return MeraForDiagnosis(config)


NO_HISTORY = (torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, 7))
HISTORY = (
    torch.tensor([[3, 1, -1]]),
    torch.tensor([[[1.0, 0, 0.7, 1, 0, 1, 1], [0, 1, 0.7, 0.5, 0.7, 1, 1], [0] * 7]]),
)


def test_ties_stand_in_tree_order_and_the_set_is_what_lies_above_eov():
    output = MeraOutput(torch.tensor([[1.0, 2.0, 1.0, 2.0, -1.0]]), torch.tensor([1.0]))
    ranking = small_decider().decide(output, *NO_HISTORY)
    assert ranking.order.tolist() == [[1, 3, 0, 2, 4]]
    assert ranking.logits.tolist() == [[2.0, 2.0, 1.0, 1.0, -1.0]]
    assert ranking.set_sizes.tolist() == [2]  # a tie with EOV is not above it
    torch.testing.assert_close(ranking.probabilities, torch.tensor([[1.0, 1.0, 0.0, 0.0, -2.0]]).sigmoid())


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_a_short_ranking_is_the_head_of_the_whole_one_with_ties_too(values, depth):
    generator = torch.Generator().manual_seed(values)
    logits = torch.randint(values, (300, 5), generator=generator).float()  # few values: many ties, also at the cut
    output = MeraOutput(logits, torch.full((300,), 1.5))
    history = tuple(tensor.expand(300, *tensor.shape[1:]) for tensor in HISTORY)
    model = small_decider(rerank_depth=depth, calibration=[1.0, 0.5, 2.0, -1.0, 0.0, 0.0])
    whole = model.decide(output, *history)
    if not depth:
        assert whole.order.tolist() == [sorted(range(5), key=lambda code: -row[code]) for row in logits.tolist()]
    for top_k in range(1, 7):
        short = model.decide(output, *history, top_k)
        for name in ("order", "logits", "probabilities"):
            assert torch.equal(getattr(short, name), getattr(whole, name)[:, :top_k])
        assert torch.equal(short.set_sizes, whole.set_sizes)


def test_without_calibration_the_set_holds_exactly_the_codes_above_eov():
    logits = 20 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    eov = logits[:, 2].clone()  # a tie in every row
    eov[::2] += 1e-6
    history = torch.zeros(200, 0, dtype=torch.long), torch.zeros(200, 0, 7)
    ranking = small_decider().decide(MeraOutput(logits, eov), *history)
    assert torch.equal(ranking.set_sizes, (logits > eov[:, None]).sum(1))


@pytest.mark.parametrize("offset", [-3.0, 0.0, 2.5])
def test_with_an_offset_the_set_shrinks_whenever_eov_rises(offset):
    """Whatever the logits and the calibration, which would have had a set grow."""
    generator = torch.Generator().manual_seed(1)
    logits, eov = 5 * torch.randn(300, 5, generator=generator), 5 * torch.randn(300, generator=generator)
    history = tuple(tensor.expand(300, *tensor.shape[1:]) for tensor in HISTORY)
    model = small_decider(calibration=[-0.5, 1.0, 0.5, 0.3, 0.0, 1.2], eov_offset=offset)
    sizes = []
    for rise in (0.0, 0.5, 3.0, 40.0):
        ranking = model.decide(MeraOutput(logits, eov + rise), *history)
        sizes.append(ranking.set_sizes)
        for row, (order, size) in enumerate(zip(ranking.order.tolist(), ranking.set_sizes.tolist(), strict=True)):
            inside = [code for code in range(5) if logits[row, code] - (eov[row] + rise) > offset]
            assert sorted(order[:size]) == inside, "the set is the head of the ranking"
    for larger, smaller in zip(sizes, sizes[1:], strict=False):
        assert (smaller <= larger).all() and (smaller < larger).any()
    assert (sizes[-1] == 0).all()


@pytest.mark.parametrize(("value", "size"), [(0.1, 5), (0.12, 4), (0.5, 2), (0.73, 2), (0.74, 0)])
def test_eov_value_moves_the_cut(value, size):
    """Log-odds 1, 0 and -2: probabilities 0.731, 0.5 and 0.119."""
    output = MeraOutput(torch.tensor([[1.0, 2.0, 1.0, 2.0, -1.0]]), torch.tensor([1.0]))
    ranking = small_decider(eov_value=value).decide(output, *NO_HISTORY)
    assert ranking.set_sizes.tolist() == [size]
    assert ranking.order.tolist() == [[1, 3, 0, 2, 4]]


def test_values_order_the_head_and_cut_it():
    """weight * (probability - threshold), for the first three codes of the ranking alone."""
    model = small_decider(rerank_depth=3, eov_value=0.1)
    model.ranking_head.value_weight.copy_(torch.tensor([1.0, 0.5, 2.0, 1.0, 100.0]))
    model.ranking_head.value_threshold.copy_(torch.tensor([0.5, 0.2, 0.4, 0.0, 0.0]))
    chances = torch.tensor([[0.8, 0.7, 0.6, 0.3, 0.2]])
    ranking = model.decide(MeraOutput(chances.logit(), torch.zeros(1)), *NO_HISTORY)
    # Values 0.3, 0.25 and 0.4 are above the cut; that of the last code is too, but it is not among the first three
    assert ranking.order.tolist() == [[2, 0, 1, 3, 4]]
    assert ranking.set_sizes.tolist() == [3]
    torch.testing.assert_close(ranking.probabilities, torch.tensor([[0.6, 0.8, 0.7, 0.3, 0.2]]))


def test_calibrated_log_odds_by_hand():
    output = MeraOutput(torch.tensor([[1.0, 2.0, 0.0, -1.0, 0.5]]), torch.tensor([0.25]))
    weights = [0.5, 2.0, 3.0, -1.0, 0.1, 0.75]
    model = small_decider(calibration=weights)
    share = output.code_logits[0] - output.code_logits[0].exp().sum().log()
    last = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])
    seen = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    odds = 0.5 * (output.code_logits[0] - 0.25) + 2 * share + 3 * last - seen + 0.1 * share * seen + 0.75
    torch.testing.assert_close(model.log_odds(output, *HISTORY)[0], odds)
    ranking = model.decide(output, *HISTORY)
    assert ranking.order.tolist() == [[1, 0, 4, 2, 3]]  # by logit, whatever the odds
    torch.testing.assert_close(ranking.probabilities[0], odds[ranking.order[0]].sigmoid())
    assert ranking.set_sizes.tolist() == [int((odds > 0).sum())]


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 5, 50])
def test_rerank_depth_permutes_the_head_of_the_ranking(depth):
    generator = torch.Generator().manual_seed(1)
    output = MeraOutput(torch.randn(40, 5, generator=generator), torch.randn(40, generator=generator))
    history = tuple(tensor.expand(40, *tensor.shape[1:]) for tensor in HISTORY)
    weights = [0.2, 0.3, 4.0, -2.0, 0.0, 0.0]
    plain = small_decider(calibration=weights).decide(output, *history)
    model = small_decider(calibration=weights, rerank_depth=depth)
    again = model.decide(output, *history)
    assert torch.equal(again.order[:, depth:], plain.order[:, depth:])
    assert torch.equal(again.order[:, :depth].sort().values, plain.order[:, :depth].sort().values)
    head = again.probabilities[:, :depth]
    assert (head[:, 1:] <= head[:, :-1]).all()
    assert torch.equal(again.logits, output.code_logits.gather(1, again.order))
    assert torch.equal(again.set_sizes, plain.set_sizes if not depth else (head > 0.5).sum(1))
    assert (depth < 2) == torch.equal(again.order, plain.order)


def test_a_tie_in_the_log_odds_keeps_the_order_of_the_logits():
    output = MeraOutput(torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0]]), torch.tensor([0.0]))
    ranking = small_decider(calibration=[0.0] * 5 + [1.0], rerank_depth=4).decide(output, *HISTORY)
    assert ranking.order.tolist() == [[1, 3, 2, 0, 4]]


# -- config and checkpoints ---------------------------------------------------------------------------------------


def test_config_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="`history_text` is 'words'; choose one of code, code.description"):
        MeraConfig(history_text="words")
    with pytest.raises(ValueError, match="`positions` is 'codes'; choose one of token, visit"):
        MeraConfig(positions="codes")
    with pytest.raises(ValueError, match="`positions='visit'` needs `history_text='code'`"):
        MeraConfig(positions="visit", history_text="description")


def test_config_round_trip(tmp_path):
    model, _ = tiny_mera("qwen2", positions="visit", hidden_dropout=0.1)
    config = model.config
    config.calibration, config.eov_value, config.rerank_depth = [0.1, -2.0, 3.0, 0.0, 1.0, -0.5], 0.25, 7
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MeraConfig)
    assert loaded.codes == CODES and loaded.num_codes == len(CODES)
    assert loaded.tie_word_embeddings is True
    volatile = ("transformers_version", "_name_or_path", "architectures", "dtype", "text_config")
    ours, theirs = ({k: v for k, v in c.to_dict().items() if k not in volatile} for c in (config, loaded))
    assert ours == theirs
    assert loaded.text_config.vocab_size == config.text_config.vocab_size


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt2", "t5", "bart"])
def test_checkpoints_load_with_equal_logits(family, tmp_path, rows):
    model, tokenizer = tiny_mera(family)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, MeraForDiagnosis)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert torch.equal(loaded.ranking_head.log_prevalence, model.ranking_head.log_prevalence)
    ours, theirs = rank(model, tokenizer, rows), rank(loaded.eval(), tokenizer, rows)
    assert torch.equal(ours.order, theirs.order)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-6)


def run_python(script: str, *arguments: str, cwd=None, blocked: bool = False) -> str:
    """Run a script in a fresh interpreter; `blocked` makes `mera_hf` impossible to import there."""
    if blocked:
        script = "import sys\nsys.modules['mera_hf'] = None\n" + textwrap.dedent(script)
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_with_code(tmp_path_factory.mktemp("checkpoint"), "llama")


def save_with_code(folder, family):
    """Write a checkpoint that carries its code, and give the ranking that it gives."""
    model, tokenizer = tiny_mera(family)
    model.config.save_pretrained(folder / "config")  # without the code
    DiagnosisPredictionPipeline(model=model, tokenizer=tokenizer, device="cpu").save_pretrained(folder)
    row = patients(1)[0]
    torch.save(row, folder / "row.pt")
    return folder, model.rank([row], tokenizer)


RANK = """
row = torch.load(sys.argv[1] + "/row.pt", weights_only=False)
ranking = model.eval().rank([row], tokenizer)
print(ranking.order[0].tolist())
print([round(value, 4) for value in ranking.logits[0].tolist()])
"""


def assert_same_ranking(printed: str, ranking):
    order, logits = printed.splitlines()[-2:]
    assert order == str(ranking.order[0].tolist())
    torch.testing.assert_close(torch.tensor(eval(logits)), ranking.logits[0], rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "imports",
    [
        # `AutoConfig` alone does not import transformers' Auto models
        "import mera_hf\nfrom transformers import AutoConfig\nAutoConfig.from_pretrained(sys.argv[1] + '/config')\n"
        "from transformers import AutoModel, AutoTokenizer",
        "from transformers import AutoModel, AutoTokenizer, pipeline\nimport mera_hf",
        # Our modules bring the Auto classes in while they are being imported themselves
        "from mera_hf import MeraConfig, MeraForDiagnosis\nfrom transformers import AutoModel, AutoTokenizer",
        "from mera_hf.modeling_mera import MeraForDiagnosis\nfrom transformers import AutoModel, AutoTokenizer",
        "from mera_hf.pipeline_mera import TASK\nfrom transformers import AutoModel, AutoTokenizer",
    ],
    ids=["mera_hf first", "transformers first", "our names first", "our module first", "our pipeline first"],
)
def test_auto_classes_know_the_model_after_the_import(imports, checkpoint):
    folder, ranking = checkpoint
    script = f"import sys, torch\n{imports}\nmodel = AutoModel.from_pretrained(sys.argv[1])\n"
    script += "assert type(model).__module__ == 'mera_hf.modeling_mera', type(model)\n"
    script += "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
    script += "from transformers.pipelines import PIPELINE_REGISTRY\n"
    script += "task = PIPELINE_REGISTRY.check_task('diagnosis-prediction')[1]\n"
    script += "assert task['impl'].__module__ == 'mera_hf.pipeline_mera', task\n" + RANK
    assert_same_ranking(run_python(script, folder), ranking)


def test_importing_the_package_loads_neither_torch_nor_transformers():
    assert run_python("import sys, mera_hf\nprint(sorted({'torch', 'transformers'} & set(sys.modules)))") == "[]"


def test_every_public_name_is_there():
    assert run_python("import mera_hf\nprint(all(getattr(mera_hf, name) for name in mera_hf.__all__))") == "True"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_code_travels_with_the_checkpoint(family, tmp_path):
    folder, ranking = save_with_code(tmp_path, family)
    script = f"""
    import os, sys
    os.environ["HF_MODULES_CACHE"] = sys.argv[2]
    import torch
    from transformers import AutoModel, AutoTokenizer
    model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
    {textwrap.indent(RANK, "    ").strip()}
    explanation = model.explain(row, tokenizer, top_k=2)
    assert type(explanation).__module__.startswith("transformers_modules"), type(explanation)
    assert [code.code for code in explanation.codes] == [model.config.codes[index] for index in ranking.order[0, :2]]
    from transformers import pipeline
    predict = pipeline("diagnosis-prediction", model=sys.argv[1], trust_remote_code=True, device="cpu")
    assert type(predict).__module__.startswith("transformers_modules"), type(predict)
    predict.save_pretrained(sys.argv[2] + "/again")
    predict = pipeline(model=sys.argv[2] + "/again", trust_remote_code=True, device="cpu")  # the task is in the config
    result = predict({{**row, "visits": [[code.replace(".", "") for code in visit["codes"]] for visit in row["visits"]]}})
    codes = [one["code"] for one in result["ranking"]]
    assert codes == [model.config.codes[index] for index in ranking.order[0]], codes
    """
    assert_same_ranking(run_python(script, folder, tmp_path, cwd=tmp_path, blocked=True), ranking)


def test_no_family_is_left_out_of_the_equality_tests():
    assert {"llama", "mistral", "qwen2", "gpt2", "gemma2", "gpt_neox", "granite", "cohere"} <= set(FAMILIES)


def test_ranking_head_can_be_reset(llama):
    model, _ = llama
    randomise_head(model)
    assert model.ranking_head.is_trained
    model.reset_ranking_head()
    head = model.ranking_head
    assert not any(tensor.any() for tensor in (*head.parameters(), head.log_prevalence, head.value_threshold))
    assert (head.value_weight == 1).all()
    assert not model.ranking_head.is_trained

    assert not MeraForDiagnosis(model.config).ranking_head.is_trained
