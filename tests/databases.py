"""A PostgreSQL server of the tests' own, on a socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """A server in a folder. control: the program pg_ctl."""

    folder: Path
    control: str
    as_owner: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL of a database on it, with {} for its name."""
        return f"postgresql+psycopg://bench@/{{}}?host={self.folder}"

    def run(self, *words: str) -> None:
        subprocess.run([*self.as_owner, *words], check=True, capture_output=True, cwd=self.folder)

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        self.run(self.control, "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self.run(self.control, "-D", "data", "-m", "immediate", "stop")


@contextmanager
def postgres_server(control: str) -> Iterator[Server]:
    """Run a server by the program pg_ctl at `control`. Only users who may enter its folder can connect."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # the path of a socket has 107 characters at most
    as_owner: tuple[str, ...] = ()
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ("runuser", "-u", "postgres", "--")
    server = Server(folder, control, as_owner)
    server.run(str(Path(control).with_name("initdb")), "-D", "data", "-A", "trust", "-U", "bench", "--no-sync")
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
