"""The report of a suite as one HTML file: our figures beside the published ones, coloured by verdict."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from bench.analysis.report import MARGIN, Report, agreement, short
from leaderboard.page import TEMPLATES, environment


def render(report: Report) -> str:
    """The whole page as text. It fetches nothing, and every text from the database is escaped."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:"
    markup = Markup(style)  # noqa: S704  our own file, not text from the database
    return (
        environment()
        .get_template("report.html")
        .render(report=report, words=agreement(report), short=short, margin=MARGIN, style=markup, policy=policy)
    )
