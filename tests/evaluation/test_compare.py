import re
from pathlib import Path

import numpy as np
import pytest
from cohort import write_visits
from ranking_cases import ranked

from mera_hf.data.prepare import prepare
from mera_hf.data.prepared import Prepared, load_prepared
from mera_hf.data.samples import prediction_samples
from mera_hf.errors import InputError
from mera_hf.evaluation import plots
from mera_hf.evaluation.bootstrap import intervals
from mera_hf.evaluation.compare import checkpoint_run, compare_rankers, file_run
from mera_hf.evaluation.figures import spread
from mera_hf.evaluation.metrics import evaluate_ranking, recall_curve
from mera_hf.evaluation.paired import compare
from mera_hf.evaluation.rankings.files import write_rankings
from mera_hf.evaluation.rankings.ranked import Cut, ModelRanking
from mera_hf.evaluation.rankings.reference import fit_references
from mera_hf.evaluation.rankings.setting import Setting
from mera_hf.evaluation.results import read_metrics
from mera_hf.evaluation.tally import tally_ranking
from mera_hf.report import write_comparison
from mera_hf.report.comparisons import comparison_markdown, comparison_text


KS = (10, 20)
REFERENCES = ("prevalence", "copy_history")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare")
    write_visits(path / "visits.csv")
    prepare("visits_csv", data_dir=path / "visits.csv", output_dir=path / "dataset")
    return path / "dataset"


@pytest.fixture(scope="module")
def patients(folder):
    """Whom a ranker is asked to rank: those in train, who are more than those in test."""
    asked = []

    def look(patients):
        asked.append(patients)
        raise InputError("seen enough")

    with pytest.raises(InputError, match="seen enough"):
        compare_rankers({"look": [look]}, folder, "train")
    return asked[0]


def random_run(patients, seed, sizes=True):
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(len(patients.codes)) for _ in patients.ids]).astype(np.int32)
    return ranked(order, rng.integers(0, 9, size=len(order)) if sizes else None)


def answer(ranking):
    """What the measures take of a ranking."""
    return ranking.order, ranking.set_sizes


def fixed(result):
    return lambda patients: result


def test_the_patients_are_those_of_the_split_in_order(folder, patients):
    split = load_prepared(folder)["train"]
    assert patients.ids == split["patient_id"][:] and len(patients.ids) > 30
    assert patients.samples == prediction_samples(split, patients.codes)


@pytest.fixture(scope="module")
def measured(folder, patients):
    runs = {
        name: [random_run(patients, seed) for seed in seeds] for name, seeds in {"one": [1], "two": [2, 3]}.items()
    }
    rankers = {name: [fixed(run) for run in sides] for name, sides in runs.items()}
    return runs, compare_rankers(rankers, folder, "train", REFERENCES, seed=4)


def test_figures_are_those_of_evaluate_ranking(folder, patients, measured):
    runs, result = measured
    rankers = result.metrics["rankers"]
    assert list(rankers) == ["one", "two", *REFERENCES]
    assert rankers["one"] == evaluate_ranking(*answer(runs["one"][0]), patients.samples, KS)
    each = [evaluate_ranking(*answer(run), patients.samples, KS) for run in runs["two"]]
    for metric, value in rankers["two"].items():
        assert value == spread([run[metric] for run in each])
    assert result.metrics["intervals"]["one"] == intervals(*answer(runs["one"][0]), patients.samples, KS, seed=4)
    dataset = load_prepared(folder)
    train, validation = (
        prediction_samples(dataset[name], patients.codes, target)
        for name, target in (("train", "every"), ("validation", "last"))
    )
    fitted = fit_references(train, len(patients.codes), validation, 4, REFERENCES)
    for name, rank in fitted.items():
        assert rankers[name] == evaluate_ranking(*answer(rank(patients.samples)), patients.samples, KS)
    assert list(result.report["curves"]) == list(rankers)
    expected = sum(recall_curve(run.order, patients.samples, 20) for run in runs["two"]) / 2
    np.testing.assert_allclose(result.report["curves"]["two"], expected)


def test_the_first_is_compared_with_each_other_one(patients, measured):
    runs, result = measured
    rows = result.metrics["comparisons"]
    assert {row["a"] for row in rows} == {"one"}
    assert list(dict.fromkeys(row["b"] for row in rows)) == ["two", *REFERENCES]
    sides = [[tally_ranking(*answer(run), patients.samples, KS) for run in runs[name]] for name in ("one", "two")]
    expected = compare(*sides, seed=4)
    assert [row for row in rows if row["b"] == "two"] == [{"a": "one", "b": "two", **row} for row in expected]


def test_tables(measured):
    metrics = measured[1].metrics
    text = comparison_text(metrics)
    assert "one less two, points" in text and "one less copy history, points" in text and "MAP" in text
    (row,) = (row for row in metrics["comparisons"] if (row["b"], row["metric"]) == ("two", "weighted_f1_eov"))
    low, high = (f"{100 * end:+.1f}" for end in row["interval"])
    cells = f"{100 * row['difference']:+.1f} {low} to {high} {row['p']:.3f} {row['p_holm']:.3f}"
    block = text[text.index("one less two") : text.index("one less prevalence")]
    (line,) = (line for line in block.splitlines() if "w-F1 of set" in line)
    assert " ".join(line.split()) == f"w-F1 of set {cells}"
    assert max(map(len, text.splitlines())) <= 119
    p, corrected = cells.split()[-2:]
    expected = f"| two | w-F1 of set | {100 * row['difference']:+.1f} | {low} to {high} | {p} | {corrected} |"
    assert expected in comparison_markdown(metrics)
    small = metrics | {"comparisons": [row | {"p": 0.0004, "p_holm": 0.0008}]}
    assert comparison_text(small).splitlines()[-1].split()[-4:] == ["<", "0.001", "<", "0.001"]


def test_files_are_written(measured, tmp_path):
    pytest.importorskip("matplotlib")
    result = measured[1]
    assert write_comparison(result, tmp_path / "out") == ["metrics.json", "table.md", "compare.html"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "table.md", "compare.html"}
    assert read_metrics(tmp_path / "out" / "metrics.json") == result.metrics
    assert (tmp_path / "out" / "table.md").read_text() == comparison_markdown(result.metrics) + "\n"
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "one" in page and "copy history" in page and not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_without_the_extra_there_is_no_page(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "installed", lambda: False)
    assert write_comparison(measured[1], tmp_path) == ["metrics.json", "table.md"]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "table.md"}


def test_a_file_of_rankings_is_a_run(folder, patients, measured, tmp_path):
    order, sizes = answer(measured[0]["one"][0])
    backwards = slice(None, None, -1)
    path = tmp_path / "peer.parquet"
    nothing = np.zeros(order.shape)
    cut = Cut(sizes[backwards], "EOV")
    ranking = ModelRanking(order[backwards], cut, nothing, nothing, nothing[:, 0], nothing[:, 0].astype(int))
    write_rankings(path, patients.ids[backwards], patients.codes, ranking)
    got = compare_rankers({"peer": [file_run(path)]}, folder, "train", ("prevalence",))
    assert got.metrics["rankers"]["peer"] == measured[1].metrics["rankers"]["one"]


def test_a_ranker_without_sets(folder, patients):
    got = compare_rankers({"peer": [fixed(random_run(patients, 1, sizes=False))]}, folder, "train", ("prevalence",))
    assert not any(name.endswith("_eov") for name in got.metrics["rankers"]["peer"])
    assert "weighted_f1_eov" not in {row["metric"] for row in got.metrics["comparisons"]}
    assert "–" in comparison_text(got.metrics)


def test_what_does_not_go_together(folder, patients):
    runs = [fixed(random_run(patients, 1)), fixed(random_run(patients, 2, sizes=False))]
    with pytest.raises(InputError, match="some runs of 'mixed' have set sizes and some do not"):
        compare_rankers({"mixed": runs}, folder, "train", REFERENCES)
    with pytest.raises(InputError, match="a ranker is called 'prevalence', as a reference ranker is"):
        compare_rankers({"prevalence": runs[:1]}, folder, "train", REFERENCES)
    with pytest.raises(InputError, match="`split` is 'dev'; choose one of train, validation, test"):
        compare_rankers({"one": runs[:1]}, folder, "dev", REFERENCES)


def setting_of(rows, codes):
    """A test split of these patients."""
    prepared = Prepared(Path("nowhere"), {"test": rows}, [{"code": code} for code in codes], {})
    return Setting(prepared, "test", codes, prepared.samples("test"), [10])


def test_a_checkpoint_is_measured_on_the_codes_of_the_dataset(llama, rows, caplog):
    model, tokenizer = llama
    own = model.config.codes
    run = checkpoint_run(lambda: (model, tokenizer), 4)
    rows = rows[:2]
    order, sizes = answer(run(setting_of(rows, own)))
    assert sorted(order[0]) == list(range(len(own))) and "left out" not in caplog.text

    seen = sorted({code for row in rows for visit in row["visits"] for code in visit["codes"]})
    assert len(seen) < len(own), "the model knows codes that nobody has"
    codes = [*seen[::-1], "ICD9CM:nobody"]  # in another order, and with one that the model does not have
    got = run(setting_of(rows, codes))
    assert got.cut.by == "EOV"
    for row in range(len(order)):
        names = [own[code] for code in order[row]]
        assert [codes[code] for code in got.order[row]] == [
            *(name for name in names if name in seen),
            "ICD9CM:nobody",
        ]
        assert got.set_sizes[row] == sum(name in seen for name in names[: sizes[row]])
    assert f"{len(own) - len(seen)} codes of a checkpoint are not in the dataset and are left out" in caplog.text
