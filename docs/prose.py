"""Docstrings as Markdown: paragraphs, lists of names with what each means, and formulas as they stand.

A docstring here is plain text that is read in an editor. Two forms in it are not Markdown: names in a column with their
meanings in another, which becomes a list; and indented lines (formulas), which stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

#: a name, two blanks or more, what it means; the name may have blanks: `norm, eps`, `gmsa-avg`
_FIELD = re.compile(r"^(?P<name>\S(?:\S| (?! ))*?)(?:  +)(?P<meaning>\S.*)$")
#: what Markdown would take for its own outside of code
_SPECIAL = re.compile(r"([*_<\[])")


def markdown(text: str) -> str:
    """A docstring as Markdown; what is Markdown already (tables, fenced blocks, doctests) stays as it is."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text.strip("\n")))


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if lines[0].startswith(("|", "```", ">>>", "- ", "::")):
        return text
    if all(line.startswith("    ") for line in lines):
        return "\n".join(["```text", *(line[4:] for line in lines), "```"])
    if fields := _fields(lines):
        return "\n".join(f"- `{name}`: {_escaped(meaning)}" for name, meaning in fields)
    at = next((number for number, line in enumerate(lines) if line.startswith("- ")), len(lines))
    head = "\n".join(_escaped(line) for line in lines[:at])
    items = "\n".join(_escaped(line) for line in lines[at:])
    return f"{head}\n\n{items}" if items else head


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """Names and meanings, if the lines are such a block: each begins with a name or goes on under a meaning."""
    fields: list[tuple[str, str]] = []
    for line in lines:
        found = _FIELD.match(line)
        if found:
            fields.append((found["name"], found["meaning"]))
        elif fields and line.startswith("  "):
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip()}")
        else:
            return []
    return fields


def _escaped(text: str) -> str:
    """The text with what Markdown would take for its own escaped, but for code in backticks and *stressed* words."""
    parts = re.split(r"(`[^`]*`|\*\w[\w ]*\w\*)", text)
    return "".join(_SPECIAL.sub(r"\\\1", part) if at % 2 == 0 else part for at, part in enumerate(parts))


class Prose(griffe.Extension):
    """Gives mkdocstrings the docstrings as Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
