"""The page that says what every flag and check means."""

from __future__ import annotations

from bench.auditing.glossary import glossary
from leaderboard.page import render

#: where the page lies in the site
FLAGS_ADDRESS = "flags.html"


def render_flags_page(made: str) -> str:
    """The page as text. made: when the site was made."""
    return render("flags.html", root="", made=made, terms=glossary())
