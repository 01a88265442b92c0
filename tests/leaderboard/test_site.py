"""The site in a real browser: from a disk, with the network blocked, as people and screen readers use it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from bench import plugins
from leaderboard import attack_ranking, charts, columns
from leaderboard.attack_ranking import Key, Tally, attacks_of
from leaderboard.charts.chart import LeaderboardChart, Scope, on_base, parts_of
from leaderboard.content import LEVELS, AuditSummary, Board, Entry, Example, Leaderboard, RunSummary, Share, Standing
from leaderboard.doubts import judged
from leaderboard.images import image_data
from leaderboard.ranking import AnsweredRun, ranked
from leaderboard.run_page import RunDetails
from leaderboard.site import write_site
from leaderboard.tables import Column
from tests.conftest import needed
from tests.leaderboard.test_leaderboard import BATTERY, HOSTILE, NOW, OWN, SITE, hostile_pages, line, standings_of


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = needed("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def share(value: float) -> Share:
    return Share(value, max(value - 8, 0), min(value + 8, 100), "Wilson")


def runs_of(entry: Entry, number: int, accuracies: dict[str, float]) -> list[RunSummary]:
    """Runs of one entry by attack."""
    tiers = {"pgd": "train-time", "fgsm": "train-time", "pgd-skip": "aware-full", "pgd-skip-delayed": "aware-realistic"}
    return [
        line(entry, run=f"{number:04x}{i:04x}{'ab' * 28}", attack=attack, tier=tiers[attack], robust=share(value),
             clean=share(95), answer_s=0.01 * (number + 1), n=20,
             times_base=None if entry.defense == HOSTILE else number + 1.0,
             coordinates={"eps": 0.2, **({"p": 4 + 4 * (i % 2), "delay": i} if "skip" in attack else {})})
        for i, (attack, value) in enumerate(accuracies.items())
    ]  # fmt: skip


def leaderboard_of(entries: dict[Entry, dict[str, float]]) -> Leaderboard:
    lines, standings = [], []
    tallies: dict[Key, Tally] = {}
    for number, (entry, accuracies) in enumerate(entries.items()):
        own = runs_of(entry, number, accuracies)
        lines += own
        outcomes = []
        for one in own:
            assert one.robust is not None
            right = {i: i < one.robust.value / 5 for i in range(20)}
            outcomes.append(AnsweredRun(one, right, dict.fromkeys(right, 0)))
        standings += standings_of(entry, outcomes)
        attack_ranking.count(outcomes, tallies)
    audit = AuditSummary("rmc", "", "regular", "digits", "linf", 0.2, "quick", 30, 95.0, ((share(10), "pgd 100%"),) * 4,
                      share(1), 1200.0, FLAGS, "3")  # fmt: skip
    return Leaderboard(lines, judged(ranked(standings), [audit]), [audit], BATTERY, attacks_of(tallies))


FLAGS = (("M3", "it optimises while it answers"), ("S5", "more steps break more"))
NAMES = {
    Entry("1", "regular", "regular", "digits", 0): {"pgd": 0, "fgsm": 10, "pgd-skip": 0},
    Entry("2", "pgd-at", "pgd-at", "digits", 0): {"pgd": 70, "fgsm": 75, "pgd-skip": 70},
    Entry("3", "rmc", "regular", "digits", 0, "k 64"): {"pgd": 95, "pgd-skip": 0, "pgd-skip-delayed": 5},
    Entry("4", "rmc", "regular", "mnist", 0): {"pgd": 99},
    Entry("5", HOSTILE, "regular", "digits", 0, HOSTILE): {"pgd": 50, "pgd-skip": 5},
    Entry("6", "x" * 300, "regular", "digits", 0): {"pgd": 40},
    Entry("7", "\u05d0\u05d1\u05d2 \u202e evil", "regular", "digits", 0): {"pgd": 30},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plugins.load_all()
    root = tmp_path_factory.mktemp("site")
    kinds = ["broken", "survived", "survived", "violation"]
    examples = [
        Example(i, 0, 0, 1, 1, i % 2, kind, 0.1, 0, 40, HOSTILE if kind == "violation" else "")
        for i, kind in enumerate(kinds)
    ]
    examples[0] = replace(examples[0], resent=(0, -1), resent_clean=(1, 1))
    dot = image_data(torch.zeros(1, 1, 1), "", "")["src"]
    image = {"src": dot, "alt": "clean point 3", "caption": "clean", "width": 1, "height": 1}
    page = RunDetails(
        command="bench run --defense rmc --attack pgd", examples=examples, facts=[("commit", "abc"), (HOSTILE, "")],
        gallery=[{"index": 3, "kind": "broken", "words": "label 1, answered 2", "images": [image]}],
        drawings=[{"chart": "running", "title": "Robust accuracy over the stream",
                   "rows": [{"game": "0", "position": i, "accuracy": 50.0} for i in range(9)]}],
    )  # fmt: skip
    write_site(leaderboard_of(NAMES), root, lambda one: page, SITE, "all", now=NOW)
    return root


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, folder: Path) -> Iterator[Open]:
    """Opens a page of the site with the network blocked; at the end nothing may have been said on the console."""
    contexts, said = [], []

    def go(
        place: str = "index.html", fragment: str = "", width: int = 1280, site: Path = folder, before: str = "",
        height: int = 900, **options: Any
    ) -> Page:  # fmt: skip
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else
                      (said.append(f"asked for {route.request.url}"), route.abort()))  # fmt: skip
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.add_init_script(before)
        page.goto((site / place).as_uri() + (f"#{fragment}" if fragment else ""))
        page.wait_for_selector("table.dataTable tbody tr" if place not in OWN else "h1")
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []


def column(page: Page, table: str, title: str) -> list[str]:
    """First lines of the texts of one column as it stands."""
    titles = [header.inner_text().strip() for header in page.query_selector_all(f"#{table} thead th")]
    cells = page.query_selector_all(f"#{table} tbody tr td:nth-child({titles.index(title) + 1})")
    return [cell.inner_text().split("\n")[0] for cell in cells]


def sort_by(page: Page, title: str) -> None:
    """Click on a header of the ranking, and wait until the rows are in order: that comes after the click."""
    header = page.locator(f"#ranking thead th:has-text('{title}')")
    before = header.get_attribute("aria-sort")
    header.click()
    page.wait_for_function(
        "([at, before]) => at.getAttribute('aria-sort') !== before", arg=[header.element_handle(), before]
    )


def level(page: Page) -> str:
    """The level that is chosen."""
    return page.input_value("[name=tier]:checked")


def test_the_overview_ranks_the_fullest_board_by_the_strongest_tier(visit: Open) -> None:
    page = visit()
    assert [page.input_value(f"select[name={name}]") for name in ("dataset", "base")] == ["digits", "all"]
    assert level(page) == "aware-full"
    assert column(page, "ranking", "Rank") == ["1", "2", "3", "3"]
    assert column(page, "ranking", "Defense")[:2] == ["pgd-at", HOSTILE]
    assert column(page, "unranked", "Why it has no rank") == ["it has not met pgd-skip"] * 2
    assert page.inner_text("#over") == "By the worst case over the attacks that all of these met: pgd-skip."
    assert page.locator(".chart:visible canvas").count() >= 3


#: a laptop's window and a telephone's
FIRST_SCREENS = ((1400, 900), (360, 740))


@pytest.mark.parametrize("size", FIRST_SCREENS)
def test_the_first_screen_says_what_is_ranked_who_leads_and_against_whom(visit: Open, size: tuple[int, int]) -> None:
    page = visit(width=size[0], height=size[1])

    def seen(selector: str) -> str:
        """The text of an element that is wholly on the first screen."""
        box = page.locator(selector).first.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= size[0], selector
        assert box["y"] + box["height"] <= size[1], selector
        return page.locator(selector).first.inner_text()

    assert seen("h1").startswith("bench") and "ranked by the share of images" in seen(".lead")
    assert seen("label:has(:checked) .words") == LEVELS["aware-full"].words
    assert [label.split("\n")[0] for label in page.locator(".levels label").all_inner_texts()] == [
        one.name for one in LEVELS.values()
    ]
    first = "#ranking tbody tr:first-child td"
    assert [seen(f"{first}:nth-child({number})") for number in (1, 2)] == ["1", "pgd-at"]
    figure = seen(f"{first}:nth-child(3)").replace("\u2009", " ")
    assert figure.split("\n") == ["70.0 48.1 to 85.5", "n 20, small sample"]
    for title, place in (
        ("Documents", "about.html#documents"), ("Repository", "about.html#repository"),
        ("Add a result", "about.html#add"), ("How to cite", "about.html#cite"), ("Levels", "about.html#levels"),
        ("Flags", "flags.html"),
    ):  # fmt: skip
        seen(f".about a:text-is('{title}')")
        assert page.get_attribute(f".about a:text-is('{title}')", "href") == place


def test_an_address_that_changes_in_an_open_page_is_obeyed(visit: Open) -> None:
    page = visit()
    page.evaluate("location.hash = 'tier=train-time&base=pgd-at'")
    page.wait_for_selector("[value=train-time]:checked")
    assert column(page, "ranking", "Defense") == ["pgd-at"]


def test_menus_change_the_board(visit: Open) -> None:
    page = visit()
    page.check("[value=train-time]")
    assert column(page, "ranking", "Defense")[:2] == ["rmc", "pgd-at"] and column(page, "ranking", "Robust %")[
        0
    ].startswith("95.0")
    page.select_option("select[name=base]", "pgd-at")
    assert column(page, "ranking", "Defense") == ["pgd-at"]
    page.select_option("select[name=dataset]", "mnist")
    assert page.input_value("select[name=base]") == "all" and column(page, "ranking", "Defense") == ["rmc"]


def test_tables_sort_search_hide_and_export(visit: Open) -> None:
    page = visit()
    sort_by(page, "Answers of the base")
    *times, missing = column(page, "ranking", "Answers of the base")
    assert [float(time) for time in times] == [1, 2, 3] and missing == "\u2013"
    sort_by(page, "Answers of the base")  # what has no figure comes last, both ways
    assert column(page, "ranking", "Answers of the base") == ["3", "2", "1", "\u2013"]
    page.fill("#ranking_wrapper .dt-search input", "pgd-at")
    assert column(page, "ranking", "Defense") == ["pgd-at"]
    page.click("#ranking_wrapper button:has-text('Columns')")
    box = page.locator(".dt-button-collection").bounding_box()
    assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= 900, "the menu is wholly in the window"
    page.click(".dt-button-collection button:has-text('Broken by')")
    page.keyboard.press("Escape")
    assert page.locator("#ranking thead th:has-text('Broken by')").count() == 0
    with page.expect_download() as download:
        page.click("#ranking_wrapper button:has-text('CSV')")
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert list(lines[0])[:6] == ["Rank", "Defense", "Base", "Robust %", "Robust % low", "Robust % high"]
    wanted = {"Rank": "1", "Defense": "pgd-at", "Robust %": "70", "Robust % low": "48.103", "Robust % high": "85.452",
              "Trust": "not to be believed", "Clean %": "95", "Clean % high": "100", "Dataset": "digits",
              "Norm": "linf",
              "Radius": "0.2", "The attacker knows": "Adapted weights, now", "Refuses % low": ""}  # fmt: skip
    assert {name: lines[0][name] for name in wanted} == wanted


#: keeps the records that are handed to Vega, by the id of their figure
SPY = """
window.records = {};
Object.defineProperty(window, "vegaEmbed", {
  set(embed) { this.embed = embed; },
  get() {
    return (canvas, spec, options) => {
      window.records[canvas.closest("figure").id] = JSON.parse(JSON.stringify(spec.datasets.rows));
      return this.embed(canvas, spec, options);
    };
  },
});
"""


def test_what_is_drawn_are_the_records_of_the_chart(visit: Open) -> None:
    whole = leaderboard_of(NAMES)
    page = visit(before=SPY)
    board = Board("digits", "linf", 0.2)
    for tier, base in (("aware-full", None), ("train-time", None), ("train-time", "regular"), ("aware-full", "pgd-at")):
        page.evaluate("window.records = {}")
        page.check(f"[value={tier}]")
        page.select_option("select[name=base]", base or "all")
        drawn = page.evaluate("window.records")
        assert {"chart-heatmap", "chart-pareto", "chart-attack-cost"} <= drawn.keys()
        for chart in (chart for chart in charts.LEADERBOARD_CHARTS.values() if "overview" in chart.pages):
            part = parts_of(chart, whole)[Scope(*board, tier if chart.scope == "tier" else "")]
            records = json.loads(json.dumps(chart.records(on_base(part, base))))
            assert page.is_visible(f"#chart-{chart.name}") == bool(records)
            assert not records or drawn[f"chart-{chart.name}"] == records


def test_a_new_column_and_a_new_chart_are_on_the_page(
    visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed: Column[Standing] = Column("key", "Key", "The key of the entry.", lambda one: one.entry.key,
                                    sort=lambda one: -int(one.entry.key))  # fmt: skip
    rare: Column[Standing] = Column("rare", "Rare", HOSTILE, lambda one: HOSTILE, exported=False, shown=False)
    monkeypatch.setitem(columns.TABLES, "ranking", (*columns.RANKING, seed, rare))
    mine = LeaderboardChart(
        name="mine", title=HOSTILE, note="a note", empty="It needs a run.", pages=("overview", "defense"),
        spec=lambda: alt.Chart(alt.Data(name="rows")).mark_bar().encode(x="n:Q", y="attack:N"),
        records=lambda part: [{"attack": run.attack, "n": run.n} for run in part.runs],
    )  # fmt: skip
    monkeypatch.setitem(charts.LEADERBOARD_CHARTS, "mine", mine)
    write_site(leaderboard_of(NAMES), tmp_path, lambda run: RunDetails(), SITE, "0", now=NOW)
    page = visit(site=tmp_path)
    assert page.inner_text("#chart-mine figcaption") == f"{HOSTILE}\na note"
    page.wait_for_selector("#chart-mine canvas")
    assert page.locator("#ranking thead th:has-text('Rare')").count() == 0
    page.hover("#ranking thead th:has-text('Key')")
    assert page.inner_text(".tip") == "The key of the entry."
    sort_by(page, "Key")
    assert column(page, "ranking", "Key") == ["5", "3", "2", "1"]
    with page.expect_download() as download:
        page.click("#ranking_wrapper button:has-text('CSV')")
    head = Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()[0]
    assert head.endswith('"The attacker knows","Key"')
    page.click("#ranking_wrapper button:has-text('Columns')")
    page.click(".dt-button-collection button:has-text('Rare')")
    page.keyboard.press("Escape")
    assert "&ranking.shown=rare&" in page.evaluate("location.hash") + "&"
    again = visit(site=tmp_path, fragment=page.evaluate("location.hash.slice(1)"))
    assert column(again, "ranking", "Rare") == [HOSTILE] * 4
    defense = visit("defenses/pgd-at.html", site=tmp_path)
    assert defense.inner_text("#standings thead th:last-child") == "Key"
    assert defense.locator(".chart:has-text('a') canvas").count() >= 1


def test_columns_without_a_value_on_this_board_are_hidden_until_they_are_chosen(visit: Open) -> None:
    page = visit()
    titles = page.locator("#ranking thead th").all_inner_texts()
    assert "Clean %" in titles and not {"Refuses %", "Published %", "Difference"} & set(titles)
    page.click("#ranking_wrapper button:has-text('Columns')")
    page.click(".dt-button-collection button:has-text('Refuses %')")
    page.click(".dt-button-collection button:has-text('Clean %')")
    page.keyboard.press("Escape")
    assert column(page, "ranking", "Refuses %") == ["\u2013"] * 4
    again = visit(fragment=page.evaluate("location.hash.slice(1)"))
    assert "Refuses %" in (titles := again.locator("#ranking thead th").all_inner_texts()) and "Clean %" not in titles
    page.select_option("select[name=dataset]", "mnist")
    assert page.inner_text("#ranking tbody") == "Nothing here."
    assert {"Rank", "Refuses %"} < set(page.locator("#ranking thead th").all_inner_texts())  # nothing says what to hide
    page.check("[value=train-time]")  # one entry, so no rank; what was chosen stays
    assert "Rank" not in (titles := page.locator("#ranking thead th").all_inner_texts()) and "Refuses %" in titles
    page.evaluate("location.hash = 'dataset=digits'")
    page.wait_for_selector("#ranking thead th:has-text('Rank')")
    assert "Refuses %" not in page.locator("#ranking thead th").all_inner_texts()


def test_an_address_brings_the_same_view(visit: Open) -> None:
    page = visit()
    page.check("[value=train-time]")
    sort_by(page, "Clean %")
    page.fill("#ranking_wrapper .dt-search input", "rmc")
    page.wait_for_function("location.hash.includes('ranking.search=rmc')")
    again = visit(fragment=page.evaluate("location.hash.slice(1)"))
    assert level(again) == "train-time"
    assert again.input_value("#ranking_wrapper .dt-search input") == "rmc" and column(again, "ranking", "Defense") == [
        "rmc"
    ]
    assert again.get_attribute("#ranking thead th:has-text('Clean %')", "aria-sort") == "ascending"
    odd = visit(fragment="tier=nonsense&ranking.order=none.up,rank.up&runs.hidden=99,x&dataset=%3Cscript%3E")
    assert level(odd) == "aware-full" and len(column(odd, "ranking", "Rank")) == 4


def test_the_threat_card_stands_beside_every_number(visit: Open) -> None:
    page = visit()
    card = page.locator("#runs tbody tr td details").first
    assert not card.evaluate("card => card.open")
    card.locator("summary").click()
    assert card.inner_text().split("\n") == ["linf 0.2, p 40", "words"]


def test_hostile_names_stay_text(visit: Open) -> None:
    page = visit()
    assert HOSTILE in page.inner_text("#ranking") and page.locator("#ranking script").count() == 0
    page.click("#ranking a:has-text('alert')")
    page.wait_for_selector("table.dataTable tbody tr")
    assert page.inner_text("h1") == HOSTILE and "/defenses/" in page.url
    run = visit(f"runs/{'0004' + '0000' + 'ab' * 4}.html")
    assert (
        HOSTILE in run.inner_text("main")
        and run.evaluate("document.scripts.length") == 1 + run.locator("script[type='application/json']").count()
    )


def test_hostile_text_in_every_cell_stays_text(visit: Open, tmp_path: Path) -> None:
    #: by page and table: in how many cells of the first row the text stands
    tables = {
        "index.html": {"unranked": 4, "attacks": 2, "audits": 9, "runs": 4}, "defenses": {"standings": 5, "runs": 5},
        "runs": {"examples": 2},
    }  # fmt: skip
    for name in (name for name in hostile_pages(tmp_path) if name not in OWN):
        page = visit(name, site=tmp_path)
        blocks = page.locator("script[type='application/json']").count()
        assert page.evaluate("document.scripts.length") == 1 + blocks and "javascript:" not in page.content()
        for table, count in tables[name.split("/")[0]].items():
            cells = page.locator(f"#{table} tbody tr:first-child > *").all()
            assert len(cells) == page.locator(f"#{table} thead th").count()
            assert sum(HOSTILE in (cell.text_content() or "") for cell in cells) == count, table
    page = visit(site=tmp_path)
    assert page.get_attribute("#runs .interval >> nth=-1", "title") == HOSTILE
    page.hover("#runs button.flag")
    assert page.inner_text(".tip") == HOSTILE
    page.fill("#runs_wrapper .dt-search input", "evil")
    assert column(page, "runs", "Defense") == [HOSTILE]


def test_the_flags_page_is_one_click_from_every_page(visit: Open) -> None:
    page = visit()
    page.click("text=Flags >> nth=0")
    page.wait_for_selector("#M3")
    assert "optimises while it answers" in page.inner_text("#M3")
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    for name in OWN:
        narrow = visit(name, width=360)
        assert narrow.evaluate("document.documentElement.scrollWidth") == 360


def test_the_first_screen_of_a_run_has_verdict_threat_card_and_command(visit: Open) -> None:
    for width, height in FIRST_SCREENS:
        page = visit(f"runs/{'0002' + '0000' + 'ab' * 4}.html", width=width, height=height)
        texts = []
        for selector in (
            ".figure",
            ".figure button.trust",
            "#verdict-title ~ p:last-child",
            "#threat-title ~ p",
            "pre",
        ):
            box = page.locator(f".first {selector}").first.bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width, selector
            assert box["y"] + box["height"] <= height, selector
            texts.append(page.locator(f".first {selector}").first.inner_text())
        figure, trust, words, threat, command = texts
        assert figure.startswith("95.0 % 87.0 to 100.0") and trust == "not to be believed"
        assert words.startswith("Of 20 images of digits it answers 95.0 % right without an attack and 95.0 % under pgd")
        assert threat == "words." and command == "bench run --defense rmc --attack pgd"
    page.focus(".figure button.trust")
    assert page.inner_text(".tip").startswith("small sample: 20 examples")


def test_a_run_page_filters_its_examples(visit: Open) -> None:
    page = visit(f"runs/{'0002' + '0000' + 'ab' * 4}.html")
    assert len(column(page, "examples", "Example")) == 4
    for kind, count in (("broken", 1), ("survived", 2), ("violation", 1), ("", 4)):
        page.select_option("select[name=outcome]", kind)
        assert len(column(page, "examples", "Example")) == count
        assert not kind or set(column(page, "examples", "Outcome")) == {kind}
    assert page.locator("img[alt='clean point 3']").evaluate("image => image.naturalWidth") == 1
    assert page.locator(".chart canvas").count() == 1
    with page.expect_download() as download:
        page.click("#examples_wrapper button:has-text('CSV')")
    lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8-sig"))))
    common = {"Defense": "rmc", "Attack": "pgd", "Dataset": "digits", "Norm": "linf", "Radius": "0.2",
              "The attacker knows": "Trained weights", "Robust %": "95", "Robust % low": "87",
              "Robust % high": "100"}  # fmt: skip
    assert len(lines) == 4 and all({name: one[name] for name in common} == common for one in lines)
    assert [one["Answers to it again"] for one in lines] == ["0 -1", "", "", ""]
    assert lines[0]["To the clean image"] == "1 1"


def test_attacks_of_the_board_are_ranked(visit: Open) -> None:
    page = visit()
    assert column(page, "attacks", "Attack")[0] == "pgd-skip" and column(page, "attacks", "Rank")[0] == "1"
    page.select_option("select[name=base]", "pgd-at")  # the ranking of attacks is over all bases
    assert column(page, "attacks", "Attack")[0] == "pgd-skip"


def test_a_flag_explains_itself_to_mouse_and_keyboard(visit: Open) -> None:
    page = visit()
    flag = page.locator("#ranking button.flag", has_text="M3")
    flag.hover()
    assert page.inner_text(".tip") == "it optimises while it answers"
    page.keyboard.press("Escape")
    assert not page.is_visible(".tip")
    flag.focus()
    assert page.is_visible(".tip") and flag.get_attribute("aria-label") == "M3: it optimises while it answers"


def test_a_mark_says_why_a_figure_is_not_to_be_believed(visit: Open) -> None:
    page = visit()
    mark = page.locator("#ranking tr", has_text="rmc").locator("button.trust")
    assert mark.inner_text() == "not to be believed"
    small = "small sample: 20 examples: the true share may be anywhere from 0.0 to 16.1 %."
    reasons = [small, "S5: more steps break more"]
    mark.hover()
    assert page.inner_text(".tip").split("\n") == reasons
    page.keyboard.press("Escape")
    assert not page.is_visible(".tip")
    mark.focus()
    assert page.is_visible(".tip") and mark.get_attribute("aria-label") == "not to be believed. " + "\n".join(reasons)
    unmarked = visit("defenses/pgd-at.html").locator("#standings button.trust").first
    assert "small sample" in (unmarked.get_attribute("aria-label") or "")


#: the tables that have a background, or text in another colour than the page
TABLE_COLORS = """
[...document.querySelectorAll("table")].filter((table) => {
  const [own, page] = [getComputedStyle(table), getComputedStyle(document.body)];
  return own.backgroundColor !== "rgba(0, 0, 0, 0)" || own.color !== page.color;
}).map((table) => table.id)
"""


@pytest.mark.parametrize("place", ["index.html", "defenses/rmc.html", f"runs/{'0002' + '0000' + 'ab' * 4}.html"])
def test_pages_fit_a_narrow_screen_in_both_schemes(visit: Open, place: str) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        page = visit(place, width=360, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ink = page.evaluate("getComputedStyle(document.body).color.match(/[0-9]+/g).map(Number)")
        assert (min(ink) > 128) == dark
        assert page.evaluate(TABLE_COLORS) == [], "tables have the colours of the page"
        assert page.evaluate(
            "[...document.querySelectorAll('code.key')].every((key) => key.getClientRects().length < 2)"
        )
    wide = visit(place, width=1366)
    assert wide.evaluate("document.documentElement.scrollWidth") <= 1366


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["index.html", *OWN, "defenses/rmc.html", f"runs/{'0002' + '0000' + 'ab' * 4}.html"])
def test_axe_finds_nothing_serious(visit: Open, place: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = visit(place, color_scheme=scheme, bypass_csp=True)
    found = Axe().run(page, options={"preload": False}).response["violations"]
    serious = {one["id"]: [node["html"][:200] for node in one["nodes"]][:3] for one in found
               if one["impact"] in ("serious", "critical")}  # fmt: skip
    assert serious == {}


def test_two_thousand_runs_open_fast_and_stay_small(browser: Browser, tmp_path: Path) -> None:
    entries = {
        Entry(str(i), f"defense-{i}", "regular", f"data-{i % 2}", 0): {"pgd": i % 100, "fgsm": 50, "pgd-skip": i % 50,
                                                                         "pgd-skip-delayed": 20}
        for i in range(500)
    }  # fmt: skip
    written = write_site(leaderboard_of(entries), tmp_path, lambda one: RunDetails(), SITE, "0", now=NOW).pages[0]
    assert written.stat().st_size < 5_000_000
    page = browser.new_page()
    page.goto(written.as_uri())
    page.wait_for_selector("#ranking tbody tr td:nth-child(2) a")
    assert len(column(page, "ranking", "Rank")) == 25  # a page of the table, not all of it
    page.close()
