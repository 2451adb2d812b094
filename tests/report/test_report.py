import copy
import re

import numpy as np
import pytest
from html_pages import Page
from ranking_cases import metrics_dict, random_orders, random_samples, ranked

from mera_hf.errors import InputError
from mera_hf.evaluation.figures import COLUMNS, columns_of, format_figure
from mera_hf.evaluation.metrics import recall_curve
from mera_hf.evaluation.plots import set_size_plot
from mera_hf.evaluation.plots.style import spread_out
from mera_hf.evaluation.results import merge_metrics
from mera_hf.evaluation.sections.patient import example_patient
from mera_hf.report import render_report, write_plots, write_report
from mera_hf.report.overview import rivals_sentence
from mera_hf.report.page import headline


pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    samples = random_samples(rng, patients=60, codes=50)
    order = random_orders(rng, samples, codes=50)
    sizes = rng.integers(0, 9, size=60)
    codes = [f"ICD9CM:{code}" for code in range(200, 250)]
    descriptions = [f"Disease <{code}> & others, not elsewhere classified or specified" for code in range(50)]
    metrics = metrics_dict()
    return {
        "metrics": metrics,
        "curves": {name: recall_curve(random_orders(rng, samples, 50), samples) for name in metrics["rankers"]},
        "sets": {"predicted": sizes, "true": [len(sample.target) for sample in samples]},
        "example": example_patient(ranked(order, sizes, rng.random((60, 50))), samples, codes, descriptions),
    }


@pytest.fixture(scope="module")
def page(report):
    return render_report(report)


def test_every_reference_inside_the_plots_resolves(page):
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(Page(page).ids)


def test_every_plot_has_an_alternative_text(page, report):
    texts = Page(page).alternatives
    assert len(texts) == 4 == page.count("<svg")
    assert all(len(text) > 40 for text in texts)
    end = report["curves"]["mera"][-1]
    assert any(f"At k = 40: MERA {100 * end:.1f} %" in text for text in texts)


def test_the_table_shows_the_metrics(page, report):
    columns = columns_of(report["metrics"]["rankers"].values(), COLUMNS)
    rows = Page(page).tables["All rankers on the same patients, percent"]
    for name, title in (("mera", "MERA"), ("copy_history", "copy history"), ("prevalence", "prevalence")):
        figures = report["metrics"]["rankers"][name]
        assert [title, *(format_figure(column, figures[column]) for column in columns)] in rows
    control = report["metrics"]["controls"]["shuffled_history"]
    assert rows[-1] == ["MERA, histories shuffled", *(format_figure(column, control[column]) for column in columns)]
    assert page.count('class="best"') == len(columns) - 1  # the set size has no best


def test_what_readers_must_be_told_is_there(page):
    for text in (
        "Not for clinical decisions",
        "prefers-color-scheme: dark",
        "@media print",
        "tiny.yaml",
        "torch 2.13.0",
    ):
        assert text in page
    assert "Disease &lt;" in page and "Disease <" not in page


def test_the_page_is_the_same_each_time(page, report):
    assert render_report(report) == page


def test_optional_parts_may_be_missing(report):
    metrics = metrics_dict(controls={})
    page = render_report({"metrics": metrics, "curves": report["curves"]})
    assert page.count("<svg") == 2
    assert "One patient" not in page and "Controls" not in page
    assert render_report({"metrics": metrics}).count("<svg") == 1  # no curves either


def test_mera_alone_is_refused(report):
    alone = metrics_dict(rankers={"mera": metrics_dict()["rankers"]["mera"]})
    with pytest.raises(InputError, match="at least one reference ranker"):
        render_report(report | {"metrics": alone})


def test_recall_at_20_is_needed(report):
    metrics = copy.deepcopy(metrics_dict())
    del metrics["rankers"]["gru"]["recall@20"]
    with pytest.raises(InputError, match="`rankers.gru` lacks it"):
        render_report(report | {"metrics": metrics})


def test_curves_of_different_lengths_are_refused(report):
    curves = report["curves"] | {"mera": [0.1, 0.2]}
    with pytest.raises(InputError, match="one length for all rankers"):
        render_report(report | {"curves": curves})


def with_recall(value):
    metrics = copy.deepcopy(metrics_dict())
    metrics["rankers"]["mera"]["recall@20"] = value
    return metrics


def plain(text):
    return text.replace("\u00a0", " ")


def test_the_headline_says_who_wins():
    told = headline(with_recall(0.6412))
    assert told["figure"] == "64.1 %"
    assert "64.1 % among its first 20: 1.7 points more than the strongest reference ranker, GRU" in plain(
        told["claim"]
    )
    assert "finds 59.5 %" in plain(told["context"])
    assert "1.4 points less than GRU, which is the better" in headline(with_recall(0.61))["claim"]
    assert "as many as GRU" in headline(with_recall(0.6238))["claim"]


def test_the_headline_tells_how_sure_it_is():
    metrics = metrics_dict(intervals={"mera": {"recall@20": [0.62, 0.66]}})
    assert "between 62.0 and 66.0 % (95 % interval)" in plain(headline(metrics)["context"])
    runs = [with_recall(0.64), with_recall(0.66)]
    runs[1]["run"] |= {"seed": 1}
    told = headline(merge_metrics(runs))
    assert "65.0 ± 1.4 %" in plain(told["claim"])
    assert "2 training runs with different seeds" in told["context"]


def test_rivals():
    assert rivals_sentence(metrics_dict()) == (
        "Ahead of MERA: copy history in w-F1, w-F1 of set, repeated R@20; GRU in new R@20."
    )
    alone = metrics_dict(rankers={name: metrics_dict()["rankers"][name] for name in ("mera", "prevalence")})
    assert rivals_sentence(alone) == "No reference ranker is ahead of MERA in any column."


def test_files_are_written(report, tmp_path):
    write_report(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(report)
    paths = write_plots(report, tmp_path / "plots")
    assert sorted(path.name for path in paths) == sorted(
        f"{name}.{suffix}" for name in ("recall", "quality", "set_sizes", "patient") for suffix in ("png", "svg")
    )
    assert sorted((tmp_path / "plots").iterdir()) == sorted(paths)
    assert (tmp_path / "plots" / "recall.png").read_bytes().startswith(b"\x89PNG")


def test_few_patients_of_one_size_are_not_shown():
    figure = set_size_plot([3] * 12 + [2] * 9, [3] * 12 + [1] * 9)
    bars, heat = figure.axes
    texts = [text.get_text() for text in heat.texts]
    assert "n 12" in texts and "n < 10" in texts and "n 9" not in texts
    assert [patch.get_xy() for patch in heat.patches if patch.get_fill()] == [(2.5, 2.5)]


def test_labels_move_apart_in_their_order():
    moved = spread_out({"a": 1.0, "b": 1.1, "c": 5.0}, gap=1.0)
    assert moved == pytest.approx({"a": 0.55, "b": 1.55, "c": 5.0})
    crowded = spread_out({"a": 1.0, "b": 1.9, "c": 1.0}, gap=1.0)
    assert sorted(crowded, key=crowded.get) in (["a", "c", "b"], ["c", "a", "b"])
    assert min(np.diff(sorted(crowded.values()))) >= 1 - 1e-9
