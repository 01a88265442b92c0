"""The page: one HTML file that works from a disk, fetches nothing and escapes everything that it is given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from leaderboard.rows import TIERS, AuditLine, LeaderboardRow

TEMPLATES = Path(__file__).with_name("templates")


def render(rows: Sequence[LeaderboardRow], audits: Sequence[AuditLine] = (), now: datetime | None = None) -> str:
    """The whole page as text. Its policy allows the one script and the one style that stand in it, by hash."""
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    style, policy = style_policy("page.css")
    policy += f"; script-src {_hash(script)}"
    return (
        environment()
        .get_template("index.html")
        .render(
            rows=rows,
            audits=audits,
            tiers=TIERS,
            made=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
            policy=policy,
            script=Markup(script),  # noqa: S704  our own file, not text from the database
            style=style,
        )
    )


def environment() -> Environment:
    """Our templates; whatever is put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style_policy(name: str) -> tuple[Markup, str]:
    """One of our style sheets, and a content security policy that allows it and fetches nothing."""
    style = (TEMPLATES / name).read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src {_hash(style)}; img-src data:"
    return Markup(style), policy  # noqa: S704  our own file, not text from the database


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
