"""The zip of a bundle: what may stand in it and how much, read and written without touching the disk.

A bundle comes from a stranger. Its members are never unpacked by their names: each is read into memory, within bounds
that are checked before anything is decompressed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BadBundle, one_line

MANIFEST = "manifest.json"
#: the names that a bundle may hold, with the most bytes that each may have
MEMBERS = {
    re.compile(r"manifest\.json"): 32 << 20,
    re.compile(r"rows/[0-9a-f]{64}\.jsonl"): 512 << 20,
    re.compile(r"images/[0-9a-f]{64}\.safetensors"): 512 << 20,
    re.compile(r"plugins/[0-9a-f]{64}\.py"): 1 << 20,
}
#: members of a bundle, and bytes of all of them together
MOST_MEMBERS, MOST_BYTES = 20_000, 4 << 30
#: how many times smaller a member may be in the zip than outside; below `SMALL` bytes it does not matter
MOST_RATIO, SMALL = 100, 1 << 20
#: the time of every member: the bytes of a bundle depend on its runs alone
_TIME = (1980, 1, 1, 0, 0, 0)


def rows_name(run: str) -> str:
    return f"rows/{run}.jsonl"


def image_name(file: str) -> str:
    return f"images/{file}.safetensors"


def plugin_name(sha256: str) -> str:
    return f"plugins/{sha256}.py"


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_zip(path: Path, members: Mapping[str, Callable[[], bytes]]) -> None:
    """Write the members as a zip, each when its turn comes; the same members give the same bytes.

    Images are stored as they are: they hardly get smaller. The file is not there before it is whole.
    """
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for name in sorted(members):
                info = zipfile.ZipInfo(name, _TIME)
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_STORED if name.startswith("images/") else zipfile.ZIP_DEFLATED
                archive.writestr(info, members[name](), compresslevel=9)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Archive:
    """An opened bundle whose list of members is within the bounds. `BadBundle` for anything else."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            if not path.is_file():
                raise BadBundle(f"The bundle {str(path)!r:.200} is no file; give one that bench bundle wrote.")
            if (size := path.stat().st_size) > MOST_BYTES:
                raise self.wrong(f"it has {size} bytes; a bundle has {MOST_BYTES} at most")
            self._file = path.open("rb")
        except OSError as error:
            raise BadBundle(f"The bundle {str(path)!r:.200} cannot be read: {error.strerror}.") from None
        try:
            self.sha256 = hashlib.file_digest(self._file, "sha256").hexdigest()
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._listed()
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            # what zipfile raises for a damaged directory; for a newer version of the format; for an offset before the
            # file's begin. The file is a stranger's: its user gets one line
            self._file.close()
            raise self.wrong(f"it is no zip file ({one_line(error)}); give a file that bench bundle wrote") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()
        self._file.close()

    def wrong(self, what: str) -> BadBundle:
        """The error that says what is wrong with this bundle; nothing of it has been stored."""
        return BadBundle(f"The bundle {self.name!r:.200} is refused: {what}.")

    def _listed(self) -> dict[str, zipfile.ZipInfo]:
        entries = self._zip.infolist()
        if len(entries) > MOST_MEMBERS:
            raise self.wrong(f"it has {len(entries)} members; a bundle has {MOST_MEMBERS} at most")
        members: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = entry.orig_filename  # `filename` ends at a null character, and has other slashes on some systems
            if what := _refused(name, entry):
                raise self.wrong(f"its member {name!r:.100} {what}")
            if name in members:
                raise self.wrong(f"it has two members {name!r:.100}")
            members[name] = entry
        if (whole := sum(entry.file_size for entry in entries)) > MOST_BYTES:
            raise self.wrong(f"its members have {whole} bytes; all together have {MOST_BYTES} at most")
        if MANIFEST not in members:
            raise self.wrong(f"it has no {MANIFEST}; give a file that bench bundle wrote")
        return members

    def names(self) -> set[str]:
        return set(self._members)

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        entry = self._members[name]
        try:
            with self._zip.open(entry) as member:
                data = member.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            # what zipfile raises for a wrong checksum or local header; a broken stream; one that ends too early; an
            # offset that cannot be sought; a way to pack or a version that it does not know; a password
            raise self.wrong(f"its member {name!r} is damaged ({one_line(error)})") from None
        if len(data) != entry.file_size:
            raise self.wrong(f"its member {name!r} has {len(data)} bytes; the zip says {entry.file_size}")
        return data


def _refused(name: str, entry: zipfile.ZipInfo) -> str:
    """Why a member may not stand in a bundle; "" if it may."""
    most = next((size for pattern, size in MEMBERS.items() if pattern.fullmatch(name)), None)
    if most is None:
        return "is none that a bundle has"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or another special file"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in another way than deflate"
    if entry.file_size > most:
        return f"has {entry.file_size} bytes; it may have {most}"
    if entry.file_size > SMALL and entry.file_size > MOST_RATIO * entry.compress_size:
        return f"grows from {entry.compress_size} to {entry.file_size} bytes, more than {MOST_RATIO} times"
    return ""


def read_json(text: bytes) -> Any:
    """A JSON value without NaN, repeated names or endless nesting; `ValueError` says what is wrong."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"it has {name}, which JSON has not")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the name {next(name for name in names if names.count(name) > 1)!r:.80} twice")
    return values
