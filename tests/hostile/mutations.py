"""Foreign bytes for the fuzz tests: sound files with a few changes, and values that nobody wrote a parser for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

#: bytes that mean something to many formats: ends of ranges, brackets, signs
TELLING = [
    b"",
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0" * 8,
    b"\xff" * 8,
    b"{",
    b"}",
    b"[",
    b'"',
    b"-",
    b"9" * 20,
    b"\n",
]


@st.composite
def mutated(draw: DrawFn, sound: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """A sound file with up to four changes: bytes replaced, inserted, removed, repeated, or the end cut off.

    words: what else is put in, such as the keywords of the format. Half of the changes are near the head.
    """
    data = draw(st.sampled_from(sound))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 200)) | st.integers(0, len(data)))
        until = min(at + draw(st.integers(1, 8)), len(data))
        new = draw(st.sampled_from([*TELLING, *words]) | st.binary(min_size=1, max_size=8))
        kind = draw(st.sampled_from(["replace", "flip", "insert", "remove", "repeat", "cut"]))
        if kind == "replace":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "flip":
            data = data[:at] + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at:until]) + data[until:]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "remove":
            data = data[:at] + data[until:]
        elif kind == "repeat":
            data = data[:at] + data[at:until] * draw(st.integers(2, 20)) + data[until:]
        else:
            data = data[:at]
    return data


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
#: what may stand in a file of JSON
json_values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
#: what may stand on the right of a = in a file of TOML
toml_values: SearchStrategy[Any] = st.recursive(
    st.booleans()
    | st.sampled_from(
        [0, 1, -1, 2**31, 2**63, -(2**64), 10**30, 0.0, -0.0, 1e-320, 1e308, "8/255", "1/0", "auto", "nan"]
    )
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | texts
    | st.sampled_from([date(1, 1, 1), datetime(2026, 1, 1, 12), time(0, 0)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def toml_of(values: Mapping[tuple[str, ...], Any]) -> str:
    """Values by path as a file of TOML, one line each."""
    return "".join(f"{'.'.join(map(_quoted, path))} = {_toml(value)}\n" for path, value in values.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)} = {_toml(inner)}' for key, inner in value.items())}}}"
    return value.isoformat() if isinstance(value, date | time) else repr(value)


def _quoted(text: str) -> str:
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08X}", json.dumps(text, ensure_ascii=False))


def paths_of(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all keys and tables of a file of TOML."""
    found = []
    for key, value in table.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += paths_of(value, (*above, key))
    return found
