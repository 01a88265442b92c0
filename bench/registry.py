"""Names as data: they are listed without importing anything, and one that cannot be imported breaks no other.

How names come in: `bench.plugins`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from bench.errors import BadValue, BrokenPlugin, UnknownName, one_line
from bench.interrupts import from_outside
from bench.source import foreign_code, module_hash, source_now

#: origin of what is registered outside of `load_all`: by the program that uses this package as a library
PROGRAM = "this program"
#: wrappers around an attack, as in eot:bpda:pgd-skip
MOST_WRAPPERS = 2

#: origin of what this package brings itself
BUILT_IN = "built-in"


@dataclass(frozen=True)
class Entry:
    """One registered name. `target` is a class, or "module:Class" that is imported on use.

    paper     address of the paper that describes it; "" if there is none; cited: its authors, year and venue
    preset    attacks: fields of the threat model that define the attack; None: the class attribute of this name
    free      attacks: further threat fields that a request may set (norm and eps always may); None: likewise
    protocol  attacks: the default protocol; None: likewise
    wraps     attacks: the name of the attack that it wraps if none is given; "": it is no wrapper
    inside    attacks: the entry of the attack inside a wrapper
    contract  "module:Class" that the target must be a subclass of; parts: attributes that it must have
    source    for what a program registered: the hash of its file at that time, "" if it is in no file. What it captured
              is read on use, since a program may change it
    """

    name: str
    target: Any
    version: int = 1
    summary: str = ""
    origin: str = BUILT_IN
    base: bool = False
    paper: str = ""
    cited: str = ""
    preset: Mapping[str, Any] | None = None
    free: tuple[str, ...] | None = None
    protocol: str | None = None
    wraps: str = ""
    inside: Entry | None = None
    contract: str = ""
    parts: tuple[str, ...] = ()
    source: str = ""

    def load(self) -> Any:
        """The class, imported on first use. `BrokenPlugin` if it cannot be, or lacks a part of its contract."""
        cls = self._import()
        if self.contract:
            module, _, contract = self.contract.partition(":")
            wanted = getattr(importlib.import_module(module), contract)
            if not (isinstance(cls, type) and issubclass(cls, wanted)):
                raise BrokenPlugin(f"{self.name!r} ({self.origin}) is no subclass of bench.{contract}: {cls!r}.")
            missing = sorted(getattr(cls, "__abstractmethods__", ()))
            if missing:
                raise BrokenPlugin(f"{self.name!r} ({self.origin}) lacks {', '.join(missing)}.")
        if lacking := [name for name in self.parts if not hasattr(cls, name)]:
            raise BrokenPlugin(f"{self.name!r} ({self.origin}) lacks {', '.join(lacking)}.")
        return cls if self.inside is None else _around(cls, self.inside.load())

    @property
    def sections(self) -> list[str]:
        """Names of the sections of bench.toml that hold its parameters, later over earlier."""
        own = [self.name.partition(":")[0]] if self.wraps else [self.name]
        if self.inside is None or not getattr(self._import(), "takes_inside_params", True):
            return own
        return [*self.inside.sections, *own]

    def section_params(self) -> Any:
        """The `Params` that its own section of bench.toml may hold: of a wrapper, not those of the attack inside."""
        return replace(self, inside=None).load().Params

    def resolved(self) -> Entry:
        """The entry, completed by the attributes of its class where the registration left them out."""
        if self.inside is not None:
            inside = self.inside.resolved()
            preset = {**(inside.preset or {}), **(self.preset or {})}
            return replace(self, preset=preset, free=inside.free, protocol=inside.protocol)
        cls = self.load()
        given = {name: getattr(self, name) for name in ("preset", "free", "protocol")}
        return replace(self, **{name: getattr(cls, name) if v is None else v for name, v in given.items()})

    def _import(self) -> Any:
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        loaded = sys.modules.get(module)
        if loaded is not None and attribute in vars(loaded):  # then no code of it runs any more
            return vars(loaded)[attribute]
        try:
            with foreign_code():
                return getattr(importlib.import_module(module), attribute)
        except BaseException as error:  # a plug-in may raise anything while it is imported
            if from_outside(error):
                raise
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise BrokenPlugin(f"{self.name!r} ({self.origin}) does not import: {reason}") from error

    def source_hash(self) -> str:
        """Hash of the source of the class's module and of what it imports from its own package.

        For a class or a function that a file or a program registered, also of all that it captured, as it is now: see
        `bench.fingerprint`.
        """
        if self.inside is not None:
            own = replace(self, inside=None).source_hash()
            return hashlib.sha256(f"{own} {self.inside.source_hash()}".encode()).hexdigest()
        if isinstance(self.target, str):
            return module_hash(self.target.partition(":")[0])
        from bench.fingerprint import fingerprint  # imports torch, as what brings classes does

        source = self.source if self.origin == PROGRAM else module_hash(self.target.__module__)
        return hashlib.sha256(f"{source} {fingerprint(self.target)}".encode()).hexdigest()

    @property
    def place(self) -> str:
        """The target as "module:Class"."""
        if isinstance(self.target, str):
            return self.target
        named = self.target if hasattr(self.target, "__qualname__") else type(self.target)
        return f"{named.__module__}:{named.__qualname__}"


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
            source = source or source_now(getattr(entry.target, "__module__", ""))
        self._entries[entry.name] = replace(entry, contract=self.contract, parts=self.parts, source=source)

    def __getitem__(self, name: str) -> Entry:
        """The entry of this name; `WRAPPER:NAME` is a wrapper around another, and a wrapper alone has its default."""
        wrapper = self._entries.get(name.partition(":")[0])
        if wrapper is not None and wrapper.wraps:
            last = self._entries.get(name.rpartition(":")[2])
            around = name.split(":")[: None if last is not None and last.wraps else -1]
            if len(around) > MOST_WRAPPERS or len(set(around)) < len(around):
                raise BadValue(
                    f"{name!r:.80} puts {len(around)} wrappers around an attack; give at most {MOST_WRAPPERS}, each "
                    f"once."
                )
            inside = self[name.partition(":")[2] or wrapper.wraps]
            summary = f"{wrapper.summary}; around {inside.name}"
            return replace(wrapper, name=name, summary=summary, inside=inside)
        if name not in self._entries:
            raise UnknownName(self.what, name, self._entries, f"bench list {self.what}s")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        wrapper, _, inside = name.partition(":")
        if inside.count(":") >= MOST_WRAPPERS:
            return False
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

    def drop(self, name: str) -> None:
        """Forget a name, if it is there."""
        self._entries.pop(name, None)

    def clear(self) -> None:
        self._entries.clear()

    def kept(self) -> dict[str, Entry]:
        """A copy of the entries, for `put_back`."""
        return dict(self._entries)

    def put_back(self, entries: dict[str, Entry]) -> None:
        """Go back to the entries that `kept` returned."""
        self._entries = dict(entries)


defenses = Registry("defense", "bench.contracts:Defense")
attacks = Registry("attack", "bench.contracts:Attack")
datasets = Registry("dataset", parts=("Params", "facts", "load", "check"))
models = Registry("model")
protocols = Registry("protocol", "bench.game.protocols.protocol:Protocol")
ALL = (defenses, attacks, datasets, models, protocols)

#: the origin of names that are registered now
_origin: ContextVar[str] = ContextVar("origin", default=PROGRAM)


@contextmanager
def registering_as(origin: str) -> Iterator[None]:
    """Within: what is registered comes from here (`built-in`, or the path of a file)."""
    token = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(token)


def register_defense(
    name: str, target: Any, *, version: int = 1, summary: str = "", base: bool = False, paper: str = "",
    cited: str = "",
) -> None:  # fmt: skip
    """Add a defense. `target`: a `Defense` class or "module:Class"; `base`: it is a train-time defense; `paper`: the
    address of the paper that describes it; `cited`: its authors, year and venue, such as `Wu et al. 2020, ICML`."""
    defenses.add(Entry(name, target, version, summary, _origin.get(), base=base, paper=paper, cited=cited))


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
    attacks.add(Entry(name, target, version, summary, _origin.get(), **known))


def register_dataset(name: str, target: Any, *, summary: str = "") -> None:
    """Add a dataset: see `bench.data` for what the class must have. Its summary may be given, or stand in the class."""
    datasets.add(Entry(name, target, 1, summary or getattr(target, "summary", ""), _origin.get()))


def register_model(name: str, target: Any, *, summary: str = "") -> None:
    """Add a network: a `Network` class, or a function of `num_classes` and `image_shape` that returns one."""
    models.add(Entry(name, target, 1, summary, _origin.get()))


def register_protocol(name: str, target: Any, *, summary: str = "") -> None:
    """Add a protocol. `target`: a `Protocol` class (see `bench.game.protocols.protocol`) or "module:Class"."""
    protocols.add(Entry(name, target, 1, summary, _origin.get()))


def hold(names: Registry, name: str, target: object, summary: str) -> None:
    """Register what a program holds in memory, in place of what it held under the name before.

    `BadValue` where the name is another's.
    """
    if name in names and names[name].origin != PROGRAM:
        raise BadValue(f"{name!r} is a {names.what} already ({names[name].origin}); give another name.")
    if not is_name(name):
        raise BadValue(f"{str(name)[:100]!r} is no name for a {names.what}; {NAME_RULE}.")
    names.drop(name)
    with registering_as(PROGRAM):
        names.add(Entry(name, target, 1, summary, PROGRAM))


def kind_of(name: str) -> str:
    """`defense` or `attack`: what is registered under the name; `UnknownName` if nothing is."""
    for registry in (defenses, attacks):
        if name in registry:
            return registry.what
    raise UnknownName("defense or attack", name, [e.name for e in (*defenses, *attacks)], "bench list")
