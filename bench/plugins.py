"""The doors by which names come into the registries.

Five, in this order: the built-ins (`defenses.register`, `attacks.register`, ...), the entry-point groups
`bench.defenses` and `bench.attacks`, the files `defenses/*.py` and `attacks/*.py` beside the bench.toml in use (in the
working directory where there is none), `--plugin FILE`, and the program that uses this package as a library. Files and
programs register what they have by calling `register_defense` or `register_attack`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from bench import registry
from bench.errors import BrokenPlugin, one_line
from bench.interrupts import from_outside
from bench.registry import BUILT_IN, PROGRAM, Entry, Registry, registering_as
from bench.source import FILE_PREFIX, run_file

#: packages of the built-ins, and the folders of a user's own files
PACKAGES = ("defenses", "attacks")


#: files and packages that could not be read, with the reason; shown by `bench list`
broken_files: dict[str, str] = {}


def load_all(beside: Path | None = None, files: tuple[str, ...] = (), strict: bool = True) -> None:
    """Fill the registries: built-ins, entry points, files beside `beside` (a bench.toml; None: in the working
    directory), `files`, and what this program has registered before. A file that is named twice is loaded once.

    strict: `BrokenPlugin` if one of `files`, which the user named, does not load; else it is only listed as broken.
    """
    own = [(names, entry) for names in registry.ALL for entry in names if entry.origin == PROGRAM]
    try:
        load_installed()
        _load_files(beside, files, strict)
    finally:
        _add_again(own)


def load_installed() -> None:
    """Fill the registries with the built-ins and the entry points alone: no file of a user is imported."""
    for names in registry.ALL:
        names.clear()
    broken_files.clear()
    with registering_as(BUILT_IN):
        _load_built_ins()
    _load_entry_points()


def _load_files(beside: Path | None, files: tuple[str, ...], strict: bool) -> None:
    asked = [Path(name) for name in files]
    for path in asked:
        if not path.is_file():
            raise BrokenPlugin(
                f"The plug-in file {str(path)!r} does not exist; give --plugin the path of a Python file."
            )
    named = list(dict.fromkeys(path.resolve() for path in asked))
    for path in files_beside(beside):
        if path.resolve() not in named:
            _load_file(path, strict=False)
    for path in named:
        _load_file(path, strict)


def folder_beside(beside: Path | None) -> Path:
    """The folders `defenses` and `attacks` of the user: beside a bench.toml; None: in the working directory."""
    return Path() if beside is None else beside.parent


def files_beside(beside: Path | None) -> list[Path]:
    """The user's own plug-in files, by name (see `folder_beside`)."""
    folder = folder_beside(beside)
    files = [path for group in PACKAGES for path in sorted((folder / group).glob("*.py"))]
    return [path for path in files if _registers(path)]


def _add_again(own: list[tuple[Registry, Entry]]) -> None:
    """Add what this program registered. A name that another plug-in took stays with it, which is reported once."""
    clashes = []
    for names, entry in own:
        try:
            names.add(entry)
        except BrokenPlugin as error:
            clashes.append(error)
    if clashes:
        raise clashes[0]


def _load_built_ins() -> None:
    for package in PACKAGES:
        _built_in(package).register()
    from bench.data import BUILT_IN as data
    from bench.game.protocols import BUILT_IN as protocols
    from bench.models import BUILT_IN as networks

    for name, (target, summary) in data.items():
        registry.register_dataset(name, target, summary=summary)
    for name, (target, summary) in networks.items():
        registry.register_model(name, target, summary=summary)
    for name, (target, summary) in protocols.items():
        registry.register_protocol(name, target, summary=summary)


def _built_in(package: str) -> ModuleType:
    """The project's own package of this name, beside `bench`.

    With `python -m` the working directory comes first where Python looks for modules, and a user's folder of plug-ins
    is called the same.
    """
    home = Path(__file__).parent.parent / package / "__init__.py"
    loaded = sys.modules.get(package)
    if loaded is None or getattr(loaded, "__file__", None) != str(home):
        spec = importlib.util.spec_from_file_location(package, home, submodule_search_locations=[str(home.parent)])
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[package] = loaded
        spec.loader.exec_module(loaded)
    return loaded


def _load_entry_points() -> None:
    from importlib.metadata import entry_points

    for group, names in (("bench.defenses", registry.defenses), ("bench.attacks", registry.attacks)):
        for point in entry_points(group=group):
            origin = f"package {point.dist.name}" if point.dist else "entry point"
            try:
                names.add(Entry(point.name, point.value, 1, "", origin))
            except BrokenPlugin as error:
                broken_files[f"{origin}: {point.name}"] = one_line(error)


def _registers(path: Path) -> bool:
    """Whether a file beside bench.toml is a plug-in: files that register nothing are not imported."""
    if not path.is_file():
        return False
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # loading it reports why it cannot be read
    called = re.search(r"register_(defense|attack|dataset|model|protocol)\(", text)
    return path.name != "__init__.py" and called is not None


def _load_file(path: Path, strict: bool) -> None:
    path = path.resolve()
    before = [names.kept() for names in registry.ALL]
    try:
        content = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
        with registering_as(str(path)):
            run_file(f"{FILE_PREFIX}{path.stem}_{content[:8]}", path)  # an edited file is another module, hashed anew
    except BaseException as error:  # a plug-in file may raise anything; the others must still load
        if from_outside(error):
            raise
        for names, entries in zip(registry.ALL, before, strict=True):
            names.put_back(entries)
        reason = one_line(error) if isinstance(error, BrokenPlugin) else f"{type(error).__name__}: {one_line(error)}"
        if strict:
            raise BrokenPlugin(f"The plug-in {path} does not load: {reason}") from error
        broken_files[str(path)] = reason
