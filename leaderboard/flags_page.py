"""The page that says what every flag and check means."""

from __future__ import annotations

from bench.auditing.glossary import glossary
from leaderboard.page import Site, render

#: where the page lies in the site
FLAGS_ADDRESS = "flags.html"


def render_flags_page(site: Site) -> str:
    """The page as text."""
    return render("flags.html", site, "", terms=glossary())
