"""The report with every section, and the page that compares rankers."""

import base64
import copy
import json
import re
from pathlib import Path

import pytest
from full_metrics import comparison_report, full_metrics, full_report
from html_pages import Page

from mera_hf.evaluation.figures import format_figure, spread
from mera_hf.evaluation.plots.style import COLORS, looks_of
from mera_hf.report import render_comparison, render_report
from mera_hf.report.comparisons import comparison_sentence
from mera_hf.report.page import TEMPLATES, report_sections


pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

# Sections in the order of the page
CONTENTS = [
    *("rankers", "quality", "findings", "intervals", "strata", "fairness", "coarse", "distance", "heart_failure"),
    *("calibration", "coverage", "severity", "controls", "comparisons", "set_sizes", "patient", "run", "limits"),
]


@pytest.fixture(scope="module")
def metrics():
    return full_metrics()


@pytest.fixture(scope="module")
def page():
    return render_report(full_report())


@pytest.fixture(scope="module")
def read(page):
    return Page(page)


@pytest.fixture(scope="module")
def comparison():
    return render_comparison(comparison_report())


@pytest.fixture(params=["page", "comparison"])
def any_page(request):
    return request.getfixturevalue(request.param)


def percent(*values):
    return [format_figure("recall@20", value) for value in values]


def between(value, interval):
    return "{} ({}–{})".format(*percent(value, *interval))


def test_pages_load_nothing(any_page):
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", any_page.replace("// ", ""))
    for tag, name, value in Page(any_page).attributes:
        assert tag not in ("link", "img", "iframe", "object")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:application/json;base64,"))


def test_ids_are_unique_and_links_lead_somewhere(any_page):
    page = Page(any_page)
    assert len(page.ids) == len(set(page.ids))
    targets = [value[1:] for _, name, value in page.attributes if name.endswith("href") and value.startswith("#")]
    labels = [value for _, name, value in page.attributes if name == "aria-labelledby"]
    assert set(targets + labels) <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", any_page)) <= set(page.ids)


def test_every_picture_has_an_alternative_text(any_page):
    page = Page(any_page)
    assert len(page.alternatives) == any_page.count("<svg") == len(set(page.alternatives))
    assert all(len(text) > 40 for text in page.alternatives)


def test_every_table_has_a_caption_and_scopes(any_page):
    assert any_page.count("<table") == any_page.count("<caption>") == len(Page(any_page).tables)
    assert "<th>" not in any_page
    assert 'lang="en"' in any_page and 'name="viewport"' in any_page


def test_all_sections_are_there_in_order(read):
    contents = [value[1:] for tag, name, value in read.attributes if (tag, name) == ("a", "href") and value[0] == "#"]
    assert contents[1:] == CONTENTS  # the first skips to the content
    assert [section.name for section in report_sections(full_report())] == CONTENTS


def test_the_download_is_the_metrics_and_nothing_more(read, metrics):
    (link,) = [value for _, name, value in read.attributes if name == "href" and value.startswith("data:")]
    assert json.loads(base64.b64decode(link.split(",")[1])) == metrics


def test_more_measures(read, metrics):
    rows = read.tables["More measures of the same rankings, percent"]
    wanted = ("ndcg@20", "map", "precision@10", "macro_f1", "micro_f1_eov")
    for row, name in zip(rows[1:], metrics["rankers"], strict=True):
        shown = dict(zip(rows[0], row, strict=True))
        headings = ("nDCG@20", "MAP", "P@10", "macro F1", "micro F1 of set")
        assert [shown[heading] for heading in headings] == percent(*(metrics["rankers"][name][m] for m in wanted))


def test_intervals(read, metrics):
    figures, pairs = metrics["rankers"]["mera"], metrics["intervals"]["mera"]
    for caption, metric, heading in (
        ("Figures and 95 % intervals from drawing the patients anew (bootstrap), percent", "recall@20", "R@20"),
        (
            "Figures and 95 % intervals from drawing the patients anew (bootstrap), percent",
            "weighted_f1_eov",
            "w-F1 of set",
        ),
        ("Intervals of more measures, percent", "map", "MAP"),
    ):
        headings, row = read.tables[caption]
        assert dict(zip(headings, row, strict=True))[heading] == between(figures[metric], pairs[metric])


def test_strata_show_all_rankers_and_what_was_too_small(read, metrics):
    tables = [rows for rows in read.tables.values() if rows[0][0] == "stratum"]
    (race,) = [rows for rows in tables if "Caucasian" in [row[0] for row in rows] and len(rows[0]) == 9]
    assert race[0] == [
        "stratum",
        "patients",
        "true codes",
        "MERA",
        "prevalence",
        "copy history",
        "ridge",
        "logistic",
        "GRU",
    ]
    rows = {row[0]: row[1:] for row in race}
    other = metrics["strata"]["race"]["Other"]
    figures = [entry["recall@20"] for entry in other["rankers"].values()]
    assert rows["Other"] == [
        f"{other['patients']:,}",
        f"{other['true_codes']:,}",
        between(figures[0], other["intervals"]["mera"]["recall@20"]),
        *percent(*figures[1:]),
    ]
    assert rows["Asian"] == ["< 10", "–", "too few", *["–"] * 5]
    assert any("Asian: too few to measure" in text for text in read.alternatives)
    assert any(rows[7][0] == "390-459 Diseases Of The Circulatory System" for rows in tables if len(rows) > 7)


def test_the_plot_of_a_stratification_has_the_best_other_reference(read, metrics):
    others = ("prevalence", "ridge", "logistic", "gru")
    best = max(others, key=lambda name: metrics["rankers"][name]["recall@20"])
    female = {name: entry["recall@20"] for name, entry in metrics["strata"]["sex"]["female"]["rankers"].items()}
    title = {"gru": "GRU"}.get(best, best)
    told = "female: MERA {}, copy history {}, ".format(*percent(female["mera"], female["copy_history"]))
    assert any(told + f"{title} {percent(female[best])[0]};" in text for text in read.alternatives)


def test_fairness(read, metrics):
    rows = {row[0]: row[1:] for row in read.tables["Largest gaps between groups of patients, MERA, points of percent"]}
    gap = metrics["fairness"]["sex"]["recall@20"]
    half = gap["held_out"]

    def ends(pair):
        return " to ".join(f"{100 * end:+.1f}".replace("-", "\u2212") for end in pair)

    assert rows["Sex, R@20"] == [
        f"{gap['best']}, {gap['worst']}",
        f"{percent(gap['gap'])[0]} ({ends(gap['interval'])})",
        f"{half['best']}, {half['worst']}",
        f"{100 * half['difference']:+.1f} ({ends(half['interval'])})",
    ]


def test_coarse_labels_distance_and_heart_failure(read, metrics):
    coarse = read.tables["Rankings of groups of codes, by the summed probabilities of their codes, percent"]
    place = coarse.index(["CCS group, 241 groups; 8 true codes without a group left out"])
    mera = metrics["coarse"]["ccs"]["rankers"]["mera"]
    assert coarse[0] == ["ranker", "R@5", "R@10", "R@20", "w-F1"]
    assert coarse[place + 1] == ["MERA", *percent(*mera.values())]
    place = coarse.index(["Chapter, 18 groups"])
    assert coarse[place + 1][3] == "–"  # no 20 groups to rank

    distance = read.tables["Wrong codes by what they share with a true code, percent of them"]
    for title, entry in (
        ("As many codes as are true", metrics["distance"]["mera"]),
        ("The set that the ranker chose", metrics["distance"]["mera"]["eov"]),
    ):
        row = distance[distance.index([title]) + 1]
        shares = [entry[key] for key in ("same_category", "same_block", "same_chapter", "other_chapter")]
        assert row == ["MERA", f"{entry['wrong_codes']:,}", f"{entry['mean']:.2f}", *percent(*shares)]

    heart = read.tables["Heart failure at the next visit, percent"]
    figures, pairs = metrics["heart_failure"]["rankers"]["mera"], metrics["heart_failure"]["intervals"]["mera"]
    assert heart[1] == ["MERA", between(figures["auc"], pairs["auc"]), between(figures["f1"], pairs["f1"])]
    assert "641 of 3,356 patients" in read.text


def test_calibration_coverage_and_severity(read, metrics):
    section = metrics["calibration"]
    first = read.tables["Calibration errors, percent"][1]
    parts = (section["codes"]["first"], section["codes"])
    assert first[1:] == [f"{100 * part[key]:.2f}" for part in parts for key in ("ece", "brier")]
    coverage = read.tables["Conformal sets, percent"][2]
    assert coverage[1] == "90" and coverage[2].startswith(percent(section["conformal"]["codes"]["0.9"]["reached"])[0])
    severity = read.tables["Rank correlations (Spearman) of what the model says, with 95 % intervals"]
    rho = section["severity"]["correlations"]["set_size"]["charlson"]["rho"]
    (charlson,) = [row for row in severity if row[0] == "Charlson score"]
    assert charlson[2].startswith(f"{rho:.2f} (")
    assert (
        sum(text.startswith(("Reliability", "Expected against", "Line plot of codes")) for text in read.alternatives)
        == 3
    )


def test_comparisons(read, metrics):
    rows = read.tables["Paired differences on the same patients, points of percent"]
    first = metrics["comparisons"][0]
    place = rows.index(["MERA minus copy history"])
    low, high = (f"{100 * end:+.1f}" for end in first["interval"])
    assert rows[place + 1] == ["R@10", f"{100 * first['difference']:+.1f}", f"{low} to {high}", "< 0.001", "< 0.001"]
    assert rows[rows.index(["MERA minus GRU"]) + 1][3:] == ["0.431", "0.862"]


def test_findings_say_what_to_turn_and_none_is_said_too(read, metrics):
    (finding,) = metrics["findings"]
    assert all(text in read.text for text in ("Poor head", finding["says"], finding["knob"]))
    assert "None recognised" in render_report({"metrics": small(metrics) | {"findings": []}})


def test_controls_say_what_they_would_mean(read, metrics):
    rows = {row[0]: row[1:] for row in read.tables["MERA and its controls, percent"]}
    keys = ("weighted_f1", "weighted_f1_eov", "recall@10", "recall@20", "new_recall@20")
    control = metrics["controls"]["shuffled_history"]
    assert rows["MERA, histories shuffled"] == percent(*(control[key] for key in keys))
    assert "hardly depends on the history: it has not learned" in read.text  # what it would mean
    assert "What it loses, it had from the patient's own profile." in read.text


def test_heart_failure_that_was_not_measured_says_why(metrics):
    skipped = {"skipped": "< 10 patients with heart failure at the visit to be predicted"}
    text = Page(render_report({"metrics": small(metrics) | {"heart_failure": skipped}})).text
    assert "Not measured: < 10 patients with heart failure" in text


def small(metrics):
    """Few plots, so that many pages take little time."""
    metrics = copy.deepcopy(metrics)
    metrics["strata"] = {"race": metrics["strata"]["race"]}
    metrics["comparisons"] = metrics["comparisons"][:2]
    return metrics


def without(value, key):
    if isinstance(value, dict):
        return {name: without(each, key) for name, each in value.items() if name != key}
    return [without(each, key) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "missing",
    [
        ("groups", "same_block", "auc", "best", "shuffled_history"),
        ("true_codes", "true_codes_without", "mean", "f1", "held_out"),
        ("intervals", "wrong_codes", "patients_with", "interval"),
        ("copy_history", "gap", "eov"),
        ("rankers", "difference"),
    ],
    ids="-".join,
)
def test_keys_may_be_missing_inside_sections(metrics, missing):
    sections = ("strata", "fairness", "coarse", "distance", "heart_failure", "controls")
    lacking = {section: small(metrics)[section] for section in sections}
    for key in missing:
        lacking = {section: without(content, key) for section, content in lacking.items()}
    assert Page(render_report({"metrics": metrics | lacking})).tables


def test_sections_may_be_missing(metrics):
    needed = ("dataset", "protocol", "rankers", "controls", "run")
    page = Page(render_report({"metrics": {key: metrics[key] for key in needed} | {"controls": {}}}))
    assert [name for name in CONTENTS if name in page.ids] == ["rankers", "quality", "run", "limits"]


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "model_cards").rglob("metrics.json")),
    ids=lambda path: path.parent.name,
)
def test_metrics_of_earlier_versions_become_pages(path):
    assert (
        "All rankers on the same patients, percent"
        in Page(render_report({"metrics": json.loads(path.read_text())})).tables
    )


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_texts_have_contrast_in_light_and_dark():
    style = (TEMPLATES / "style.css.jinja").read_text(encoding="utf-8")
    light, dark, print_ = (
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    assert {name: light[name] for name in COLORS} == COLORS
    for colors in (light, dark, light | print_):
        for name in ("ink", "muted", "accent", "warm", "teal", "purple", "good"):
            for ground in ("paper", "panel"):
                a, b = sorted((luminance(colors[name]), luminance(colors[ground])))
                assert (b + 0.05) / (a + 0.05) >= 4.5, (name, ground, colors[name])


def test_rankers_under_names_of_their_own_look_different():
    looks = looks_of(["mera", "copy_history", "gru", "a", "b", "c"])
    seen = [(look["color"], look["marker"]) for look in looks.values()]
    assert len(set(seen)) == len(seen)
    assert looks_of(["a", "gru"])["a"] == looks["mera"] | {"linewidth": looks["a"]["linewidth"]}


def test_the_comparison_shows_every_ranker_and_difference(comparison):
    report = comparison_report()["metrics"]
    page = Page(comparison)
    rows = page.tables["All rankers on the same patients, percent"]
    assert [row[0] for row in rows[1:]] == [
        *("hierarchy-all", "hierarchy-none", "runs/memorized-and-ranked", "copy history", "GRU")
    ]
    shown = dict(zip(rows[0], rows[1], strict=True))
    assert shown["R@20"] == format_figure("recall@20", report["rankers"]["hierarchy-all"]["recall@20"])
    assert "±" in shown["R@20"]
    differences = page.tables["Paired differences on the same patients, points of percent"]
    assert [row for row in differences if len(row) == 1] == [
        [f"hierarchy-all minus {name}"]
        for name in ("hierarchy-none", "runs/memorized-and-ranked", "copy history", "GRU")
    ]
    assert sum(text.startswith("Forest plot") for text in page.alternatives) == 2


def test_the_comparison_says_which_lead_may_be_chance():
    report = comparison_report()["metrics"]
    told = comparison_sentence(report)
    assert told.startswith("hierarchy-all finds most: ")
    assert told.endswith("Its lead may be chance over hierarchy-none, runs/memorized-and-ranked.")
    alone = {key: value for key, value in report.items() if key != "comparisons"}
    assert "chance" not in comparison_sentence(alone)


def test_a_comparison_needs_neither_curves_nor_differences():
    page = Page(render_comparison({"metrics": without(comparison_report()["metrics"], "comparisons")}))
    assert len(page.alternatives) == 1 and "comparisons" not in page.ids


def of_two_seeds(value):
    """A breakdown as `merge_metrics` leaves it: spreads instead of fractions, no intervals, no groups that seeds differ in."""
    if isinstance(value, dict):
        dropped = ("interval", "intervals", "best", "worst")
        return {key: of_two_seeds(each) for key, each in value.items() if key not in dropped}
    return spread([value, value * 0.99]) if isinstance(value, float) else value


def test_breakdowns_of_several_seeds_are_shown_as_spreads(metrics):
    sections = ("rankers", "strata", "fairness", "coarse", "distance", "heart_failure")
    merged = {section: of_two_seeds(small(metrics)[section]) for section in sections}
    needed = {key: metrics[key] for key in ("dataset", "protocol", "run")} | {"controls": {}}
    page = Page(render_report({"metrics": needed | merged}))
    value = merged["coarse"]["ccs"]["rankers"]["mera"]["weighted_f1"]
    table = page.tables["Rankings of groups of codes, by the summed probabilities of their codes, percent"]
    assert format_figure("weighted_f1", value) in [row[-1] for row in table] and "±" in format_figure(
        "weighted_f1", value
    )
    assert [name for name in sections[1:] if name in page.ids] == list(sections[1:])
