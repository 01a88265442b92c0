"""Bundles taken apart and put together otherwise, as a careless or a lying sender would."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.analysis.describe import threat_card
from bench.bundles.archive import MANIFEST, sha256_of, write_zip
from bench.bundles.rows import chain_of
from bench.planning.spec import RunSpec
from bench.store.examples import rows_of

Members = dict[str, bytes]
#: changes the manifest and the rows by run in place
Edit = Callable[[dict[str, Any], dict[str, list[dict[str, Any]]]], None]


def members_of(bundle: Path) -> Members:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(members: Members, out: Path) -> Path:
    write_zip(out, {name: (lambda data=data: data) for name, data in members.items()})
    return out


def forged(
    bundle: Path, out: Path, edit: Edit, *, sealed: bool = True, chained: bool = True, keyed: bool = False
) -> Path:
    """The bundle after `edit`.

    sealed: with the sizes and hashes of the files as they are then; chained: with the chains of the rows as they are
    then; keyed: with the key of each run that follows from its parameters
    """
    members = members_of(bundle)
    manifest = json.loads(members[MANIFEST])
    rows = {
        name[5:-6]: [json.loads(line) for line in data.splitlines()]
        for name, data in members.items()
        if name.startswith("rows/")
    }
    edit(manifest, rows)
    if keyed:
        _key(manifest, rows)
    for run in manifest["runs"] if chained else ():
        for game in run["games"]:
            lines = [row for row in rows.get(run["key"], ()) if row["game"] == game["game"]]
            own = [one for row in lines for one in rows_of(list(row), [list(row.values())])]
            game["chain"] = chain_of(run["key"], game["game"], own)
    members = {name: data for name, data in members.items() if not name.startswith("rows/")}
    for key, lines in rows.items():
        members[f"rows/{key}.jsonl"] = b"".join(
            json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n" for row in lines
        )
    if sealed:
        seal(manifest, members)
    members[MANIFEST] = json.dumps(manifest).encode()
    return written(members, out)


def seal(manifest: dict[str, Any], members: Members) -> None:
    """Write the sizes and hashes of the members into the manifest."""
    files = {name: data for name, data in members.items() if name != MANIFEST}
    manifest["files"] = {name: {"sha256": sha256_of(data), "bytes": len(data)} for name, data in files.items()}


def _key(manifest: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> None:
    with patch("bench.planning.spec._check_form"):  # no run of this program is like that, so its author has another
        keys = {run["key"]: RunSpec.from_dict(run["spec"]).key for run in manifest["runs"]}
    for run in manifest["runs"]:
        key = keys[run["key"]]
        rows[key] = rows.pop(run["key"])
        run["key"], run["threat"], run["clean"] = key, threat_card(run["spec"]), keys.get(run["clean"], run["clean"])


def attacked(manifest: dict[str, Any]) -> dict[str, Any]:
    """The run of a bundle that is not `clean`."""
    return next(run for run in manifest["runs"] if run["spec"]["attack"]["name"] != "clean")
