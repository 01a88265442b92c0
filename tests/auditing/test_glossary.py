"""Every flag that a reader can meet is explained, in the terminal and on the site."""

from __future__ import annotations

import json

import pytest

from bench.analysis.figures import UNRANKED
from bench.auditing.findings import CHECKS
from bench.auditing.glossary import SOURCES, glossary, term
from bench.config import load
from leaderboard.flags_page import render_flags_page
from leaderboard.page import Site
from tests.conftest import Bench


def test_every_check_and_every_flag_of_a_run_has_one_entry() -> None:
    ids = [one.id for one in glossary()]
    assert len(ids) == len(set(ids)) and set(CHECKS) | set(UNRANKED) <= set(ids)
    assert {one.id for one in glossary() if one.unranked} == set(UNRANKED)
    for one in glossary():
        assert one.measured and one.meaning.endswith(".") and one.of in ("run", "audit")
    assert "(Croce et al. 2022)" in str(term("S15")) and "(Athalye et al. 2018, Carlini" in str(glossary())
    assert not any(f"{code})" in str(glossary()) for code in SOURCES)


@pytest.mark.parametrize("name", ["M3", "m3", "survivors"])
def test_show_says_what_a_flag_means(bench: Bench, name: str) -> None:
    told, parsed = bench("show", name), json.loads(bench("show", name, "--json").out)
    assert told.code == 0 and parsed["id"].lower() == name.lower()
    assert parsed["meaning"] in told.out and parsed["measured"] in told.out


def test_a_check_that_is_none_is_one_line(bench: Bench) -> None:
    told = bench("show", "M99")
    assert told.code == 2 and "No check is called 'M99'. Did you mean 'M" in told.err


def test_the_site_explains_each_of_them_at_an_address_of_its_own() -> None:
    page = render_flags_page(Site(load(None).site, "now"))
    assert all(f'<tr id="{one.id}">' in page for one in glossary())
