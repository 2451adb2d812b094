"""Experiments without training: plans, decoding against brute force, what EOV knows, words, tables and files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CODES, patients, tiny_mera

from mera_hf.data.samples import Sample, prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation.sections.severity import spearman
from mera_hf.experiments import NAMES, held_out
from mera_hf.experiments.conclusions import ONE_SEED, answer, conclusion, judge, points, strength, verdicts
from mera_hf.experiments.decoding import as_ranking, decode_greedily
from mera_hf.experiments.eov import eov_knowledge
from mera_hf.experiments.runs import Run
from mera_hf.experiments.tables import (
    differences_table,
    experiment_markdown,
    experiment_text,
    figures_table,
    memorization_table,
)
from mera_hf.experiments.variants import plan, row_title
from mera_hf.experiments.writing import write_experiment
from mera_hf.timeline_mera import TimelineEncoder


CARD = Path(__file__).parents[2] / "model_cards" / "mera-tiny-diabetes130" / "experiments"


# Plans


def test_every_experiment_compares_each_variant_with_one_of_its_own():
    for name in NAMES:
        planned = plan(name, CODES, "an encoder")
        names = [variant.name for variant in planned.variants]
        assert len(set(names)) == len(names) and planned.question.endswith("?")
        for variant in planned.variants[1:]:
            assert variant.against in names or variant.against == "recipe" == names[0]


def test_what_a_plan_leaves_out():
    def names(*arguments):
        return {variant.name for variant in plan(*arguments).variants}

    assert names("memorization", CODES, "encoder") - names("memorization", CODES) == {"rows_encoder", "rows_shuffled"}
    assert names("ablation", CODES) - names("ablation", CODES, None, True) == {"memorized_lora"}
    assert "ccsr" not in names("ontology", CODES)
    assert "ccsr" in names("ontology", ["ICD10CM:E11.9", "ICD10CM:I50.1", "ICD10CM:I50.9"])
    # Where the only level is a chapter, the finest is the same
    assert names("hierarchy", ["ICD9CM:250.00", "ICD9CM:276.8"]) & {"levels_chapter", "levels_block"} == {
        "levels_chapter"
    }
    with pytest.raises(InputError, match="'lucky' is no experiment; choose one of memorization, hierarchy"):
        plan("lucky", CODES)
    with pytest.raises(InputError, match="no two codes of the dataset share a group"):
        plan("hierarchy", ["ICD9CM:250.00", "ICD9CM:486"])


def test_a_level_is_alone_or_beside_the_whole_space():
    variants = {variant.name: variant for variant in plan("hierarchy", CODES).variants}
    found = {name: (each.title, each.overrides) for name, each in variants.items() if name.startswith("levels_")}
    assert found == {
        "levels_none": ("the whole space alone", ("--levels", "space")),
        "levels_only_chapter": ("chapter alone", ("--levels", "chapter")),
        "levels_only_subcategory1": ("first subcategory alone", ("--levels", "subcategory1")),
        "levels_chapter": ("space + chapter", ("--levels", "space", "chapter")),
        "levels_subcategory1": ("space + first subcategory", ("--levels", "space", "subcategory1")),
        "levels_all": (
            "the full hierarchy: space + 4 levels",
            ("--levels", "space", "chapter", "block", "category", "subcategory1"),
        ),
    }
    assert {variants[name].against for name in found if name != "levels_none"} == {"levels_none"}
    for variant in variants.values():
        row = {"title": variant.title, "options": list(variant.overrides)}
        assert row_title(row) == variant.title
    (one,) = [v for v in plan("hierarchy", ["ICD9CM:250.00", "ICD9CM:276.8"]).variants if v.name == "levels_all"]
    assert one.title == "the full hierarchy: space + 1 level"


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"ontology"}))
def test_experiments_of_the_card_still_say_what_they_said(name):
    """`experiment.json` of `ontology` is without the analysis that its conclusion reads."""
    result = json.loads((CARD / name / "experiment.json").read_text())
    assert conclusion(result) == result["says"]
    assert result["says"] in experiment_text(result)
    assert experiment_markdown(result, {}).startswith(f"# {result['question']}\n\n{result['says']}\n")


def test_an_older_row_is_called_what_it_was():
    """Until the levels stood alone, `chapter alone` had the whole space beside it."""
    result = json.loads((CARD / "hierarchy" / "experiment.json").read_text())
    assert [row["title"] for row in result["rows"]][1:3] == ["chapter alone", "first subcategory alone"]
    _, *lines = figures_table(result).rows
    assert [line.title for line in lines][:3] == ["space + chapter", "space + first subcategory", "all 4 levels"]
    page = experiment_markdown(result, {}) + experiment_text(result)
    assert "chapter alone" not in page and "subcategory alone" not in page
    assert "| space + chapter | `--levels space chapter` |" in page
    result["rows"][1]["differences"] = [KINDS["worse"] | {"metric": metric} for metric in result["metrics"]]
    assert "Shown to do worse: space + chapter (R@20 -2.0, w-F1 of set -2.0)" in conclusion(result)


# Decoding


def brute_force(model, tokenizer, row, most):
    """One patient at a time: read everything anew behind each code that was named, and look at the last token alone."""
    encoder = TimelineEncoder(model.config, tokenizer)
    timeline = encoder.encode_history(row)
    codes, values = next(iter(timeline.histories.values()))
    history = {"history_codes": torch.tensor([codes]), "history_values": torch.tensor([values])}
    ids, mark = timeline.input_ids[:-1], timeline.input_ids[-1:]
    start = model.config.decoder_start_token_id
    named, end = [], None
    while len(named) < most:
        written = mark + [model.config.code_token_start + code for code in named]
        if start is None:
            tokens = {"input_ids": torch.tensor([ids + written])}
        else:
            tokens = {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([[start, *written]])}
        with torch.no_grad():
            output = model(**tokens, **history)
        left = {
            code: float(output.code_logits[0, code]) for code in range(model.config.num_codes) if code not in named
        }
        best = max(left, key=left.get)
        if end is None and float(output.eov_logits[0]) > left[best]:
            end = len(named)
        named.append(best)
    return named, most if end is None else end


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_decoding_is_that_of_one_patient_and_one_code_at_a_time(family):
    model, tokenizer = tiny_mera(family)
    rows = patients(9, seed=3)
    samples = prediction_samples(rows, model.config.codes)
    named, ends = decode_greedily(model, tokenizer, samples, most=6, batch_size=4)
    assert named.shape == (9, 6) and named.dtype == np.int32
    for row, codes, end in zip(rows, named.tolist(), ends, strict=True):
        history = {"profile": row["profile"], "visits": row["visits"][:-1]}
        assert (codes, end) == brute_force(model, tokenizer, history, 6)
        assert len(set(codes)) == 6, "no code twice"
    assert len({tuple(codes) for codes in named.tolist()}) > 1, "patients differ"
    again = decode_greedily(model, tokenizer, samples, most=6, batch_size=1)
    assert (again[0] == named).all() and (again[1] == ends).all()


def test_decoding_stops_at_eov_and_names_every_code_once():
    model, tokenizer = tiny_mera("llama")
    samples = prediction_samples(patients(4), model.config.codes)
    forward = model.forward

    def with_eov(shift):
        def shifted(**inputs):
            output = forward(**inputs)
            output.eov_logits = output.code_logits.max(-1).values + shift
            return output

        return shifted

    model.forward = with_eov(1.0)
    named, ends = decode_greedily(model, tokenizer, samples, most=100)
    assert (ends == 0).all()
    assert (np.sort(named, axis=1) == np.arange(len(CODES))).all()
    model.forward = with_eov(-1e4)
    assert (decode_greedily(model, tokenizer, samples, most=5)[1] == 5).all()


def test_lists_as_rankings():
    named = np.array([[4, 2, 0], [1, 3, 2]], dtype=np.int32)
    order = as_ranking(named, np.array([1, 3]), n_codes=5, width=4)
    assert order.tolist() == [[4, 6, 7, 8], [1, 3, 2, 8]]
    assert as_ranking(named, np.array([0, 0]), 5, 4).tolist() == [[5, 6, 7, 8]] * 2


# EOV


def fake_runs(folder, samples, seeds=2):
    """Runs whose EOV knows the true size, but for noise."""
    draw = np.random.default_rng(0)
    true = np.array([len(sample.target) for sample in samples])
    runs = []
    for seed in range(seeds):
        run = Run(folder / f"recipe-{seed}", {})
        run.folder.mkdir()
        sizes = np.maximum(true + draw.integers(-1, 2, len(true)), 0)
        order = np.tile(np.arange(len(CODES)), (len(true), 1))
        np.savez(run.folder / "test.npz", order=order, set_sizes=sizes)
        said = {"eov_probability": 1 / (1 + sizes), "expected_codes": np.full(len(true), 3.0)}
        np.savez(run.folder / "eov.npz", order=order, above_eov=sizes, **said)
        runs.append((run, sizes))
    return true, runs


def test_what_eov_knows(tmp_path):
    draw = np.random.default_rng(1)
    sizes = draw.choice([1, 2, 3, 4, 9], 80, p=[0.2, 0.3, 0.3, 0.15, 0.05])
    samples = [Sample(i, [[int(draw.integers(len(CODES)))]], list(range(size)), {}) for i, size in enumerate(sizes)]
    true, runs = fake_runs(tmp_path, samples)
    found = eov_knowledge([run for run, _ in runs], samples, CODES)
    alone = [spearman(predicted, true) for _, predicted in runs]
    rho = found["correlations"]["set_size"]["true_size"]
    assert rho["rho"]["values"] == pytest.approx([each["rho"] for each in alone])
    assert rho["interval"] == pytest.approx(np.mean([each["interval"] for each in alone], axis=0))
    assert found["correlations"]["expected_codes"]["true_size"] is None, "always 3"
    assert found["correlations"]["eov_probability"]["true_size"]["rho"]["mean"] < -0.5

    mean = np.mean([predicted for _, predicted in runs], axis=0)
    groups = {group["true"]: group for group in found["groups"]["true"]}
    assert groups["2"]["patients"] == (true == 2).sum() >= 10
    assert groups["2"]["set_size"] == pytest.approx(mean[true == 2].mean())
    for kind in found["groups"].values():
        for group in kind:
            assert group["patients"] == "< 10" if "set_size" not in group else group["patients"] >= 10
    assert groups["0"] == {"true": "0", "patients": "< 10"}
    counts = np.bincount(true)
    assert found["commonest_size"] == {"codes": counts.argmax(), "share": pytest.approx(counts.max() / 80)}
    json.dumps(found, allow_nan=False)

    one = eov_knowledge([runs[0][0]], samples, CODES)
    assert one["correlations"]["set_size"]["true_size"]["rho"] == pytest.approx(alone[0]["rho"])


def test_what_eov_knows_of_drg_severity(tmp_path):
    draw = np.random.default_rng(1)
    sizes = draw.integers(1, 6, 80)
    samples = [Sample(i, [[int(draw.integers(len(CODES)))]], list(range(size)), {}) for i, size in enumerate(sizes)]
    severity = np.where(sizes < 5, sizes, np.nan)  # as many true codes, where it is known
    known = sizes < 5
    _, runs = fake_runs(tmp_path, samples)
    runs = [run for run, _ in runs]
    found, without = eov_knowledge(runs, samples, CODES, severity), eov_knowledge(runs, samples, CODES)
    alone = [spearman(run.ranking()[1][known], severity[known]) for run in runs]
    rho = found["correlations"]["set_size"]["drg_severity"]
    assert rho["rho"]["values"] == pytest.approx([each["rho"] for each in alone])
    assert found["known"] == {"drg_severity": known.sum()}
    assert [group["drg_severity"] for group in found["groups"]["drg_severity"]] == ["1", "2", "3", "4"]
    mean = np.mean([run.ranking()[1] for run in runs], axis=0)
    assert found["groups"]["drg_severity"][1]["set_size"] == pytest.approx(mean[sizes == 2].mean())
    assert without == {
        "correlations": {
            name: {other: of for other, of in row.items() if other != "drg_severity"}
            for name, row in found["correlations"].items()
        },
        "groups": {name: of for name, of in found["groups"].items() if name != "drg_severity"},
        **{name: of for name, of in found.items() if name not in ("correlations", "groups", "known")},
    }
    result = eov(0.3) | {"eov": found}
    says = conclusion(result)
    assert "the number of codes above EOV goes strongly with the number of true codes" in says
    assert "goes strongly with the DRG severity of the visit (Spearman 0." in says
    text, page = experiment_text(result | {"says": says}), experiment_markdown(result | {"says": says}, {})
    assert f"DRG severity of the visit (n {known.sum()})" in text and "DRG severity of the visit (n" in page
    pytest.importorskip("matplotlib")
    write_experiment(result | {"says": says}, tmp_path / "eov")
    table = (tmp_path / "eov" / "table.md").read_text()
    assert re.search(r"; DRG severity 1: \d\.\d to DRG severity 4: \d\.\d\.", table)


# Words


def difference(value, low, high, p=0.001, by_seed=None, metric="recall@20"):
    by_seed = [value] * 3 if by_seed is None else by_seed
    return {"metric": metric, "difference": value, "interval": [low, high], "p": p, "p_holm": p, "by_seed": by_seed}


KINDS = {
    "better": difference(0.02, 0.01, 0.03),
    "worse": difference(-0.02, -0.03, -0.01),
    "a little better": difference(0.004, 0.001, 0.007),
    "a little worse": difference(-0.004, -0.007, -0.001),
    "equal": difference(0.001, -0.004, 0.006, p=0.7),
    "open": difference(0.01, -0.01, 0.03, p=0.3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_judgements(kind):
    assert judge(KINDS[kind]) == kind


def test_a_difference_is_sure_by_interval_p_value_and_seeds_together():
    assert judge(difference(0.02, 0.01, 0.03, p=0.06)) == "open"
    assert judge(difference(0.02, -0.001, 0.03)) == "open"
    assert judge(difference(0.02, 0.01, 0.03, by_seed=[0.05, 0.04, -0.03])) == "open"
    assert judge(difference(0.004, 0.001, 0.007, by_seed=[0.02, -0.01, 0.002])) == "equal"


def test_points_have_no_negative_zero():
    assert [points(x) for x in (0.0, -0.0004, 0.0004, -0.0006, 0.1)] == ["0.0", "0.0", "0.0", "-0.1", "+10.0"]


def row(name, title, kinds=None, against="recipe", test=None, **more):
    """A row; `kinds` are the judgements of R@20 and of the F1 of the set."""
    entry = {
        "name": name,
        "title": title,
        "options": ["--some", "option"],
        "seconds": 61.0,
        "validation": {"recall@20": 0.65},
        "test": test or {"recall@20": 0.641, "weighted_f1_eov": 0.25, "mean_set_size": 3.0},
    }
    if kinds or "same" in more:
        entry |= {"against": against, "same": False}
    if kinds:
        metrics = ("recall@20", "weighted_f1_eov")
        entry["differences"] = [KINDS[kind] | {"metric": m} for kind, m in zip(kinds, metrics, strict=True)]
    return entry | more


def result_of(experiment, rows, metrics=("recall@20", "weighted_f1_eov"), **more):
    return {
        "experiment": experiment,
        "question": "Is it worth anything?",
        "paper": "The paper: much.",
        "dataset": {"name": "synthetic", "fingerprint": "abc", "patients": 1234, "codes": 77},
        "recipe": "tiny/train",
        "overrides": [],
        "seeds": [0, 1, 2],
        "metrics": list(metrics),
        "rows": rows,
        **more,
    }


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("better", "equal"), "Yes"),
        (("better", "worse"), "In part"),
        (("a little better", "open"), "A little"),
        (("open", "equal"), "Not that could be shown"),
        (("equal", "equal"), "No"),
        (("worse", "open"), "No"),
    ],
)
def test_answers(kinds, expected):
    assert answer(row("x", "x", kinds), ("recall@20", "weighted_f1_eov")) == expected


def test_verdicts_carry_the_figures():
    said = verdicts(row("x", "x", ("worse", "equal")), ("recall@20", "weighted_f1_eov"))
    assert said == (
        "R@20 -2.0 points (-3.0 to -1.0), worse; w-F1 of set +0.1 points (-0.4 to +0.6), no difference of one point"
    )


def hierarchy(chapter, everything, shuffled):
    rows = [
        row("levels_none", "no levels"),
        row("levels_chapter", "chapter alone", chapter, "levels_none"),
        row("levels_all", "all 3 levels", everything, "levels_none"),
        row("hierarchy_shuffled", "shuffled", shuffled, "levels_all"),
        row("no_contrast", "no contrastive loss at all", ("worse", "worse"), "levels_none"),
    ]
    return conclusion(result_of("hierarchy", rows))


def test_the_hierarchy_in_short():
    nothing = hierarchy(("equal", "equal"), ("worse", "equal"), ("equal", "equal"))
    assert nothing.startswith(
        "No: no choice of levels is shown to do better than none; R@20 changes by -2.0 to +0.1 points (all intervals within "
        "-3.0 to +0.6), w-F1 of set changes by +0.1 points (all intervals within -0.4 to +0.6). Shown to do worse: all 3 "
        "levels (R@20 -2.0, w-F1 of set +0.1). Trained with the codes dealt out at random in the tree: R@20 +0.1"
    )
    assert "the tree is not what helps, if anything does. No contrastive loss at all: R@20 -2.0" in nothing
    gain = hierarchy(("a little better", "equal"), ("better", "open"), ("worse", "equal"))
    assert gain.startswith("Yes: All 3 levels: R@20 +2.0 points (+1.0 to +3.0), better")
    assert "chapter alone" not in gain and "it had from the groups of the tree" in gain
    assert hierarchy(("a little better", "equal"), ("equal", "open"), ("a little worse", "equal")).startswith(
        "A little:"
    )
    unclear = hierarchy(("open", "equal"), ("worse", "equal"), ("open", "equal"))
    assert unclear.startswith("Not that could be shown: no choice")
    assert "too few to say whether it does as well" in unclear
    slightly = hierarchy(("equal", "equal"), ("equal", "equal"), ("a little worse", "equal"))
    assert "Less than one point counts as doing as well here: which codes share a group says nothing" in slightly


ASKED = {
    when: {
        f"{question}_{wording}": {"mean": share, "std": 0.0, "values": [share] * 3}
        for question in ("code_to_chapter", "code_to_definition", "code_to_subcategory1", "definition_to_code")
        for wording in ("seen", "unseen")
    }
    for when, share in (("before", 0.0), ("after", 0.987))
}


def memorization(memorized, random, **more):
    rows = [
        row("recipe", "the recipe"),
        row("memorized", "memorized first", memorized),
        row("rows_random", "rows start at random", random),
        row("rows_encoder", "rows of an encoder", against="recipe", same=True),
        row("rows_shuffled", "rows shuffled", ("better", "equal"), "rows_encoder"),
    ]
    return result_of("memorization", rows, memorization=ASKED, **more)


def test_held_out_codes_have_a_sentence_tables_and_a_note():
    figures = {"count": 7, "exact_match": 0.0, "token_f1": 0.25}
    groups = [
        {"question": question, "codes": codes, "visits": visits, **figures, **place}
        for question, place in (("code_to_definition", {}), ("definition_to_code", {"place": 12.34}))
        for codes in held_out.KINDS
        for visits in ("all", "6-20")
    ]
    model = {"name": "held_out", "title": "decoder (llama)", "parameters": 1_234_567, "groups": groups}
    part = {"share": 0.2, "codes": 77, "models": [model]}
    old = memorization(("better", "equal"), ("worse", "worse"))
    new = old | {"memorization": ASKED | {"held_out": part}}
    said = conclusion(new).removeprefix(conclusion(old))
    assert said == (
        " With 20 % of the codes held out of the questions, the decoder (llama) gives the definition of the others in 0.0 % "
        "of cases and of these in 0.0 % (token F1 25.0 and 25.0), and the code of a definition in 0.0 % and 0.0 %; the right "
        "code stands at place 12.3 and 12.3 of 77 on average, by chance at 39.0."
    )
    page = experiment_markdown(new | {"says": ""}, {})
    assert "| decoder (llama): held-out codes, words trained on | 7 | 0.0 | 25.0 | 0.0 | 25.0 | 12.3 |" in page
    assert "held-out codes, words trained on, 6-20 visits | 7 |" in page and "<= 5 visits" not in page
    assert "Parameters: decoder (llama) 1,234,567." in page
    assert "held-out codes, words trained on, 6-20 visits" in experiment_text(new | {"says": ""})
    assert "held-out" not in experiment_markdown(old | {"says": ""}, {}), "older files are without"


def test_memorizing_in_short():
    worth = conclusion(memorization(("better", "equal"), ("worse", "worse")))
    assert worth.startswith("Yes: trained from the memorized checkpoint: R@20 +2.0 points")
    assert "it had from where the code tokens start" in worth and "It does better so." in worth
    assert (
        "in 98.7 % and the code of a definition in 98.7 % of cases" in worth and "before, in 0.0 % and 0.0 %" in worth
    )
    assert ONE_SEED not in worth
    costs = conclusion(memorization(("worse", "open"), ("equal", "equal"), seeds=[4]))
    assert costs.startswith("No: trained from") and "Memorizing first costs that much here." in costs
    assert "What the descriptions say of the codes brings nothing here." in costs
    assert costs.endswith(ONE_SEED)


def correlation(rho):
    return {"rho": {"mean": rho, "std": 0.01, "values": [rho, rho]}, "interval": [rho - 0.05, rho + 0.05]}


def eov(rho, share=0.4, size=3.0):
    rows = [
        row("recipe", "the recipe"),
        row("no_confidence", "no EOV loss", ("equal", "equal")),
        row("recipe_own_cut", "own", ("equal", "worse"), seconds=None, test={"mean_set_size": size}),
        row("no_confidence_own_cut", "own", ("open", "better"), "recipe_own_cut", seconds=None),
    ]
    correlations = {
        "eov_probability": {"set_size": None, "true_size": correlation(-0.2), "comorbidities": None},
        "set_size": {"true_size": rho and correlation(rho)},
        "expected_codes": {"true_size": correlation(0.9)},
    }
    groups = {
        "predicted": [{"predicted": str(i), "patients": 30} | MEANS for i in range(4)],
        "true": [{"true": "0", "patients": "< 10"}, {"true": "1+", "patients": 90} | MEANS],
    }
    known = {"correlations": correlations, "groups": groups, "commonest_size": {"codes": 3, "share": share}}
    return result_of("eov", rows, ("weighted_f1_eov", "recall@20"), eov=known)


MEANS = {"set_size": 2.4, "expected_codes": 2.9, "true_size": 2.0, "eov_probability": 0.3}


def test_eov_in_short():
    much = conclusion(eov(0.6))
    assert much.startswith(
        "Much: the probability of EOV goes weakly with the number of true codes (Spearman -0.20, -0.25 to -0.15); the number "
        "of codes above EOV goes strongly with the number of true codes (Spearman 0.60, 0.55 to 0.65). Cut at EOV's own logit"
    )
    assert "hardly a size to know" not in much and "stands above" not in much
    assert much.endswith(
        "Against the recipe, both cut at EOV's own logit: no EOV loss, w-F1 of set +2.0 points (+1.0 to +3.0), better. "
        "Against the recipe, both cut where validation puts the cut: no EOV loss, w-F1 of set +0.1 points (-0.4 to +0.6), no "
        "difference of one point."
    )
    little = conclusion(eov(0.01, share=0.94, size=0.02))
    assert little.startswith("Hardly anything: ") and "codes above EOV hardly goes with the number of true" in little
    assert "94 % of these visits have 3 codes, so that there is hardly a size to know." in little
    assert "Its sets have 0.0 codes on average: EOV's own logit stands above nearly every code's." in little
    assert conclusion(eov(None)).startswith("Nothing: ")
    assert [strength(correlation(rho)) for rho in (0.04, -0.2, 0.4, -0.7)] == [
        *("hardly", "weakly", "moderately", "strongly")
    ]


def test_the_ablation_in_short():
    rows = [
        row("recipe", "the recipe"),
        row("no_history_term", "without the history term", ("worse", "equal")),
        row("no_contrast", "without L_CL", ("equal", "equal")),
        row("no_confidence", "without L_DCE", ("open", "equal")),
        row("no_profile", "without the profile", ("a little worse", "equal")),
        row("no_partial", "without partial outputs", ("better", "equal")),
        row("no_code_bias", "without the code bias", against="recipe", same=True),
        row("memorized", "memorized first", ("worse", "worse")),
        row("decoded", "one by one, until EOV", ("worse", "worse"), seconds=None, test={"mean_set_size": 0.1}),
    ]
    said = conclusion(result_of("ablation", rows))
    assert said == (
        "Leaving out one of these costs a point or more: the history term (R@20 -2.0, w-F1 of set +0.1). "
        "Leaving out one of these changes less than a point, but surely: the profile (R@20 -0.4, w-F1 of set +0.1). "
        "Leaving out one of these gains a point or more: partial outputs (R@20 +2.0, w-F1 of set +0.1). "
        "Whether leaving out these changes anything, these patients could not show: L_DCE (R@20 +1.0, w-F1 of set +0.1). "
        "Leaving out one of these changes nothing of a point: L_CL (R@20 +0.1, w-F1 of set +0.1). "
        "Memorized first: R@20 -2.0 points (-3.0 to -1.0), worse; w-F1 of set -2.0 points (-3.0 to -1.0), worse. "
        "One by one, until EOV: R@20 -2.0 points (-3.0 to -1.0), worse; w-F1 of set -2.0 points (-3.0 to -1.0), worse. "
        "Its sets have 0.1 codes on average: EOV's own logit stands above nearly every code's."
    )
    none = conclusion(result_of("ablation", [rows[0], rows[2]]))
    assert none == (
        "No part is shown to be worth a point here. Leaving out one of these changes nothing of a point: L_CL (R@20 +0.1, "
        "w-F1 of set +0.1)."
    )


# Tables and files


def read(table):
    """The headings of a table and the cells of its rows, the title first."""
    return list(table.headings), [[row.title, *row.texts] for row in table.rows]


def test_tables():
    spread = {"mean": 0.641, "std": 0.002, "values": [0.639, 0.643]}
    rows = [
        row("recipe", "the recipe", test={"recall@20": spread, "mean_set_size": 3.04}),
        row("x", "changed", ("worse", "equal")),
        row("y", "the same", against="recipe", same=True),
        row("z", "another use", ("open", "equal"), seconds=None, validation={}),
    ]
    result = result_of("hierarchy", rows)
    headings, cells = read(figures_table(result))
    assert headings == ["", "R@20 validation", "w-F1 of set", "R@20", "set size", "seconds"]
    assert cells[0] == ["the recipe", "65.0", "–", "64.1 ± 0.2", "3.0", "61"]
    assert cells[3] == ["another use", "–", "25.0", "64.1", "3.0", "–"]
    headings, cells = read(differences_table(result))
    assert cells[0] == [
        *("changed", "the recipe", "R@20", "-2.0", "-3.0 to -1.0", "0.001", "0.001", "-2.0, -2.0, -2.0")
    ]
    assert cells[2] == ["the same", "the recipe", "the same training", "–", "–", "–", "–", "–"]
    headings, cells = read(memorization_table(memorization(("equal", "equal"), ("equal", "equal"))))
    assert [line[0] for line in cells] == [
        *("code → definition", "definition → code", "code → chapter", "code → subcategory 1")
    ]
    assert cells[0][1:] == ["0.0", "98.7", "98.7"]


def test_text_and_markdown_hold_the_same_figures():
    result = eov(0.3)
    result["says"] = conclusion(result)
    text, page = experiment_text(result), experiment_markdown(result, {"eov.png": "what it shows"})
    for part in ("Spearman with", "0.30 (0.25 to 0.35)", result["says"], result["question"], "-2.0, -2.0, -2.0"):
        assert part in text and part in page
    assert "![what it shows](eov.png)" in page and "`--some option`" in page
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("─"))
    assert len({line.index("25.0") for line in lines[first + 1 : first + 3]}) == 1, "columns stand below each other"


@pytest.mark.parametrize("result", [memorization(("equal", "worse"), ("open", "equal")), eov(0.3)])
def test_a_folder_is_written_whole_or_not_at_all(result, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    result = result | {"says": conclusion(result)}
    folder = tmp_path / "out" / result["experiment"]
    names = write_experiment(result, folder)
    own = f"{result['experiment']}.png"
    assert {"experiment.json", "table.md", "difference_recall_20.png", own} <= set(names)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == set(names)
    assert json.loads((folder / "experiment.json").read_text()) == result
    page = (folder / "table.md").read_text()
    for name in names[2:]:
        assert f"]({name})" in page, "with a text for readers who do not see it"
        assert (folder / name).read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr("mera_hf.experiments.writing.experiment_markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_experiment(result | {"says": "changed"}, folder)
    assert (folder / "table.md").read_text() == page, "the earlier one is still there"
    monkeypatch.undo()
    write_experiment(result | {"says": "changed"}, folder)
    assert "changed" in (folder / "table.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else than an experiment"):
        write_experiment(eov(0.3) | {"says": ""}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_uses_of_a_checkpoint_stay_out_of_the_forest_plot(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from mera_hf.evaluation import plots

    drawn = []
    draw = plots.difference_plot
    monkeypatch.setattr(plots, "difference_plot", lambda rows, heading: drawn.append(rows) or draw(rows, heading))
    write_experiment(eov(0.3) | {"says": ""}, tmp_path / "eov")
    assert [[label for label, *_ in rows] for rows in drawn] == [["no EOV loss"], ["no EOV loss"], ["own"]]
    assert drawn[2][0][1:] == (0.02, [0.01, 0.03])
