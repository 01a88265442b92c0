"""What is installed against what is asked for: requirements, the versions that were tested, and optional extras."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

NAME = "adversarial-game-bench"
#: packages with another version of which rows may differ in their last bits, or in more
SHAPING = ("torch", "numpy", "faiss-cpu", "foolbox", "adversarial-robustness-toolbox", "pyautoattack", "pillow")
#: where a checkout has its pyproject.toml and constraints.txt; an installed package has neither
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Asked:
    """What the package asks for: the versions of Python, its requirements, and those of each extra."""

    python: str
    packages: list[Requirement]
    extras: dict[str, list[Requirement]]


def asked() -> Asked:
    """From the checkout that the code runs from, else from the installed package's own record."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if project["name"] == NAME:
            extras = project["optional-dependencies"].items()
            return Asked(
                project["requires-python"],
                [Requirement(text) for text in project["dependencies"]],
                {name: [Requirement(text) for text in texts] for name, texts in extras},
            )
    record = importlib.metadata.metadata(NAME)
    every = [Requirement(text) for text in importlib.metadata.requires(NAME) or []]
    names = record.get_all("Provides-Extra") or []
    return Asked(
        record["Requires-Python"],
        [one for one in every if _applies(one, "")],
        {name: [one for one in every if not _applies(one, "") and _applies(one, name)] for name in names},
    )


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def installed(requirement: Requirement) -> Version | None:
    """The version that is installed, or None."""
    try:
        return Version(importlib.metadata.version(requirement.name))
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet(requirements: list[Requirement]) -> Iterator[tuple[Requirement, str]]:
    """Requirements that are not met, with what is there instead."""
    for requirement in requirements:
        version = installed(requirement)
        if version is None:
            yield requirement, "not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield requirement, f"{version} is installed"


def shaping() -> dict[str, Version]:
    """Installed versions of the packages that shape rows."""
    found = {name: installed(Requirement(name)) for name in SHAPING}
    return {name: version for name, version in found.items() if version is not None}


def tested() -> dict[str, Version]:
    """The version of each package that the tests ran with; {} outside a checkout."""
    file = ROOT / "constraints.txt"
    if not file.is_file():
        return {}
    pins = [line.partition("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {canonicalize_name(name.strip()): Version(version.strip()) for name, _, version in pins}


def differing(requirements: list[Requirement]) -> Iterator[tuple[str, Version, Version]]:
    """(name, installed, tested) of packages whose public version is another than the tested one."""
    known = tested()
    for requirement in requirements:
        here, then = installed(requirement), known.get(canonicalize_name(requirement.name))
        if here is not None and then is not None and here.public != then.public:
            yield requirement.name, here, then
