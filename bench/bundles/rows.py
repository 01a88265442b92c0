"""Rows as lines of JSON, and the chain that ties the rows of a game together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.cache import digest
from bench.execution.verify import CLOCKS
from bench.rows import Row
from bench.store.examples import to_columns


def lines_of(rows: Iterable[Row]) -> bytes:
    """The rows, one JSON object a line; the same rows give the same bytes."""
    return b"".join(_text(to_columns(row)) for row in rows)


def _text(columns: Mapping[str, Any]) -> bytes:
    return json.dumps(columns, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def chain_of(run: str, game: int, rows: Sequence[Row]) -> str:
    """The last link of the chain over the rows of a game: see `bench.bundles.manifest.GameForm`."""
    link = digest(["game", run, game])
    for row in rows:
        link = digest([link, {name: value for name, value in to_columns(row).items() if name not in CLOCKS}])
    return link
