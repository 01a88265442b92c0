"""The page that says how to read, cite and extend the site, and where the documents are."""

from __future__ import annotations

from importlib.metadata import version

from leaderboard.content import LEVELS, SMALL
from leaderboard.page import Site, render

#: where the page lies in the site
ABOUT_ADDRESS = "about.html"


def render_about_page(site: Site) -> str:
    """The page as text."""
    return render("about.html", site, "", levels=LEVELS, small=SMALL, version=version("adversarial-game-bench"))
