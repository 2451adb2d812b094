"""Figures and the table of rankers as text."""

import statistics

import pytest
from ranking_cases import metrics_dict

from mera_hf.blocks import markdown_table, text_table
from mera_hf.errors import InputError
from mera_hf.evaluation.figures import MORE_COLUMNS, format_figure, ranker_table, spread
from mera_hf.evaluation.results import merge_metrics


def test_spread_is_that_of_the_sample():
    got = spread([0.1, 0.2, 0.6])
    assert got == {"mean": pytest.approx(0.3), "std": statistics.stdev([0.1, 0.2, 0.6]), "values": [0.1, 0.2, 0.6]}
    with pytest.raises(InputError, match="two runs or more, not 1"):
        spread([0.1])


def test_figures_as_text():
    assert format_figure("recall@20", 0.5234) == "52.3"
    assert format_figure("recall@20", spread([0.521, 0.525])) == "52.3 ± 0.3"
    assert format_figure("recall@20", spread([0.5, 0.5])) == "50.0"
    assert format_figure("mean_set_size", 3.62) == "3.6"
    assert format_figure("weighted_f1_eov", None) == "–"


def test_terminal_table():
    metrics = metrics_dict()
    del metrics["rankers"]["gru"]["weighted_f1_eov"]
    lines = text_table(ranker_table(metrics)).splitlines()
    assert lines[0].split() == ("percent w-F1 w-F1 of set R@10 R@20 R@40 repeated R@20 new R@20 set size".split())
    cells = {line[:24].strip(): line[24:].split() for line in lines if line[0] not in "─p"}
    assert cells["MERA"] == ["24.1", "24.5", "52.1*", "64.1*", "76.1*", "31.7", "32.4", "3.6"]
    assert cells["copy history"] == ["26.3*", "26.7*", "47.5", "59.5", "71.5", "31.8*", "27.8", "3.6"]
    assert cells["GRU"][1] == "–"
    assert cells["MERA, histories shuffled"][0] == "6.2"  # a control is never the best
    assert lines[-2].startswith("───")
    assert max(map(len, lines)) <= 119


def test_a_table_of_other_columns():
    metrics = metrics_dict()
    for name, value in (("mera", 0.31), ("gru", 0.33)):
        metrics["rankers"][name] |= {"map": value, "macro_f1": value / 2}
    lines = text_table(ranker_table(metrics, MORE_COLUMNS)).splitlines()
    assert lines[0].split() == ["percent", "MAP", "macro", "F1"]
    assert lines[2].split() == ["MERA", "31.0", "15.5"] and lines[5].split() == ["GRU", "33.0*", "16.5*"]
    assert markdown_table(ranker_table(metrics, MORE_COLUMNS)).splitlines()[0] == "| percent | MAP | macro F1 |"


def test_markdown_table():
    runs = [metrics_dict(), metrics_dict()]
    for seed, recall in enumerate((0.64, 0.62)):
        runs[seed]["run"]["seed"], runs[seed]["rankers"]["mera"]["recall@20"] = seed, recall
    lines = markdown_table(ranker_table(merge_metrics(runs))).splitlines()
    assert lines[0].startswith("| percent | w-F1 | w-F1 of set | R@10 | R@20 |")
    assert lines[2].startswith("| MERA | 24.1 | 24.5 | **52.1** | **63.0 ± 1.4** |")
    assert lines[-1].startswith("| *MERA, histories shuffled* | 6.2 |")
    assert len({line.count("|") for line in lines}) == 1
