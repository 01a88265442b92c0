"""Several commands of one queue: they share a server and a store, and nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.execution.test_determinism import QUICKLY, Place

STREAM = ["--defense", "rmc", "--attack", "pgd", "--attack", "pgd-skip", "-n", "12", *QUICKLY,
          "--set", "game.p=3", "--set", "game.trials=3", "--set", "runner.chunk=3", "--workers", "1"]  # fmt: skip


def empty(folder: Path) -> Place:
    """A place with no artefact."""
    place = Place(folder, folder.parent)
    for kind in ("bases", "banks"):
        (place.cache / kind).unlink()
    return place


def test_two_time_boxed_commands_share_the_work(tmp_path: Path, cache_root: Path, postgres_url: str) -> None:
    alone = Place(tmp_path / "alone", cache_root)
    alone.run(*STREAM)
    first, second = empty(tmp_path / "first"), empty(tmp_path / "second")
    shared = ["--db", postgres_url, "--store", str(tmp_path / "store")]
    codes = []
    for seconds in (5, 20, 60, 240):
        started = [place.start(*STREAM, *shared, "--for", f"{seconds}s") for place in (first, second)]
        errors = [process.communicate(timeout=300)[1] for process in started]
        codes = [process.returncode for process in started]
        assert set(codes) <= {0, 75}, errors
        if codes == [0, 0]:
            break
    assert codes == [0, 0]
    assert first.rows(postgres_url) == alone.rows()
    made = {path.parent.name for path in (tmp_path / "store").glob("*/*")}
    assert {"bases", "banks", "images"} <= made
    # who lacks the images of a run takes them from the store
    assert empty(tmp_path / "third").verify(next(iter(alone.rows())), *shared) == 0
