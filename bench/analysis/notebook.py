"""Small HTML tables for notebooks: only text, no files to fetch, no colours, so that they fit light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums"
CELL = "text-align:left;vertical-align:top;padding:.15em .7em;border-bottom:1px solid rgba(128,128,128,.4)"


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table with a head and a line below it; every text is escaped, since names come from plug-ins and databases."""
    head = "".join(_cell("th", column) for column in columns)
    body = "".join(f"<tr>{''.join(_cell('td', text) for text in row)}</tr>" for row in rows)
    below = f"<p>{escape(note)}</p>" if note else ""
    return f'<table style="{TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}'


def facts_of(facts: Sequence[tuple[str, str]]) -> str:
    """A table of names and values; every text is escaped."""
    body = "".join(f"<tr>{_cell('th', name)}{_cell('td', value)}</tr>" for name, value in facts)
    return f'<table style="{TABLE}"><tbody>{body}</tbody></table>'


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="{CELL}">{escape(text)}</{tag}>'
