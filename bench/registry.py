"""Names are data: what exists is known without importing it, and what does not import breaks nothing else.

Five doors, in this order: the built-ins (`defenses.register`, `attacks.register`, ...), the entry-point groups
`bench.defenses` and `bench.attacks`, the files `defenses/*.py` and `attacks/*.py` beside the bench.toml in use (in the
working directory where there is none), `--plugin FILE`, and the program that uses this package as a library. Files and
programs register what they have by calling `register_defense` or `register_attack`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from bench.errors import BadValue, BrokenPlugin, UnknownName, one_line

#: origin of what is registered outside of `load_all`: by the program that uses this package as a library
PROGRAM = "this program"


@dataclass(frozen=True)
class Entry:
    """One registered name. `target` is a class, or "module:Class" that is imported on use.

    paper     address of the paper that describes it, "" where there is none
    preset    attacks: fields of the threat model that define the attack; None: the class attribute of this name
    free      attacks: further threat fields that a request may set (norm and eps always may); None: likewise
    protocol  attacks: the default protocol; None: likewise. Protocols: the built-in one that it is like
    wraps     attacks: the name of the attack that it wraps when it is asked for alone; "": it wraps none
    inside    attacks: the entry of the attack inside a wrapper
    contract  class of `bench.contracts` that the target must come from; parts: what it must have besides
    source    hash of the source as it was registered, of what a program registered; else it is read on use
    """

    name: str
    target: Any
    version: int = 1
    summary: str = ""
    origin: str = "built-in"
    base: bool = False
    paper: str = ""
    preset: Mapping[str, Any] | None = None
    free: tuple[str, ...] | None = None
    protocol: str | None = None
    wraps: str = ""
    inside: Entry | None = None
    contract: str = ""
    parts: tuple[str, ...] = ()
    source: str = ""

    def load(self) -> Any:
        """The class, imported if need be; `BrokenPlugin` says why it cannot be, or what it lacks of its contract."""
        found = self._import()
        if self.contract:
            wanted = getattr(importlib.import_module("bench.contracts"), self.contract)
            if not (isinstance(found, type) and issubclass(found, wanted)):
                raise BrokenPlugin(f"{self.name!r} ({self.origin}) is no subclass of bench.{self.contract}: {found!r}.")
            missing = sorted(getattr(found, "__abstractmethods__", ()))
            if missing:
                raise BrokenPlugin(f"{self.name!r} ({self.origin}) lacks {', '.join(missing)}.")
        if lacking := [name for name in self.parts if not hasattr(found, name)]:
            raise BrokenPlugin(f"{self.name!r} ({self.origin}) lacks {', '.join(lacking)}.")
        return found if self.inside is None else _around(found, self.inside.load())

    @property
    def sections(self) -> list[str]:
        """Names of the sections of bench.toml that hold its parameters, later over earlier."""
        own = [self.name.partition(":")[0]] if self.wraps else [self.name]
        return own if self.inside is None else [*self.inside.sections, *own]

    def section_fields(self) -> set[str]:
        """Parameters that its own section of bench.toml may hold: of a wrapper, not those of the attack inside."""
        return set(replace(self, inside=None).load().Params.model_fields)

    def resolved(self) -> Entry:
        """The entry with what its class says where the registration says nothing."""
        if self.inside is not None:
            inside = self.inside.resolved()
            return replace(self, preset=inside.preset, free=inside.free, protocol=inside.protocol)
        found = self.load()
        given = {name: getattr(self, name) for name in ("preset", "free", "protocol")}
        return replace(self, **{name: getattr(found, name) if v is None else v for name, v in given.items()})

    def _import(self) -> Any:
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a foreign module may raise anything at all while it is imported
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise BrokenPlugin(f"{self.name!r} ({self.origin}) does not import: {reason}") from error

    def source_hash(self) -> str:
        """Hash of the source of the class's module and of what it imports from its own package."""
        if self.inside is not None:
            own = replace(self, inside=None).source_hash()
            return hashlib.sha256(f"{own} {self.inside.source_hash()}".encode()).hexdigest()
        if isinstance(self.target, str):
            return module_hash(self.target.partition(":")[0])
        if self.origin == PROGRAM and not self.source:
            raise BrokenPlugin(
                f"{self.name!r} was registered by {PROGRAM}, but the source of {self.place} is in no file, so its runs "
                f"could not be told from those of a later version; write it to a file and give that as a plug-in."
            )
        return self.source or module_hash(self.target.__module__)

    @property
    def place(self) -> str:
        """The target as "module:Class"."""
        if isinstance(self.target, str):
            return self.target
        return f"{getattr(self.target, '__module__', '')}:{getattr(self.target, '__qualname__', self.target)}"


@lru_cache(maxsize=256)
def _around(wrapper: Any, inside: Any) -> Any:
    """The class of a wrapper around the class of an attack: always the same one."""
    return wrapper.around(inside)


#: what a name may be: typed on a command line, and apart from the colon of WRAPPER:NAME
NAME_RULE = "a name is of letters, digits, '-', '_', '.' and '+', begins with a letter or a digit, and has 100 at most"


def is_name(name: object) -> bool:
    """Whether a plug-in can be called so: see `NAME_RULE`."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", name) is not None


class Registry:
    """Names of one kind of thing. A duplicate name is an error, but a program may define what it registered anew."""

    def __init__(self, what: str, contract: str = "", parts: tuple[str, ...] = ()) -> None:
        self.what = what
        self.contract = contract
        self.parts = parts
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        if not is_name(entry.name):
            raise BrokenPlugin(f"{entry.origin} registers a {self.what} as {entry.name!r}; {NAME_RULE}.")
        known = self._entries.get(entry.name)
        redefined = known is not None and known.origin == entry.origin == PROGRAM and known.place == entry.place
        if known is not None and not redefined:
            raise BrokenPlugin(
                f"The {self.what} {entry.name!r} is registered twice: by {known.origin} and by {entry.origin}; "
                f"rename one."
            )
        source = entry.source
        if entry.origin == PROGRAM and not isinstance(entry.target, str):
            source = source or _source_now(getattr(entry.target, "__module__", ""))
        self._entries[entry.name] = replace(entry, contract=self.contract, parts=self.parts, source=source)

    def __getitem__(self, name: str) -> Entry:
        """The entry of this name; `WRAPPER:NAME` is a wrapper around another, and a wrapper alone has its default."""
        wrapper = self._entries.get(name.partition(":")[0])
        if wrapper is not None and wrapper.wraps:
            inside = self[name.partition(":")[2] or wrapper.wraps]
            summary = f"{wrapper.summary}; around {inside.name}"
            return replace(wrapper, name=name, summary=summary, inside=inside)
        if name not in self._entries:
            raise UnknownName(self.what, name, self._entries, f"bench list {self.what}s")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        wrapper, _, inside = name.partition(":")
        if wrapper in self._entries and self._entries[wrapper].wraps and inside:
            return inside in self
        return name in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def load(self, name: str) -> Any:
        return self[name].load()

    def name_of(self, target: type) -> str:
        """The one name under which a class is registered."""
        place = f"{target.__module__}:{target.__qualname__}"
        names = [entry.name for entry in self if entry.target is target or entry.place == place]
        if len(names) == 1:
            return names[0]
        if names:
            raise BadValue(f"{target.__qualname__} is registered as {', '.join(names)}; give one of these names.")
        raise BadValue(
            f"{target.__qualname__} is not registered; call bench.register_{self.what}(NAME, {target.__qualname__}) "
            f"before, or give a name of `bench list {self.what}s`."
        )

    def registered_here(self, name: str) -> bool:
        """Whether this program registered it itself, so that no other process knows it."""
        return name in self._entries and self._entries[name].origin == PROGRAM

    def clear(self) -> None:
        self._entries.clear()


defenses = Registry("defense", "Defense")
attacks = Registry("attack", "Attack")
datasets = Registry("dataset", parts=("Params", "facts", "load", "check"))
models = Registry("model")
protocols = Registry("protocol")
ALL = (defenses, attacks, datasets, models, protocols)

#: by name: where it is, and what it does
BUILT_IN_PROTOCOLS = {
    "stream": ("bench.protocols.stream:play_stream", "every point is attacked and served in order"),
    "probe": ("bench.protocols.probe:play_probe", "victims are answered from one state, after a background"),
    "replay": ("bench.protocols.stream:play_stream", "all is crafted beforehand and served once to a fresh defense"),
}

#: packages of the built-ins, and the folders of a user's own files
PACKAGES = ("defenses", "attacks")

#: files and packages that could not be read, with the reason; shown by `bench list`
broken_files: dict[str, str] = {}

_origin = PROGRAM


def register_defense(
    name: str, target: Any, *, version: int = 1, summary: str = "", base: bool = False, paper: str = ""
) -> None:
    """Add a defense. `target`: a `Defense` class or "module:Class"; `base`: it is a train-time defense; `paper`: the
    address of the paper that describes it."""
    defenses.add(Entry(name, target, version, summary, _origin, base=base, paper=paper))


def register_attack(
    name: str,
    target: Any,
    *,
    version: int = 1,
    summary: str = "",
    preset: Mapping[str, Any] | None = None,
    free: tuple[str, ...] | None = None,
    protocol: str | None = None,
    wraps: str = "",
    paper: str = "",
) -> None:
    """Add an attack. `target`: an `Attack` class or "module:Class"; the others as in `Entry`."""
    known: dict[str, Any] = {"paper": paper, "preset": preset, "free": free, "protocol": protocol, "wraps": wraps}
    attacks.add(Entry(name, target, version, summary, _origin, **known))


def register_dataset(name: str, target: Any, *, summary: str = "") -> None:
    """Add a dataset: see `bench.data` for what the class must have."""
    datasets.add(Entry(name, target, 1, summary, _origin))


def register_model(name: str, target: Any, *, summary: str = "") -> None:
    """Add a network: a `Network` class, or a function of `num_classes` and `image_shape` that returns one."""
    models.add(Entry(name, target, 1, summary, _origin))


def register_protocol(name: str, target: Any, *, like: str, summary: str = "") -> None:
    """Add a protocol. `target`: a function as `bench.protocols.Play`, or "module:function"; `like`: stream, probe or
    replay, whose parameters it has, whose rules for threat models hold, and as whose rows its rows are summed up."""
    if like not in BUILT_IN_PROTOCOLS:
        known = ", ".join(BUILT_IN_PROTOCOLS)
        raise BrokenPlugin(f"The protocol {name!r} is like {like!r}; it must be one of {known}.")
    protocols.add(Entry(name, target, 1, summary, _origin, protocol=like))


def kind_of(name: str) -> str:
    """`defense` or `attack`, by what is registered under the name; `UnknownName` where nothing is."""
    for registry in (defenses, attacks):
        if name in registry:
            return registry.what
    raise UnknownName("defense or attack", name, [e.name for e in (*defenses, *attacks)], "bench list")


def load_all(beside: Path | None = None, files: tuple[str, ...] = (), strict: bool = True) -> None:
    """Fill the registries: built-ins, entry points, files beside `beside` (a bench.toml; None: in the working
    directory), `files`, and what this program has registered before. A file that is named twice is loaded once.

    strict: `BrokenPlugin` where one of `files`, which were asked for by name, does not load; else it is only listed.
    """
    global _origin
    own = [(registry, entry) for registry in ALL for entry in registry if entry.origin == PROGRAM]
    try:
        load_installed()
        _load_files(beside, files, strict)
    finally:
        _origin = PROGRAM
        _add_again(own)


def load_installed() -> None:
    """Fill the registries with the built-ins and the entry points alone: no file of a user is imported."""
    global _origin
    for registry in ALL:
        registry.clear()
    broken_files.clear()
    _origin = "built-in"
    try:
        _load_built_ins()
        _load_entry_points()
    finally:
        _origin = PROGRAM


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
    """Where the user's own `defenses` and `attacks` lie: beside a bench.toml; None: in the working directory."""
    return Path() if beside is None else beside.parent


def files_beside(beside: Path | None) -> list[Path]:
    """The user's own plug-in files, by name (see `folder_beside`)."""
    folder = folder_beside(beside)
    found = [path for group in PACKAGES for path in sorted((folder / group).glob("*.py"))]
    return [path for path in found if _registers(path)]


def _add_again(own: list[tuple[Registry, Entry]]) -> None:
    """Add what this program registered; of a name that is taken this is said once, and then it is the other's."""
    clashes = []
    for registry, entry in own:
        try:
            registry.add(entry)
        except BrokenPlugin as error:
            clashes.append(error)
    if clashes:
        raise clashes[0]


def _load_built_ins() -> None:
    for package in PACKAGES:
        _built_in(package).register()
    from bench.data import BUILT_IN as data
    from bench.models import BUILT_IN as networks

    for name, target in data.items():
        register_dataset(name, target)
    for name, (target, summary) in networks.items():
        register_model(name, target, summary=summary)
    for name, (target, summary) in BUILT_IN_PROTOCOLS.items():
        register_protocol(name, target, like=name, summary=summary)


def _built_in(package: str) -> ModuleType:
    """Our own package of this name, which lies beside `bench`.

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

    for group, registry in (("bench.defenses", defenses), ("bench.attacks", attacks)):
        for point in entry_points(group=group):
            origin = f"package {point.dist.name}" if point.dist else "entry point"
            try:
                registry.add(Entry(point.name, point.value, 1, "", origin))
            except BrokenPlugin as error:
                broken_files[f"{origin}: {point.name}"] = one_line(error)


def _registers(path: Path) -> bool:
    """Whether a file beside bench.toml is a plug-in: one that registers nothing need not be imported."""
    if not path.is_file():
        return False
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # loading it says why it cannot be read
    called = re.search(r"register_(defense|attack|dataset|model|protocol)\(", text)
    return path.name != "__init__.py" and called is not None


def _load_file(path: Path, strict: bool) -> None:
    global _origin
    path = path.resolve()
    _origin = str(path)
    before = [dict(registry._entries) for registry in ALL]
    try:
        content = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
        run_file(f"{FILE_PREFIX}{path.stem}_{content[:8]}", path)  # an edited file is another module, hashed anew
    except (Exception, SystemExit) as error:  # a foreign file may raise anything; it must not take the others with it
        for registry, entries in zip(ALL, before, strict=True):
            registry._entries = entries
        reason = one_line(error) if isinstance(error, BrokenPlugin) else f"{type(error).__name__}: {one_line(error)}"
        if strict:
            raise BrokenPlugin(f"The plug-in {path} does not load: {reason}") from error
        broken_files[str(path)] = reason
    finally:
        _origin = "built-in"


class _AsItIsNow(SourceFileLoader):
    """Compiles what is in the file: bytecode is kept by second and size, which an edit may leave as they were."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def run_file(name: str, path: Path) -> ModuleType:
    """Run a Python file as the module `name`; what it raises comes through, and then there is no such module."""
    if path.suffix != ".py":
        raise BrokenPlugin(f"{path} is no Python file.")
    spec = importlib.util.spec_from_file_location(name, path, loader=_AsItIsNow(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it is run: dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


#: modules of the harness that shape images and networks, and so belong to whatever uses them
ALWAYS_HASHED = ("bench.pgd", "bench.models.")
#: modules made from plug-in files are called this and more
FILE_PREFIX = "bench_plugin_"


@lru_cache(maxsize=256)
def module_hash(module: str) -> str:
    """sha256 over the source of a module and, transitively, of the modules that it imports from where methods live.

    That is its own package, `attacks`, `defenses`, and `bench.pgd`, which shapes images; what the rest of the harness
    means is in `HARNESS_VERSION`. Nothing is imported: files are found by name, their import statements are read.
    """
    return _source_hash(module, module.startswith(FILE_PREFIX))


def _source_now(module: str) -> str:
    """The hash of a module that this program has loaded; "" where it has no file (a notebook, standard input).

    A file of its own has the hash that it has as a plug-in.
    """
    path = _source_path(module)
    return "" if path is None or not path.is_file() else _source_hash(module, "." not in module)


def _source_hash(module: str, alone: bool) -> str:
    """The hash; alone: the module is one file, whose folder and name must not matter."""
    tops = {module.partition(".")[0], "attacks", "defenses"} - {"bench"}
    seen: dict[str, bytes] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = _source_path(name)
        if name in seen or path is None:
            continue
        seen[name] = path.read_bytes()
        found = _imports(seen[name], name, path.name == "__init__.py")
        queue.extend(n for n in found if n.partition(".")[0] in tops or n.startswith(ALWAYS_HASHED))
    whole = hashlib.sha256()
    for name in sorted(seen, key=lambda name: FILE_PREFIX if alone and name == module else name):
        label = "plug-in" if alone and name == module else name
        whole.update(label.encode() + b"\0" + seen[name] + b"\0")
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
