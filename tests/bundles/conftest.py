"""One bundle of a run of two games and its clean run, as another person would send it: from a database and a folder of
their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli.main import call
from tests.conftest import fresh_registry, sets

#: a run of two games
ASKED = ["--defense", "noise-vote", "--attack", "pgd", "-n", "3", "--repeats", "2", "--workers", "1",
         *sets(base__epochs=3, attack__steps=3)]  # fmt: skip


@pytest.fixture(scope="session")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the sender: bench.db with its files, and bundle.zip."""
    folder = tmp_path_factory.mktemp("sender")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENCH_CACHE", raising=False)
        patch.chdir(folder)
        fresh_registry()
        assert call(["run", *ASKED, "--db", "bench.db", "--json"]) == 0
        assert call(["bundle", attacked_key(folder / "bench.db"), "--db", "bench.db", "--out", "bundle.zip"]) == 0
        yield folder


def attacked_key(db: Path) -> str:
    """The key of the last run of a database."""
    from bench.store import Store

    store = Store.open(str(db))
    assert store is not None
    key = store.runs(attack=["pgd"])[-1].key
    store.close()
    return key


@pytest.fixture(autouse=True)
def _own_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver has a folder of its own too."""
    monkeypatch.delenv("BENCH_CACHE", raising=False)
