"""Code of a bundle is carried and hashed, and runs only where the one who merges says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.bundles.archive import MANIFEST
from tests.bundles.forging import members_of, seal, written
from tests.conftest import Bench, fresh_registry, sets

#: a plug-in that says that it has run
PLUGIN = """
from pathlib import Path
import torch
import bench

Path({mark!r}).touch()

class Plain(bench.StaticDefense):
    def fit(self, task, base, context):
        self.network = base.network

    def answer(self, x):
        with torch.no_grad():
            return self.network(x)

    def proxy(self):
        return self.network

bench.register_defense("plain", Plain)
"""
NETWORK = """
from pathlib import Path
import torch

Path({mark!r}).touch()

def make(num_classes, image_shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once code of the bundle has run."""
    return tmp_path / "it-ran"


def sent(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *asked: str, plugin: str = "") -> Path:
    """A bundle that somebody made in a folder of their own; that folder is left."""
    given = ["--plugin", plugin] if plugin else []
    played = bench("run", *asked, *given, "--attack", "clean", "-n", 2, "--in-process", *sets(base__epochs=1))
    assert played.code == 0, played.err
    packed = bench("bundle", "--out", tmp_path / "theirs.zip", *given)
    assert packed.code == 0 and not packed.err
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    fresh_registry()
    return tmp_path / "theirs.zip"


def test_a_defense_of_a_bundle_runs_only_with_trust(
    bench: Bench, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("plain.py").write_text(PLUGIN.format(mark=str(mark)))
    bundle = sent(bench, tmp_path, monkeypatch, "--defense", "plain", plugin="plain.py")
    mark.unlink()
    claimed = bench("merge", bundle)
    assert claimed.code == 0 and "plain / clean / digits: claimed" in claimed.out
    assert "the defense 'plain' is not here as it was then, so what the bundle says of it is not checked" in claimed.out
    refused = bench("merge", bundle, "--replay", "all")
    assert refused.code == 2 and "needs the defense 'plain', which is code and not here: read that of" in refused.err
    assert not mark.exists()
    trusted = bench("merge", bundle, "--replay", "all", "--trust")
    assert trusted.code == 0 and "verified" in trusted.out and mark.exists()
    mark.unlink()
    own = bench("merge", bundle, "--db", "other.db", "--replay", "all", "--plugin", "../plain.py")
    assert own.code == 0 and "verified" in own.out and mark.exists()


def test_a_network_of_a_bundle_runs_only_with_trust_also_where_the_file_lies(
    bench: Bench, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = NETWORK.format(mark=str(mark))
    Path("net.py").write_text(source)
    bundle = sent(bench, tmp_path, monkeypatch, "--defense", "regular", "--set", f"base.model={tmp_path}/net.py:make")
    mark.unlink()
    Path("net.py").write_text(source)
    assert bench("merge", bundle).code == 0
    refused = bench("merge", bundle, "--replay", "all")
    assert refused.code == 2 and "needs the network 'net.py:make', which is code" in refused.err and not mark.exists()
    Path("net.py").unlink()
    for name in [name for name in sys.modules if name.startswith("bench_model_net_")]:
        monkeypatch.delitem(sys.modules, name)
    trusted = bench("merge", bundle, "--replay", "all", "--trust")
    assert trusted.code == 0 and "verified" in trusted.out and mark.exists(), trusted.err


def test_another_source_in_the_bundle_is_named(
    bench: Bench, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("plain.py").write_text(PLUGIN.format(mark=str(mark)))
    bundle = sent(bench, tmp_path, monkeypatch, "--defense", "plain", plugin="plain.py")
    members = members_of(bundle)
    name = next(name for name in members if name.startswith("plugins/"))
    members[name] += b"\n# more\n"
    told = bench("merge", written(members, Path("changed.zip")), "--trust")
    assert told.code == 2 and f"its member '{name}' has the sha256" in told.err
    manifest = json.loads(members[MANIFEST])
    seal(manifest, members)
    members[MANIFEST] = json.dumps(manifest).encode()
    told = bench("merge", written(members, Path("changed.zip")), "--trust")
    assert told.code == 2 and "is not named by its sha256" in told.err


def test_a_source_that_is_not_here_as_it_was_is_left_out_and_said(bench: Bench, mark: Path) -> None:
    Path("plain.py").write_text(PLUGIN.format(mark=str(mark)))
    asked = ["--defense", "plain", "--plugin", "plain.py", "--attack", "clean", "-n", 2, "--in-process"]
    assert bench("run", *asked, *sets(base__epochs=1)).code == 0
    Path("plain.py").write_text(PLUGIN.format(mark=str(mark)) + "\n# changed\n")
    for given in (["--plugin", "plain.py"], []):
        packed = bench("bundle", "--out", "mine.zip", *given)
        assert packed.code == 0 and "The source of the defense 'plain' is not in the bundle" in packed.err
        assert not [name for name in members_of(Path("mine.zip")) if name.startswith("plugins/")]
    told = bench("merge", "mine.zip", "--db", "new.db", "--replay", "all", "--trust")
    assert told.code == 2 and "the defense 'plain' is not registered here; give its file with --plugin" in told.err


def test_a_database_without_finished_runs_has_nothing_to_send(bench: Bench) -> None:
    from bench.store import Store

    store = Store.open("empty.db")
    assert store is not None
    store.close()
    told = bench("bundle", "--db", "empty.db", "--out", "x.zip")
    assert told.code == 2 and "has no finished run to send" in told.err
