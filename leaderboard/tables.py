"""What a column of a table is, and how the rows of a table are handed to the browser.

A column is one entry (they stand in `leaderboard.columns`). The browser reads the columns from the data of the page; it
knows the formats and no column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from leaderboard.content import Share

RowT = TypeVar("RowT")

#: how a cell is drawn; app.js has one function for each. Values, where they are not just a text or a number:
#: share, signed-share   [value, low, high, method], or null
#: share-note            [such a share, a text below it]
#: flags                 [[[id, message], ...], a text after them]
#: trust                 [words, state (doubt, checked or unchecked), reasons, [[id, message], ...]]
#: code                  a command, which can be copied
#: list                  texts; a long list is folded
#: folded                [a text, what unfolds below it], or null
#: name                  [name, address of its page, variant]
#: link                  [text, address elsewhere]; run: [key, address of its page]
Format = Literal[
    "text", "whole", "figure", "precise", "share", "signed-share", "share-note", "flags", "trust", "code", "list",
    "folded", "name", "link", "run", "outcome",
]  # fmt: skip


@dataclass(frozen=True)
class Column(Generic[RowT]):
    """One column.

    name      identifies the column in its table, also in the address of a page
    tooltip   what the figures of the column mean, in one sentence
    value     the value of a row, in the form that the format asks for
    sort      what rows are sorted by, a number; None: by the value itself
    layout    name: at least 7 rem; number: figures, in one line; flags: marks, wrapped; wide: long text, wrapped;
              text: anything else
    exported  whether CSV and the clipboard have it
    shown     whether it is visible before a reader changes that; while all rows that a table shows lack a value, the
              column is hidden too
    """

    name: str
    title: str
    tooltip: str
    value: Callable[[RowT], Any]
    format: Format = "text"
    sort: Callable[[RowT], float | None] | None = None
    layout: Literal["text", "name", "number", "flags", "wide"] = "text"
    exported: bool = True
    shown: bool = True

    def description(self) -> dict[str, Any]:
        """The column as the browser reads it."""
        names = ("name", "title", "tooltip", "format", "layout", "exported", "shown")
        return {**{name: getattr(self, name) for name in names}, "has_sort": self.sort is not None}

    def cell(self, row: RowT) -> Any:
        """The cell of a row as the browser reads it: its value, or value and sort value."""
        value = self.value(row)
        return value if self.sort is None else [value, self.sort(row)]


def table_data(
    columns: Sequence[Column[RowT]],
    rows: Iterable[RowT],
    order: tuple[str, Literal["asc", "desc"]] | None = None,
    where: Callable[[RowT], Mapping[str, Any]] = lambda row: {},
    common: Iterable[tuple[str, Any]] = (),
) -> dict[str, Any]:
    """A table as the browser reads it.

    order   the column that rows are sorted by at first, and in which direction; None: the order of the rows
    where   facts of a row beside its cells. boards, tier, base: when to show it; muted: whether to draw it in grey
    common  titles and values that CSV and the clipboard have in each row before its cells
    """
    return {
        "columns": [column.description() for column in columns],
        "order": [] if order is None else [list(order)],
        "common": [list(one) for one in common],
        "rows": [{**where(row), "cells": [column.cell(row) for column in columns]} for row in rows],
    }


def share_cell(share: Share | None) -> list[Any] | None:
    """A share as the value of a cell."""
    return None if share is None else [*(round(x, 3) for x in (share.value, share.low, share.high)), share.method]


def figure_cell(value: float | None) -> float | None:
    """A number as the value of a cell: four significant digits are more than is shown."""
    return None if value is None else float(f"{value:.4g}")
