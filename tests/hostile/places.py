"""Places in which a test cannot write: folders of another user, and a disk that is full."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: the capabilities by which root passes over the rights of files: CAP_CHOWN to CAP_FOWNER
OVER_RIGHTS = 0b1111
#: what `capget` and `capset` take: version 3, this thread
_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Within, the rights of files hold for root too, as they do for everybody else."""
    if os.geteuid() != 0:
        yield
        return
    if platform.system() != "Linux":  # elsewhere root writes whatever the rights say, so nothing can be shown
        pytest.skip("only on Linux can root be held to the rights of files")
    libc = ctypes.CDLL(None, use_errno=True)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    assert libc.capget(_HEADER, held) == 0
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~OVER_RIGHTS
    assert libc.capset(_HEADER, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(_HEADER, held) == 0


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Within, this process reads and writes files as another user; the test is skipped where it may not become one."""
    if os.geteuid() != 0:  # the system lets nobody else: an ordinary user has nobody's files but its own to try with
        pytest.skip("only root can act as another user, and give files to one")
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def not_writable(folder: Path) -> Iterator[None]:
    """Within, nothing in a folder can be written, as if it were somebody else's."""
    inside = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in inside]
    for path, mode in zip(inside, modes, strict=True):
        path.chmod(mode & ~0o222)
    try:
        with ordinary_user():
            yield
    finally:
        for path, mode in zip(inside, modes, strict=True):
            path.chmod(mode)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own at a new folder; the test is skipped where this user may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:  # it takes rights that a user, and root in many containers, has not; no disk is filled instead
        pytest.skip("this user may not mount a file system of a chosen size")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leaving: int) -> Path:
    """Fill a small disk but for so many kilobytes; returns the file that does."""
    filler = disk / "filler"
    stat = os.statvfs(disk)
    filler.write_bytes(bytes(max(stat.f_bavail * stat.f_frsize - leaving * 1024, 0)))
    return filler
