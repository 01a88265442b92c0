"""A folder of bundles is a board, and the workflow lets nothing else into it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.bundles.forging import forged
from tests.conftest import ROOT, Bench


def test_a_folder_of_bundles_is_a_leaderboard(bench: Bench, sent: Path) -> None:
    Path("bundles").mkdir()
    shutil.copy(sent / "bundle.zip", "bundles/one.zip")
    Path("bundles/two.zip").write_bytes(b"no zip")
    done = bench("board", "bundles", "--out", "site", "--json")
    told = json.loads(done.out)
    assert done.code == 1 and told["runs"] == 2 and len(told["merged"]) == 1
    assert done.err.splitlines() == [f"bench: {told['refused'][0]}"] and "'two.zip' is refused" in done.err
    page = next(Path("site/runs").glob("*.html"), Path("site/index.html")).read_text()
    assert "claimed" in page and "came from" in page and "one.zip" in page
    assert "claimed" in Path("site/index.html").read_text()
    assert sorted(path.name for path in Path().iterdir()) == ["bundles", "site"]  # its database is gone


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_bundles_is_one_line(bench: Bench, folder: str) -> None:
    Path("empty").mkdir()
    done = bench("board", folder)
    assert done.code == 2 and "is no folder with bundles" in done.err and not Path("results").exists()


# -- the workflow ---------------------------------------------------------------------------------------------------


@pytest.fixture
def steps() -> dict[str, str]:
    """The scripts of the workflow by name of their step."""
    workflow = yaml.safe_load((ROOT / "examples" / "check-bundles.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"} and list(workflow[True]) == ["pull_request"]
    return {step["name"]: step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step}


def git(*args: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *args], cwd="proposed", check=True, capture_output=True, text=True).stdout


@pytest.fixture
def base() -> str:
    """A repository with a board; the commit that a pull request is compared with."""
    Path("proposed/bundles").mkdir(parents=True)
    git("init", "-q")
    Path("proposed/bundles/old.zip").write_bytes(b"old")
    git("add", ".")
    git("commit", "-qm", "a board")
    return git("rev-parse", "HEAD").strip()


def proposes(base: str, script: str) -> tuple[int, str]:
    """The exit code and the words of the step, after what is in the folder was committed."""
    git("add", "-A")
    git("commit", "-qm", "a pull request")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd="proposed",
        capture_output=True,
        text=True,
        env={"BASE": base, "PATH": "/usr/bin:/bin"},
    )
    return done.returncode, done.stdout


def test_the_workflow_takes_new_bundles(base: str, steps: dict[str, str]) -> None:
    for name in ("a.zip", "b-1.zip"):
        Path("proposed/bundles", name).write_bytes(b"new")
    assert proposes(base, steps["Only new bundles"]) == (0, "")
    assert Path("added").read_text().split() == ["bundles/a.zip", "bundles/b-1.zip"]


@pytest.mark.parametrize("what", ["code", "a changed one", "a link", "a removed one", "a name with a line", "a script"])
def test_the_workflow_takes_nothing_else(base: str, steps: dict[str, str], what: str) -> None:
    folder = Path("proposed/bundles")
    (folder / "new.zip").write_bytes(b"new")
    if what == "code":
        Path("proposed/defenses").mkdir()
        Path("proposed/defenses/mine.py").write_text("register_defense(...)")
    elif what == "a changed one":
        (folder / "old.zip").write_bytes(b"other")
    elif what == "a link":
        (folder / "link.zip").symlink_to("/etc/passwd")
    elif what == "a removed one":
        (folder / "old.zip").unlink()
    elif what == "a name with a line":
        (folder / "x\ny.zip").write_bytes(b"new")
    else:
        (folder / "run.zip").write_bytes(b"#!/bin/sh")
        (folder / "run.zip").chmod(0o755)
    code, said = proposes(base, steps["Only new bundles"])
    assert code == 1 and "may only add files bundles/NAME.zip" in said


def test_the_workflow_s_command_checks_a_bundle(bench: Bench, sent: Path, steps: dict[str, str]) -> None:
    (line,) = [line for line in steps["Check them, and replay two games of each"].splitlines() if "bench merge" in line]
    words = line.partition("bench merge ")[2].rstrip(")").split()
    assert words[0] == '"$GITHUB_WORKSPACE/proposed/$name"'
    shutil.copytree(sent / "bench-files", "check-files")  # the trained base
    done = bench("merge", sent / "bundle.zip", *words[1:])
    assert done.code == 0 and "replayed 1 of 2" in done.out + "replayed 1 of 2" * ("verified" in done.out)
    lie = forged(sent / "bundle.zip", Path("lie.zip"), lambda manifest, rows: manifest["runs"][0].update(threat="none"))
    assert bench("merge", lie, *words[1:]).code == 2
