"""The page in a real browser: a person types visits, sees a ranking and its cut, moves it, and asks why."""

import json
import logging
import os
import re
import shutil
import threading

import pytest
from tiny import CODES

from mera_hf.app.codes import Codes
from mera_hf.app.launching import launch
from mera_hf.app.reading import ChosenCut, ranked, read
from mera_hf.app.views import percent


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1366, "height": 900}
SLOW = 60_000  # milliseconds that the page may take on a busy machine
OUTSIDE = """[...document.querySelectorAll("h1, h2, button, input, label, .chance, .name, .line")].filter((part) => {
  const box = part.getBoundingClientRect();
  return box.width && (box.left < -1 || box.right > innerWidth + 1);
}).map((part) => part.outerHTML.slice(0, 120))"""
# What lies over the list of codes found, at points all over it that the window shows
COVERED = """(() => {
  const list = document.querySelector("#found-1"), box = list.getBoundingClientRect(), over = [];
  for (let x = box.left + 4; x < box.right - 4; x += 9)
    for (let y = box.top + 4; y < Math.min(box.bottom, innerHeight) - 4; y += 9) {
      const top = document.elementFromPoint(x, y);
      if (!list.contains(top)) over.push(top.outerHTML.slice(0, 80));
    }
  return over;
})()"""


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(plain, weighed, folder, tmp_path_factory):
    """Addresses of two pages: of a checkpoint with known coverage and stored patients, and of one that weighs its codes."""
    kept = tmp_path_factory.mktemp("kept")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(kept)
    pages = {"plain": launch("tiny", *plain, dataset=folder), "weighed": launch("tiny", *weighed)}
    yield {name: page.local_url for name, page in pages.items()}
    for page in pages.values():
        page.close(verbose=False)
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]
    else:
        os.environ["GRADIO_TEMP_DIR"] = before
    assert not [path for path in kept.rglob("*") if path.is_file()], "what was entered was written to a file"


@pytest.fixture
def visit(chromium, served):
    """Opens a page; at the end nothing may have gone wrong in it, and nothing may have been asked of another machine."""
    opened = []

    def open_page(name="plain", size=DESK, scheme="light"):
        context = chromium.new_context(
            viewport=size, color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"]
        )
        page = context.new_page()
        page.set_default_timeout(SLOW)
        said, asked = [], []
        page.on("console", lambda message: said.append((message.type, message.text)))
        page.on("pageerror", lambda error: said.append(("error", str(error))))
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        opened.append((context, said, asked, served[name]))
        page.goto(served[name])
        page.wait_for_selector("#search-1")
        return page

    yield open_page
    for context, said, asked, home in opened:
        context.close()
        assert [entry for entry in said if entry[0] in ("error", "warning")] == []
        assert asked and all(address.startswith((home, "data:", "blob:")) for address in asked)


def codes_of(page, number):
    """The codes of a visit as they stand on the page."""
    return page.locator(f"[data-do=remove-code][data-visit='{number}']").evaluate_all(
        "all => all.map(b => b.dataset.code)"
    )


def add(page, number, typed):
    """Type into the search of a visit that has the keyboard, take the first code found, and wait for it."""
    before = len(codes_of(page, number))
    page.keyboard.type(typed)
    page.wait_for_selector(f"#found-{number} [role=option][aria-selected=true]")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "([number, count]) => document.querySelectorAll(`[data-do=remove-code][data-visit='${number}']`).length === count",
        arg=[number, before + 1],
    )


def focused(page):
    return page.evaluate("document.activeElement.id")


def tab_to(page, selector, back=False):
    """Press Tab until something has the keyboard."""
    for _ in range(80):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    raise AssertionError(f"the keyboard does not reach {selector}")


def enter_two_visits(page):
    page.focus("#search-1")
    add(page, 1, "heart fail")
    add(page, 1, "4019")
    page.click("[data-do=add-visit]")
    page.wait_for_function("document.activeElement.id === 'search-2'")
    add(page, 2, "kidney")
    wait_for_ranking(page, [["ICD9CM:428.0", "ICD9CM:401.9"], codes_of(page, 2)])


def record(page):
    return json.loads(page.get_attribute(".ranking", "data-record"))


def wait_for_ranking(page, visits):
    page.wait_for_function(
        "visits => JSON.stringify(JSON.parse(document.querySelector('.ranking')?.dataset.record ?? '{}').visits)"
        " === JSON.stringify(visits)",
        arg=visits,
    )


def shown_set(page):
    """Ranks above the line, and what the line says."""
    kinds = page.locator(".rows > li").evaluate_all("all => all.map(li => li.classList.contains('line'))")
    return kinds.index(True), page.inner_text(".rows > .line")


def test_two_visits_a_ranking_and_a_cut_that_moves(visit, weighed):
    model, tokenizer = weighed
    page = visit("weighed")
    assert "No visit yet" in page.inner_text("#next") and page.locator(".cut").count() == 0
    enter_two_visits(page)
    told = record(page)
    row = {"profile": told["profile"], "visits": [{"codes": codes} for codes in told["visits"]]}
    assert row["profile"] == {"sex": None, "age": None, "race": None}
    reading = read(model, tokenizer, row)
    fitted = ranked(model, reading, ChosenCut(), 10)

    assert page.locator(".ranked .chance").all_text_contents() == [percent(row.probability) for row in fitted.rows]
    assert page.locator(".ranked button").evaluate_all("all => all.map(b => b.dataset.code)") == [
        row.code for row in fitted.rows
    ]
    assert shown_set(page) == (fitted.size, f"EOV\nthe {fitted.size} codes above are the predicted set")
    assert 1 < fitted.size < 10

    # Down: more codes come in, and Python and the page agree on which
    sizes = [fitted.size]
    page.focus("#cut-at")
    for key, presses in (("PageDown", 3), ("PageDown", 4), ("ArrowRight", 3), ("End", 1)):
        for _ in range(presses):
            page.keyboard.press(key)
        value = float(page.input_value("#cut-at"))
        page.wait_for_function(
            "value => Math.abs(JSON.parse(document.querySelector('.ranking').dataset.record).eov_value - value) < 1e-9",
            arg=value,
        )
        expected = ranked(model, reading, ChosenCut(value), 10)
        size, words = shown_set(page)
        assert size == expected.size and words.startswith("Your cut")
        assert page.locator(".ranked.in").count() == size == page.locator(".tick.in").count()
        assert page.inner_text(".ranking h2").startswith(f"{size} code")
        sizes.append(size)
    assert sizes[1] > sizes[0] and sizes[-1] == 0 and len(set(sizes)) > 2
    assert "no code is likely enough" in page.inner_text(".rows > .line")

    page.click(".eov")
    page.wait_for_function("document.querySelector('.rows > .line b').textContent === 'EOV'")
    assert shown_set(page)[0] == fitted.size and record(page)["eov_value"] == model.config.eov_value


def test_the_hand_moves_the_cut(visit):
    page = visit()
    enter_two_visits(page)
    box, before = page.locator("#cut-at").bounding_box(), shown_set(page)[0]
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.5 * box["width"], y)
    page.mouse.down()
    for share in (0.7, 0.9, 0.97):
        page.mouse.move(box["x"] + share * box["width"], y)
    page.mouse.up()
    page.wait_for_function("size => document.querySelectorAll('.ranked.in').length < size", arg=before)
    assert shown_set(page)[1].startswith("Your cut")


def test_what_a_person_does_while_the_model_runs_stays(visit, monkeypatch):
    go = threading.Event()

    def slow(*arguments):
        assert go.wait(SLOW / 1000)
        return read(*arguments)

    page = visit()
    enter_two_visits(page)
    first, second = codes_of(page, 1), codes_of(page, 2)
    monkeypatch.setattr("mera_hf.app.page.read", slow)
    page.focus("#search-2")
    add(page, 2, "486")
    # While the model runs, the ranking is that of before, and what is done to it is done to the next one as well
    page.focus("#cut-at")
    page.keyboard.press("End")
    page.wait_for_function("document.querySelectorAll('.ranked.in').length === 0")
    page.locator(".ranked button").nth(4).click()
    page.wait_for_selector(".ranked:nth-of-type(6) [aria-pressed=true]")
    chosen = page.get_attribute(".ranked [aria-pressed=true]", "data-code")
    assert record(page)["visits"] == [first, second]
    at = float(page.input_value("#cut-at"))
    go.set()
    wait_for_ranking(page, [first, [*second, "ICD9CM:486"]])
    page.wait_for_function(
        "code => document.querySelector('.of-code h2 .code').textContent === code", arg=chosen.split(":")[1]
    )
    assert record(page)["eov_value"] == pytest.approx(at) == pytest.approx(float(page.input_value("#cut-at")))
    assert page.get_attribute(".ranked [aria-pressed=true]", "data-code") == chosen
    assert shown_set(page)[1].startswith("Your cut")


def test_the_keyboard_alone_does_it_all(visit):
    page = visit()
    tab_to(page, "#search-1")
    add(page, 1, "heart fail")
    # The list: down and up, and away without taking anything
    page.keyboard.type("250")
    page.wait_for_selector("#found-1 [role=option] >> nth=2")
    options = page.locator("#found-1 [role=option]")
    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert options.nth(place).get_attribute("aria-selected") == "true"
        assert page.get_attribute("#search-1", "aria-activedescendant") == f"found-1-{place}"
    page.keyboard.press("Escape")
    assert page.get_attribute("#search-1", "aria-expanded") == "false" and options.count() == 0
    for _ in "250":
        page.keyboard.press("Backspace")
    add(page, 1, "4019")
    assert focused(page) == "search-1" and page.input_value("#search-1") == ""
    page.keyboard.press("Backspace")  # takes the last code away
    page.wait_for_function("document.querySelectorAll('[data-do=remove-code]').length === 1")

    tab_to(page, "[data-do=add-visit]")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'search-2'")
    add(page, 2, "584")
    wait_for_ranking(page, [["ICD9CM:428.0"], ["ICD9CM:584.9"]])
    tab_to(page, "#earlier-2", back=True)
    page.keyboard.press("Space")
    page.wait_for_function("document.activeElement.id === 'later-1'")  # it went along, and is the first now
    wait_for_ranking(page, [["ICD9CM:584.9"], ["ICD9CM:428.0"]])

    tab_to(page, "#cut-at")
    before = shown_set(page)[0]
    page.keyboard.press("End")
    page.wait_for_function("size => document.querySelectorAll('.ranked.in').length !== size", arg=before)
    tab_to(page, ".ranked button[aria-pressed=false]")
    code = page.evaluate("document.activeElement.dataset.code")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "code => document.querySelector('.of-code h2 .code').textContent === code.split(':')[1]", arg=code
    )
    assert page.get_attribute(f".ranked [data-code='{code}']", "aria-pressed") == "true"
    assert page.evaluate("document.activeElement.dataset.code") == code, "the keyboard stays in the ranking"


def test_enter_takes_what_was_typed_and_not_what_was_found_before(visit, monkeypatch):
    page, go, found = visit(), threading.Event(), Codes.find

    def slow(self, query):
        assert query != "4019" or go.wait(SLOW / 1000)
        return found(self, query)

    monkeypatch.setattr(Codes, "find", slow)
    page.focus("#search-1")
    page.keyboard.type("401")
    page.wait_for_selector("#found-1 [role=option][aria-selected=true]")
    assert page.get_attribute("#found-1 [aria-selected=true]", "data-code") != "ICD9CM:401.9"
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    go.set()
    wait_for_ranking(page, [["ICD9CM:401.9"]])
    assert page.input_value("#search-1") == "" and page.locator("#found-1 [role=option]").count() == 0


def test_visits_are_changed_by_hand(visit):
    page = visit()
    enter_two_visits(page)
    first, second = codes_of(page, 1), codes_of(page, 2)
    page.click("#later-1")
    wait_for_ranking(page, [second, first])
    page.click("#code-2-1")
    wait_for_ranking(page, [second, first[1:]])
    # A code from the list by the mouse
    page.fill("#search-1", "pneum")
    page.click("#found-1 [role=option]")
    wait_for_ranking(page, [[*second, "ICD9CM:486"], first[1:]])
    page.get_by_role("button", name="Remove visit 1").click()
    wait_for_ranking(page, [first[1:]])
    page.click("#code-1-1")
    page.wait_for_selector(".empty")
    page.wait_for_function("!document.querySelector('.cut, .of-code')")
    page.fill("#search-1", "quinsy")
    page.wait_for_selector("#found-1 .none")
    assert "No code of this model fits" in page.inner_text("#found-1")


def test_profile_coverage_and_length(visit, plain):
    model, tokenizer = plain
    page = visit()
    enter_two_visits(page)
    visits = [{"codes": codes} for codes in record(page)["visits"]]
    before = page.locator(".ranked .chance").all_inner_texts()
    page.get_by_label("Female", exact=True).check()
    page.wait_for_function("JSON.parse(document.querySelector('.ranking').dataset.record).profile.sex === 'F'")
    page.get_by_label("Age at the first visit").click()
    page.get_by_role("option", name="70 to 79").click()
    page.wait_for_function("JSON.parse(document.querySelector('.ranking').dataset.record).profile.age === 70")
    assert page.locator(".ranked .chance").all_inner_texts() != before
    reading = read(model, tokenizer, {"profile": record(page)["profile"], "visits": visits})

    for level, of in ((0.8, "codes"), (0.9, "codes"), (0.9, "visits")):
        if of == "visits":
            page.get_by_label("whole visits").check()
        else:
            page.get_by_label(percent(level, 0)).check()
        page.wait_for_function(
            "([level, of]) => { const told = JSON.parse(document.querySelector('.ranking').dataset.record);"
            " return told.coverage === level && told.coverage_of === of; }",
            arg=[level, of],
        )
        size = ranked(model, reading, ChosenCut(coverage=level, coverage_of=of), 10).size
        assert page.inner_text(".ranking h2").startswith(f"{size} code")
        assert page.locator(".cut").count() == 0, "there is no cut to move"
    page.get_by_label("EOV", exact=True).check()
    page.wait_for_selector(".cut")

    assert page.locator(".ranked").count() == 10
    assert page.get_by_label("whole visits").count() == 0


def test_a_stored_patient_with_what_was_recorded(visit, folder):
    from mera_hf.app.stored_patients import StoredPatients

    stored = StoredPatients(folder, public=False)
    page = visit()
    for number, button in ((1, "Load"), (2, "Next")):
        page.get_by_role("button", name=button, exact=True).click()
        patient, profile, _ = stored.open(number, set(CODES))
        wait_for_ranking(page, [list(codes) for codes in patient.visits])
        told = record(page)
        assert told["profile"]["sex"] == profile["sex"] and told["profile"]["race"] == profile["race"]
        assert told["profile"]["age"] == profile["age"] // 10 * 10  # models read the decade
        codes = "code" if len(patient.recorded) == 1 else "codes"
        assert f"recorded at the next visit: {len(patient.recorded)} {codes}" in page.inner_text(".ranking")
        marked = page.locator(".ranked:has(.was) button").evaluate_all("all => all.map(b => b.dataset.code)")
        ranking = [row["code"] for row in told["ranking"]]
        assert marked == [code for code in ranking if code in patient.recorded]
    page.focus("#search-1")
    add(page, 1, next(code for code in CODES if code not in patient.visits[0]))
    page.wait_for_function("!document.querySelector('.ranking').textContent.includes('recorded')")


def test_reasons_tree_and_siblings(visit, plain):
    model, tokenizer = plain
    page = visit()
    enter_two_visits(page)
    page.wait_for_selector(".of-code")
    code = "ICD9CM:428.0"
    page.click(f".ranked [data-code='{code}']")
    page.wait_for_function("document.querySelector('.of-code h2 .code').textContent === '428.0'")
    told = record(page)
    row = {"profile": told["profile"], "visits": [{"codes": codes} for codes in told["visits"]]}
    (of,) = model.explain(row, tokenizer, codes=[code]).codes
    reasons = page.inner_text(".of-code")
    assert f"Rank {of.rank}" in reasons and "What moved it" in reasons and "Visit 1" in reasons
    for group in of.path:
        assert f"{group.expected_codes:.2f}" in page.inner_text(".tree")
    page.click(".siblings [data-code='ICD9CM:428.1']")
    page.wait_for_function("document.querySelector('.of-code h2 .code').textContent === '428.1'")


def test_the_table_is_copied_and_the_record_saved(visit):
    page = visit()
    enter_two_visits(page)
    told = record(page)
    page.get_by_role("button", name="Copy table").click()
    page.get_by_text("Copied").first.wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0].split("\t") == list(told["ranking"][0])
    assert [line.split("\t")[1] for line in lines[1:]] == [row["code"] for row in told["ranking"]]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as JSON").click()
    assert json.loads(download.value.path().read_text()) == told
    assert download.value.suggested_filename == "mera-ranking.json"


def test_nothing_that_is_entered_is_logged_or_kept(visit, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    page = visit()
    enter_two_visits(page)
    out = "\n".join([*capfd.readouterr(), caplog.text])
    assert not re.search(r"428|401\.9|heart", out)
    kept = page.evaluate(
        "async () => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie,"
        " (await indexedDB.databases()).map(base => base.name)])"
    )
    assert "428" not in kept and "heart" not in kept
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".empty", timeout=SLOW)
    assert codes_of(other, 1) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_fits_a_phone_and_a_desk_in_light_and_dark(visit, size, scheme):
    page = visit("plain", size, scheme)
    assert page.inner_text("[role=note]").startswith("For research, not for clinical decisions.")
    enter_two_visits(page)
    page.wait_for_selector(".of-code")
    page.focus("#search-1")
    page.keyboard.type("4")
    page.wait_for_selector("#found-1 [role=option]")
    assert page.evaluate(COVERED) == [], "something lies over the codes found"
    page.keyboard.press("Escape")
    page.keyboard.press("Backspace")
    for _ in ("EOV", "coverage"):
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(OUTSIDE) == []
        page.get_by_label(percent(0.9, 0)).check()
        page.get_by_label("whole visits").wait_for()
    page.get_by_label("EOV", exact=True).check()
    page.wait_for_selector(".cut")
    ground = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(ground)
    assert (first == "rgb(255, 255, 255)") is (scheme == "light")
    page.click("#theme")
    assert page.evaluate(ground) != first
    if size is PHONE:  # the ranking lies below the visits, and the reasons below it: there are ways there and back
        page.click(".to-ranking")
        page.wait_for_function("Math.abs(document.querySelector('#next').getBoundingClientRect().top) < 40")
        page.locator(".ranked button").nth(1).click()
        page.wait_for_function("document.activeElement.matches('.of-code')")
        page.locator("[data-back]").click()
        page.wait_for_function("document.activeElement.matches('.ranked button[aria-pressed=true]')")
