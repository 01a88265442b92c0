"""The report of a suite as one HTML file: the table beside the published figures, coloured by verdict."""

from __future__ import annotations

from bench.report import MARGIN, Report, in_words, short
from leaderboard.page import environment, style_policy


def render(report: Report) -> str:
    """The whole page as text; nothing is fetched, everything from the database is escaped."""
    style, policy = style_policy("report.css")
    return (
        environment()
        .get_template("report.html")
        .render(report=report, words=in_words(report), short=short, margin=MARGIN, style=style, policy=policy)
    )
