"""Python files of plug-ins: how they are run, and the hash of their source with that of what they import."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from bench.errors import BrokenPlugin


class _AsItIsNow(SourceFileLoader):
    """Compiles the file anew: bytecode is found by time in seconds and size, which an edit may leave the same."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


@contextmanager
def foreign_code() -> Iterator[None]:
    """Within, code of plug-ins runs in this process, before or beside games.

    What it prints goes to standard error, since programs read this program's standard output; and where it goes with
    `os.chdir` is left again at the end.
    """
    here = Path.cwd()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.chdir(here)


def run_file(name: str, path: Path) -> ModuleType:
    """Run a Python file as the module `name`. An exception passes through; then no module of this name stays."""
    if path.suffix != ".py":
        raise BrokenPlugin(f"{path} is no Python file.")
    spec = importlib.util.spec_from_file_location(name, path, loader=_AsItIsNow(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it is run: dataclasses look their module up there
    try:
        with foreign_code():
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


#: the line by which a module of the harness (or a package, for all its modules) says that its code shapes images or
#: networks: its source is then part of the hash of every plug-in that imports it
MARK = re.compile(rb"^SHAPES_ROWS = True$", re.M)
#: the names of modules made from plug-in files begin with this
FILE_PREFIX = "bench_plugin_"


@lru_cache(maxsize=256)
def module_hash(module: str) -> str:
    """sha256 over the source of a module and, transitively, of those modules that it imports which hold methods.

    These places are its own package, `attacks`, `defenses`, and modules of `bench` with the line `SHAPES_ROWS = True`.
    What the rest of the harness does is covered by `HARNESS_VERSION`. Nothing is imported: files are found by name, and
    their import statements are read.
    """
    return _source_hash(module, module.startswith(FILE_PREFIX))


def source_now(module: str) -> str:
    """The hash of a module that this program has loaded; "" where it has no file (a notebook, standard input).

    A single file has the same hash here as it has as a plug-in.
    """
    path = _source_path(module)
    return "" if path is None or not path.is_file() else _source_hash(module, "." not in module)


def _source_hash(module: str, alone: bool) -> str:
    """The hash. alone: the module is a single file; its folder and its name do not enter the hash."""
    tops = {module.partition(".")[0], "attacks", "defenses"} - {"bench"}
    seen: dict[str, bytes] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = _source_path(name)
        if name in seen or path is None:
            continue
        seen[name] = path.read_bytes()
        imported = _imports(seen[name], name, path.name == "__init__.py")
        queue.extend(n for n in imported if n.partition(".")[0] in tops or _shapes_rows(n))
    whole = hashlib.sha256()
    for name in sorted(seen, key=lambda name: FILE_PREFIX if alone and name == module else name):
        label = "plug-in" if alone and name == module else name
        whole.update(label.encode() + b"\0" + seen[name] + b"\0")
    return whole.hexdigest()


@lru_cache(maxsize=256)
def _shapes_rows(module: str) -> bool:
    """Whether a module of the harness, or a package that it lies in, has the mark."""
    parts = module.split(".")
    if parts[0] != "bench":
        return False
    paths = (_source_path(".".join(parts[:count])) for count in range(2, len(parts) + 1))
    return any(path is not None and path.is_file() and MARK.search(path.read_bytes()) for path in paths)


def tree_hash(*places: Path) -> str:
    """sha256 over Python files: all below a folder, by their path in it, or a single one, by its name."""
    whole = hashlib.sha256()
    for place in places:
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for path in files:
            name = path.relative_to(place).as_posix() if place.is_dir() else path.name
            whole.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


def _source_path(module: str) -> Path | None:
    loaded: ModuleType | None = sys.modules.get(module)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return Path(file) if file else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _imports(source: bytes, module: str, is_package: bool) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            head = node.module or ""
            if node.level:
                up = node.level - 1 if is_package else node.level
                parts = module.split(".")
                head = ".".join([*(parts[:-up] if up else parts), *([head] if head else [])])
            names.append(head)
            names.extend(f"{head}.{alias.name}" for alias in node.names)
    return names
