"""The local leaderboard: who is listed, in which table, in which order."""

from html.parser import HTMLParser

import pytest
from cli.command import mera
from ranking_cases import metrics_dict
from test_eval_results import benchmark_metrics

from mera_hf.errors import InputError
from mera_hf.evaluation.figures import spread
from mera_hf.evaluation.results import write_metrics
from mera_hf.hub.eval_results import eval_results_files
from mera_hf.hub.leaderboard import board_table, boards_html, boards_markdown, read_boards


def put(folder, metrics):
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(metrics, folder / "metrics.json")
    return folder


def with_recall(metrics, value):
    metrics["rankers"]["mera"]["recall@20"] = value
    metrics.pop("intervals", None)
    return metrics


def names(board):
    return [entry.name for entry in board.entries]


@pytest.fixture
def results(tmp_path):
    put(tmp_path / "a" / "evaluation", with_recall(metrics_dict(), 0.61))
    put(tmp_path / "b", with_recall(metrics_dict(), 0.66))
    put(tmp_path / "c" / "deep", benchmark_metrics())
    return tmp_path


def test_models_stand_in_the_order_of_recall_with_the_references_between_them(results):
    boards, left_out = read_boards([results])
    assert left_out == {}
    benchmark, own = boards
    assert benchmark.benchmark and benchmark.title == "Diabetes 130 next-visit diagnosis"
    assert names(own) == ["b", "GRU", "a", "copy history", "prevalence"]
    assert own.title.startswith("synthetic (abc123), test: 321 patients")
    titles = [row.title for row in board_table(own).rows]
    assert titles == ["1. b", "GRU", "2. a", "copy history", "prevalence"]
    recall = [row.texts[0] for row in board_table(own).rows]
    assert recall == ["66.0", "62.4", "61.0", "59.5", "50.7"]
    assert [row.best[0] for row in board_table(own).rows] == [True, False, False, False, False]


def test_other_data_protocols_and_splits_are_other_tables(tmp_path):
    put(tmp_path / "test", metrics_dict())
    validation = metrics_dict()
    validation["dataset"]["split"] = "validation"
    put(tmp_path / "validation", validation)
    every = metrics_dict()
    every["protocol"]["target"] = "every visit from the second on"
    put(tmp_path / "every", every)
    assert len(read_boards([tmp_path])[0]) == 3


def test_references_are_those_of_the_file_with_most_seeds(tmp_path):
    put(tmp_path / "a", metrics_dict())
    seeds = metrics_dict()
    seeds["rankers"]["gru"]["recall@20"] = spread([0.60, 0.62, 0.64])
    seeds["run"]["seed"] = [0, 1, 2]
    put(tmp_path / "b", seeds)
    ((board,), _) = read_boards([tmp_path])
    rows = {row.title: row.texts for row in board_table(board).rows}
    assert rows["GRU"][0] == "62.0 ± 2.0" and rows["GRU"][-1] == "0, 1, 2"
    assert len(rows) == 5


def test_results_of_the_hub_count_where_there_are_no_metrics(tmp_path):
    files = eval_results_files(benchmark_metrics(), "org/x")
    for folder in ("fetched", "own"):
        for path, text in files.items():
            (tmp_path / folder / path).parent.mkdir(parents=True)
            (tmp_path / folder / path).write_text(text)
    put(tmp_path / "own", benchmark_metrics())
    ((board,), left_out) = read_boards([tmp_path])
    models = [entry for entry in board.entries if not entry.reference]
    assert sorted(entry.name for entry in models) == ["fetched", "own"] and left_out == {}
    recalls = [entry.figures["recall@20"] for entry in models]
    assert recalls[0] == pytest.approx(recalls[1], abs=1e-4), "percent there, fractions here"


def test_several_rankers_of_a_comparison_are_several_models(tmp_path):
    metrics = metrics_dict()
    metrics["rankers"]["retain"] = dict(metrics["rankers"]["gru"])
    put(tmp_path / "comparison", metrics)
    ((board,), _) = read_boards([tmp_path])
    assert {"comparison: MERA", "comparison: retain"} <= set(names(board))


def test_what_is_no_result_is_said_to_be_left_out(results):
    (results / "b" / "metrics.json").write_text('{"loss": 1.0}')
    (results / "x" / ".eval_results").mkdir(parents=True)
    (results / "x" / ".eval_results" / "hle.yaml").write_text(
        "- dataset: {id: cais/hle, task_id: default}\n  value: 20.9\n"
    )
    (results / "x" / ".eval_results" / "broken.yaml").write_text("just words")
    run = mera("leaderboard", results)
    assert run.status == 0 and run.err.count("left out: ") == 3
    assert "the section `dataset` is missing" in run.err and "no results of mera-hf/diabetes130-next-visit" in run.err
    assert "1. a" in run.out


def test_folders_in_one_another_are_read_once(results):
    once, twice = read_boards([results])[0], read_boards([results, results / "a"])[0]
    assert [names(board) for board in once] == [names(board) for board in twice]


def test_the_order_of_the_folders_does_not_matter(results):
    one, other = (read_boards([results / name for name in order])[0] for order in ("abc", "cba"))
    assert [sorted(names(board)) for board in one] == [sorted(names(board)) for board in other]


def test_nothing_to_show(tmp_path):
    with pytest.raises(InputError, match="no results in"):
        read_boards([tmp_path])
    with pytest.raises(InputError, match="is not a folder"):
        read_boards([tmp_path / "nowhere"])


def test_the_page_is_complete_in_itself(results):
    class Page(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags = []

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            assert tag not in ("script", "link", "img") and not {"src", "href"} & dict(attributes).keys()

    (results / "<b>").mkdir()
    put(results / "<b>", metrics_dict())
    boards = read_boards([results])[0]
    text = boards_html(boards)
    page = Page()
    page.feed(text)
    assert page.tags.count("table") == 2 and page.tags.count("tr") == 2 + sum(len(board.entries) for board in boards)
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert "color-scheme: light dark" in text


def test_the_command_writes_both_forms_and_replaces_nothing(results, tmp_path):
    for name in ("board.md", "board.html"):
        output = tmp_path / "out" / name
        assert mera("leaderboard", results, "--output", output).status == 0
        again = mera("leaderboard", results, "--output", output)
        assert again.status == 2 and "add `--overwrite`" in again.err
        assert mera("leaderboard", results, "--output", output, "--overwrite").status == 0
    assert (tmp_path / "out" / "board.md").read_text() == boards_markdown(read_boards([results])[0])
    assert "neither Markdown nor HTML" in mera("leaderboard", results, "--output", tmp_path / "board.csv").err
