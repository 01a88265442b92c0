"""The scripts and style sheets of others: each is the file of the version that its list says, with its licence."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from leaderboard.page import VENDOR, script, style

FILES = tomllib.loads((VENDOR / "vendor.toml").read_text())["file"]
NAMES = [Path(one["path"]).name for one in FILES]


@pytest.mark.parametrize("one", FILES, ids=NAMES)
def test_a_file_is_what_the_list_says(one: dict[str, str]) -> None:
    held = (VENDOR / Path(one["path"]).name).read_bytes()
    assert hashlib.sha256(held).hexdigest() == one["sha256"]
    assert "Permission is hereby granted, free of charge" in (VENDOR / one["licence"]).read_text()


def test_the_files_say_their_versions_themselves() -> None:
    """Those that have one in their head; the others come out of the same packages."""
    said = dict(re.findall(r"/\*! (jQuery|DataTables|Buttons for DataTables) v?(\d+\.\d+\.\d+)", script()))
    listed = {one["package"]: one["version"] for one in FILES}
    assert said == {
        "jQuery": listed["jquery"],
        "DataTables": listed["datatables.net"],
        "Buttons for DataTables": listed["datatables.net-buttons"],
    }


def test_every_file_is_listed_and_reaches_the_pages() -> None:
    licences = {one["licence"] for one in FILES}
    assert {path.name for path in VENDOR.iterdir()} == {*NAMES, *licences, "vendor.toml"}
    for name in NAMES:
        assert (VENDOR / name).read_text() in (script() if name.endswith(".js") else style())
