"""A PostgreSQL server of the tests' own, on a socket in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgres_server(control: str) -> Iterator[str]:
    """Run a server by the program pg_ctl at `control`. Gives the URL of a database, with {} for its name.

    Only users who may enter its folder can connect.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # the path of a socket has 107 characters at most
    as_owner: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]

    def run(*words: str) -> None:
        subprocess.run([*as_owner, *words], check=True, capture_output=True, cwd=folder)

    run(str(Path(control).with_name("initdb")), "-D", "data", "-A", "trust", "-U", "bench", "--no-sync")
    run(control, "-D", "data", "-w", "-l", "log", "-o", f"-k {folder} -c listen_addresses= -c fsync=off", "start")
    try:
        yield f"postgresql+psycopg://bench@/{{}}?host={folder}"
    finally:
        run(control, "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)
