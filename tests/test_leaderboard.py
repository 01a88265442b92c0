"""The page: what stands on it, and that nothing from the database becomes markup or script."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

from leaderboard.page import render
from leaderboard.rows import AuditLine, LeaderboardRow, Share, load_rows
from tests.conftest import QUICK, Bench

HOSTILE = "<script>alert(1)</script>\"'&\u202eevil"


def row(**values: object) -> LeaderboardRow:
    facts = {
        "run": "a" * 64, "status": "DONE", "reason": "", "defense": "rmc", "base": "regular", "attack": "pgd",
        "dataset": "digits", "norm": "linf", "eps": 0.2, "threat": "words", "threat_tag": "linf 0.2, p 40, delay 30",
        "protocol": "stream", "n": 100, "seed": 0,
        "clean": Share(97.0, 91.5, 99.0, "Wilson"), "robust": Share(12.5, 7.3, 20.4, "bootstrap over 5 games"),
        "answer_s": 0.0123, "seconds": 3.0, "flags": (), "ranked": True,
    }  # fmt: skip
    return LeaderboardRow(**{**facts, **values})  # type: ignore[arg-type]


class Page(HTMLParser):
    """Text of every cell, every tag, and every attribute that fetches something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetches: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetches += [str(value) for name, value in attrs if name in ("src", "href", "action", "srcset")]
        self.text += " ".join(str(value) for name, value in attrs if name == "title")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_row_shows_both_accuracies_with_intervals_cost_and_flags() -> None:
    page = render([row(flags=(("V1", "4 proposals broke the threat model"),), ranked=False)])
    for text in (
        "97.0",
        "91.5\u201399.0",
        "12.5",
        "7.3\u201320.4",
        "12.30",
        "V1",
        "4 proposals",
        "bootstrap over 5 games",
        "100",
    ):
        assert text in page
    assert 'class="unranked"' in page and page.count('<th scope="col"') == 11


def test_names_and_reasons_stay_text() -> None:
    names = ("defense", "base", "attack", "dataset", "threat", "threat_tag", "norm", "protocol", "reason")
    hostile = row(**dict.fromkeys(names, HOSTILE), status="FAILED", robust=None, flags=((HOSTILE, HOSTILE),))
    page = Page(render([hostile]))
    assert page.tags.count("script") == 1 and page.text.count(HOSTILE) >= 9


def test_the_page_needs_no_network_and_allows_only_its_own_script() -> None:
    html = render([row()])
    assert Page(html).fetches == []
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html).group(1).replace("&#39;", "'")  # type: ignore[union-attr]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for tag in ("script", "style"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S).group(1)  # type: ignore[union-attr]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_an_empty_database_says_what_to_run() -> None:
    assert "bench run --defense rmc --attack pgd-skip-delayed" in render([])


def test_the_page_is_a_function_of_its_rows() -> None:
    now = datetime(2026, 1, 1)
    assert render([row()], now=now) == render([row()], now=now)


def test_the_command_renders_what_the_store_holds(bench: Bench, tmp_path: Path) -> None:
    sets = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    bench("run", "--defense", "rmc", "--attack", "pgd", "-n", 4, "--workers", 1, *sets)
    done = bench("leaderboard", "--out", "page")
    assert done.code == 0 and "(2 runs)" in done.out
    text = Page((tmp_path / "page" / "index.html").read_text()).text
    assert "rmc" in text and "the trained weights, not the adapted ones" in text
    from bench.store import Store

    store = Store.open("results/bench.db", create=False)
    assert store is not None and [r.attack for r in load_rows(store)] in (["clean", "pgd"], ["pgd", "clean"])
    (tmp_path / "file").touch()
    assert bench("leaderboard", "--out", "file").code == 2
    assert bench("leaderboard", "--db", "none.db", "--out", "empty").code == 0 and not Path("none.db").exists()


def audit_line(**values: object) -> AuditLine:
    share = (Share(12.5, 7.3, 20.4, "bootstrap"), "pgd-skip 80%, fpa 20%")
    facts = {
        "defense": "rmc", "base": "regular", "dataset": "digits", "norm": "linf", "eps": 0.2, "budget": "quick",
        "n": 30, "clean": 95.0, "tiers": (share, share, (None, ""), share), "gain": Share(-1.5, -4.0, 1.0, "McNemar"),
        "times": 1200.0, "flags": (("M3", "it optimises"),),
    }  # fmt: skip
    return AuditLine(**{**facts, **values})  # type: ignore[arg-type]


def test_an_audit_shows_its_tiers_its_gain_and_its_flags() -> None:
    page = render([row()], [audit_line(), audit_line(gain=None, times=None, clean=None)])
    for text in ("aware-full", "pgd-skip 80%, fpa 20%", "-1.5", "+1.0", "1200", "M3", "it optimises"):
        assert text in page
    assert page.count("<table") == 2 and render([row()]).count("<table") == 1


def test_names_in_an_audit_stay_text() -> None:
    names = dict.fromkeys(("defense", "base", "dataset", "norm", "budget"), HOSTILE)
    hostile = audit_line(**names, flags=((HOSTILE, HOSTILE),), tiers=((Share(1, 0, 2, HOSTILE), HOSTILE),) * 4)
    page = Page(render([row()], [hostile]))
    assert page.tags.count("script") == 1 and page.fetches == [] and HOSTILE in page.text
