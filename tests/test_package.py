"""The two distributions: what is in them, and that the wheel plays a run without the checkout."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: plays a run in one process, and says which files it was played by
TINY = """
from bench.cli.main import call
quick = ["--workers", "1", "--set", "base.epochs=1", "--set", "attack.steps=1", "--json"]
assert call(["run", "--defense", "regular", "--attack", "pgd", "-n", "2", *quick]) == 0
import attacks.pgd, bench, defenses.regular
print([module.__file__ for module in (attacks.pgd, bench, defenses.regular)])
"""


def sources() -> list[str]:
    """The files of the project: those that git tracks, or in an unpacked source distribution those of its list."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [name for name in listed.splitlines() if (ROOT / name).exists()]
    (listing,) = ROOT.glob("*.egg-info/SOURCES.txt")
    return listing.read_text().splitlines()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it; of a copy, so that the checkout stays as it is."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in sources():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def test_the_source_distribution_is_the_whole_repository(built: tuple[Path, Path]) -> None:
    """So it has its tests and all that they read."""
    with tarfile.open(built[0]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert not set(sources()) - inside
    assert {"tests/conftest.py", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "docs/index.md"} <= inside


def test_the_wheel_has_every_file_of_its_packages_and_no_other(built: tuple[Path, Path]) -> None:
    packages = ("attacks/", "bench/", "defenses/", "leaderboard/")
    with zipfile.ZipFile(built[1]) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in sources() if name.startswith(packages)}


def test_the_wheel_works_where_there_is_no_checkout(built: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment of its own, which takes from this one what the project depends on, and nothing else."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    program = tmp_path / "venv" / "bin"
    names = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=names, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = ("--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", str(program / "python"), "install", *offline, str(built[1]))
    (own,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # of a folder named so, no .pth file is read
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(str(program / "bench"), "--version") == f"bench, version {version}\n"
    *_, made, places = run(str(program / "python"), "-c", TINY).splitlines()
    assert json.loads(made)["status"] == "DONE"
    assert all(place.startswith(str(own)) for place in ast.literal_eval(places))
