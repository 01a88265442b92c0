"""A malicious zip is refused in one line and leaves nothing behind."""

from __future__ import annotations

import io
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.bundles import archive
from bench.bundles.archive import Archive
from bench.errors import BadBundle
from tests.bundles.forging import members_of
from tests.conftest import Bench

ROWS = f"rows/{'0' * 64}.jsonl"
IMAGE = f"images/{'0' * 64}.safetensors"
Make = Callable[[zipfile.ZipFile], None]


def add(name: str, data: bytes = b"x", mode: int = stat.S_IFREG | 0o644, how: int = zipfile.ZIP_STORED) -> Make:
    """Adds a member as it is asked for."""

    def make(file: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, how
        file.writestr(info, data)

    return make


def twice(file: zipfile.ZipFile) -> None:
    add("manifest.json")(file)
    with pytest.warns(UserWarning, match="Duplicate"):
        add("manifest.json")(file)


def null(file: zipfile.ZipFile) -> None:
    add("manifest.json")(file)
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = "manifest.json\0../../x"
    file.writestr(info, b"x")


def many(file: zipfile.ZipFile) -> None:
    for number in range(archive.MOST_MEMBERS + 1):
        file.writestr(f"{number}", b"")


ZIPS: dict[str, tuple[Make, str]] = {
    "a path out of the folder": (add("../../manifest.json"), "'../../manifest.json' is none that a bundle has"),
    "a path out of a folder of its own": (add("rows/../../x.jsonl"), "is none that a bundle has"),
    "an absolute path": (add("/etc/passwd"), "'/etc/passwd' is none"),
    "a path of Windows": (add("rows\\..\\x.jsonl"), "is none that a bundle has"),
    "a drive": (add("C:/x.jsonl"), "is none that a bundle has"),
    "a null character": (null, "is none that a bundle has"),
    "a name without end": (add("x" * 60_000), "is none that a bundle has"),
    "a folder": (add("rows/", b""), "is none that a bundle has"),
    "code": (add("manifest.py"), "is none that a bundle has"),
    "a pickle": (add("rows.pkl"), "is none that a bundle has"),
    "capital letters": (add("MANIFEST.JSON"), "is none that a bundle has"),
    "a line after its name": (add("manifest.json\n"), "is none that a bundle has"),
    "a link": (add("manifest.json", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link or another special file"),
    "a device": (add(ROWS, b"", stat.S_IFCHR | 0o644), "is a link or another special file"),
    "a member twice": (twice, "it has two members 'manifest.json'"),
    "a bomb": (add(ROWS, b"0" * (40 << 20), how=zipfile.ZIP_DEFLATED), "more than 100 times"),
    "another compression": (add("manifest.json", how=zipfile.ZIP_BZIP2), "in another way than deflate"),
    "more members than a bundle has": (many, "members; a bundle has 20000 at most"),
    "nothing": (lambda file: None, "it has no manifest.json"),
    "no manifest": (add(IMAGE), "it has no manifest.json"),
    "a manifest that is no JSON": (add("manifest.json", b"\xff\xfe"), "its manifest.json is no JSON"),
    "a manifest that is nested without end": (add("manifest.json", b"[" * 100_000), "it is nested too deep"),
    "a manifest with a name twice": (add("manifest.json", b'{"a": 1, "a": 2}'), "it has the name 'a' twice"),
    "a manifest that is a list": (add("manifest.json", b"[]"), "does not say that it is an adversarial-game-bench"),
    "a number without end": (add("manifest.json", b'{"format": ' + b"9" * 5000 + b"}"), "its manifest.json is no JSON"),
}  # fmt: skip


def zipped(make: Make) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        make(file)
    return buffer.getvalue()


def refused(bench: Bench, data: bytes) -> str:
    """What is said of these bytes. Nothing is left behind, in this folder or in that for temporary files."""
    Path("bundle.zip").write_bytes(data)
    before = sorted(Path(tempfile.gettempdir()).glob("bench-merge-*"))
    done = bench("merge", "bundle.zip", "--db", "new/own.db", "--replay", "all", "--trust")
    assert done.code == 2 and not done.out and len(done.err.splitlines()) == 1 and len(done.err) < 500, done.err
    assert [path.name for path in Path().iterdir()] == ["bundle.zip"]
    assert sorted(Path(tempfile.gettempdir()).glob("bench-merge-*")) == before
    return done.err


def test_a_malicious_zip_is_one_line(bench: Bench) -> None:
    """All in one test: a test of its own for each takes longer to set up than to run."""
    told = {name: (said, refused(bench, zipped(make))) for name, (make, said) in ZIPS.items()}
    assert not {name: (said, found) for name, (said, found) in told.items() if said not in found}


def patched(data: bytes, signature: bytes, offset: int, value: bytes, at: int = 0) -> bytes:
    """The zip with other bytes in a header: of a member (PK 1 2 in the list, PK 3 4 before its data)."""
    place = [i for i in range(len(data)) if data.startswith(signature, i)][at] + offset
    return data[:place] + value + data[place + len(value) :]


LISTED, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def sized(size: int) -> Callable[[bytes], bytes]:
    """The zip whose list says another size of the member."""
    return lambda data: patched(data, LISTED, 24, struct.pack("<I", size))


HEADERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "encrypted": (lambda data: patched(data, LISTED, 8, b"\x01\x00"), "is encrypted"),
    "it says that it is huge": (sized(1 << 31), "it may have 33554432"),
    "it is longer than it says": (sized(1), "is damaged (Bad CRC-32"),
    "it is shorter than it says": (sized(9), "bytes; the zip says 9"),
    "another name before its data": (lambda data: patched(data, LOCAL, 30, b"n"), "is damaged (File name in directory"),
    "cut off": (lambda data: data[:-30], "it is no zip file"),
    "a text": (lambda data: b"results", "it is no zip file"),
    "empty": (lambda data: b"", "it is no zip file"),
    "other bytes": (lambda data: patched(data, LOCAL, 43, b"?"), "is damaged (Bad CRC-32"),
}  # fmt: skip


def test_a_zip_that_lies_about_itself_is_one_line(bench: Bench) -> None:
    whole = zipped(add("manifest.json", b"{}"))
    told = {name: (said, refused(bench, damage(whole))) for name, (damage, said) in HEADERS.items()}
    assert not {name: (said, found) for name, (said, found) in told.items() if said not in found}


def test_members_that_are_too_large_together_are_refused(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    def make(file: zipfile.ZipFile) -> None:
        add("manifest.json", b"{}")(file)
        add(IMAGE, bytes(2000))(file)

    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    assert "bytes; a bundle has 1000 at most" in refused(bench, zipped(make))
    monkeypatch.setattr(archive, "MOST_BYTES", 4000)
    deflated = zipped(add(ROWS, bytes(4001), how=zipfile.ZIP_DEFLATED))
    assert "its members have 4001 bytes; all together have 4000 at most" in refused(bench, deflated)


def test_members_that_the_manifest_does_not_name_are_refused(bench: Bench, sent: Path) -> None:
    members = members_of(sent / "bundle.zip")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in {**members, f"plugins/{'0' * 64}.py": b"import os"}.items():
            file.writestr(name, data)
    assert "is not in the list of its manifest" in refused(bench, buffer.getvalue())
    image = next(name for name in members if name.startswith("images/"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            if name != image:
                file.writestr(name, data)
    assert "is in the list of its manifest, and not in the zip" in refused(bench, buffer.getvalue())


@pytest.mark.parametrize("what", ["missing.zip", "folder"])
def test_what_is_no_file_is_one_line(bench: Bench, what: str) -> None:
    Path("folder").mkdir()
    done = bench("merge", what, "--db", "own.db")
    assert done.code == 2 and "is no file; give one that bench bundle wrote" in done.err
    assert [path.name for path in Path().iterdir()] == ["folder"]


def test_a_file_that_may_not_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.zip").write_bytes(b"")

    opened = Path.open

    def forbidden(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "x.zip":
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbidden)  # a test may run as root, which may read anything
    with pytest.raises(BadBundle, match="cannot be read: Permission denied"):
        Archive(Path("x.zip"))
