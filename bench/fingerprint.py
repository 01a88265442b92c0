"""What an object in memory holds, as a sha256: tensors, arrays, numbers, code, and what functions and classes captured.

Names and files have source hashes (`bench.source`). An object that a program made has none: two networks of one class
differ in their weights alone, and a class may use a network that stands beside it. The fingerprint covers all that can
be reached. It is the same in every process with the same Python and the same packages.

An installed package is covered by its name, since the versions of what rows depend on stand in a run's environment.
What cannot be looked into (a lock, an open file) counts by its type.
"""

from __future__ import annotations

import decimal
import enum
import fractions
import functools
import hashlib
import pathlib
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.source import module_hash

#: plain values, which their type and their text tell apart
_PLAIN = (
    bool, int, float, complex, str, bytes, type(None), type(Ellipsis), slice, range, pathlib.PurePath,
    decimal.Decimal, fractions.Fraction, np.generic, np.dtype, torch.dtype, torch.device, torch.Size,
)  # fmt: skip
#: modules whose objects are tools, which belong to a process and not to what is fingerprinted
_TOOLS = ("bench.cache", "bench.contracts.defense", "bench.deadline", "bench.execution", "bench.game", "bench.store")
#: names of the folders that installers write to
_PACKAGES = frozenset({"site-packages", "dist-packages"})
#: attributes of a class that say nothing about what it does
_INCIDENTAL = frozenset(
    {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__",
     "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__orig_bases__",
     "__parameters__", "__abstractmethods__", "_abc_impl", "__match_args__", "__dataclass_fields__", "__type_params__"}
)  # fmt: skip


def fingerprint(thing: object) -> str:
    """sha256 of everything that can be reached from `thing`: 64 hex digits."""
    return _Walk().digest(thing)


def tensors_fingerprint(thing: object) -> str:
    """sha256 of the tensors and arrays alone that can be reached from `thing`, in a fixed order: 64 hex digits.

    For what was fitted: counters, clocks and caches beside its tensors may differ. Memory-mapped arrays count by their
    shape: they lie in the cache under a key of their own.
    """
    walk = _Walk()
    walk.digest(thing)
    return hashlib.sha256("".join(sorted(held for held, _ in walk.tensors)).encode()).hexdigest()


def tensors_in(thing: object) -> dict[str, int]:
    """The tensors and arrays that can be reached from `thing`: the sha256 of each, with how many values it holds."""
    walk = _Walk()
    walk.digest(thing)
    return dict(walk.tensors)


class _Walk:
    """One walk over objects; each is looked at once, so that cycles end."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []  # an id is that of one object only while the object lives
        #: the tensors and arrays that were met: digest, number of values
        self.tensors: list[tuple[str, int]] = []

    def digest(self, thing: object) -> str:
        whole = hashlib.sha256()
        for part in self._parts(thing):
            whole.update(f"{len(part)}:".encode())
            whole.update(part)
        return whole.hexdigest()

    def _parts(self, thing: object) -> Iterator[bytes]:
        if isinstance(thing, enum.Enum):
            yield f"enum {type(thing).__qualname__}.{thing.name}".encode()
        elif isinstance(thing, _PLAIN):
            yield f"{type(thing).__name__} {thing!r}".encode()
        elif id(thing) in self._seen:
            yield f"again {self._seen[id(thing)]}".encode()
        else:
            self._seen[id(thing)] = len(self._seen)
            self._kept.append(thing)
            yield from self._new(thing)

    def _new(self, thing: Any) -> Iterator[bytes]:
        if isinstance(thing, torch.Tensor | np.ndarray):
            held = self._held(thing)
            self.tensors.append((held, thing.size if isinstance(thing, np.ndarray) else thing.numel()))
            yield held.encode()
        elif isinstance(thing, torch.Generator):
            yield from self._parts(thing.get_state())
        elif isinstance(thing, type):
            yield from self._class(thing)
        elif isinstance(thing, types.FunctionType):
            yield from self._function(thing)
        elif isinstance(thing, torch.jit.ScriptModule):
            yield b"script"
            yield from self._each([getattr(thing, "code", ""), dict(thing.state_dict())])
        elif isinstance(thing, types.BuiltinFunctionType):
            yield f"built-in {thing.__module__}.{thing.__qualname__}".encode()
        elif isinstance(thing, types.MethodType):
            yield b"method"
            yield from self._each([thing.__func__, thing.__self__])
        elif isinstance(thing, functools.partial):
            yield b"partial"
            yield from self._each([thing.func, thing.args, thing.keywords])
        elif isinstance(thing, staticmethod | classmethod):
            yield from self._parts(thing.__func__)
        elif isinstance(thing, property):
            yield b"property"
            yield from self._each([thing.fget, thing.fset])
        elif isinstance(thing, types.ModuleType):
            yield f"module {thing.__name__}".encode()
        elif isinstance(thing, types.CodeType):
            yield from self._code(thing)
        elif isinstance(thing, Mapping):
            yield f"mapping {len(thing)}".encode()
            for key, value in thing.items():
                yield from self._each([key, value])
        elif isinstance(thing, set | frozenset):
            yield f"set {len(thing)}".encode()
            yield from (part.encode() for part in sorted(_Walk().digest(item) for item in thing))
        elif isinstance(thing, Sequence):
            yield f"{type(thing).__name__} {len(thing)}".encode()
            yield from self._each(thing)
        else:
            yield from self._object(thing)

    def _each(self, things: Any) -> Iterator[bytes]:
        return (self.digest(thing).encode() for thing in things)

    def _held(self, thing: torch.Tensor | np.ndarray[Any, Any]) -> str:
        """The digest of a tensor or an array: its type, its shape and its bytes."""
        array: Any
        if isinstance(thing, np.ndarray):
            head, mapped = f"{thing.dtype} {thing.shape}", _memory_mapped(thing)
            array = thing
        else:
            head, mapped = f"{thing.dtype} {tuple(thing.shape)}", thing.is_meta
            array = None if mapped else _as_bytes(thing)
        whole = hashlib.sha256(head.encode())
        if not mapped:
            if array.dtype == object:
                whole.update("".join(self._each_text(array.ravel().tolist())).encode())
            else:
                whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return whole.hexdigest()

    def _each_text(self, things: list[Any]) -> Iterator[str]:
        return (self.digest(thing) for thing in things)

    def _class(self, cls: type) -> Iterator[bytes]:
        yield f"class {cls.__qualname__}".encode()
        if _installed(cls.__module__):
            yield cls.__module__.encode()
            if cls.__module__.partition(".")[0] in ("attacks", "defenses"):
                yield module_hash(cls.__module__).encode()
            return
        yield from self._each(cls.__bases__)
        for name, value in sorted(vars(cls).items()):
            if name not in _INCIDENTAL:
                yield name.encode()
                yield self.digest(value).encode()

    def _function(self, function: types.FunctionType) -> Iterator[bytes]:
        yield f"function {function.__qualname__}".encode()
        if _installed(function.__module__):
            yield str(function.__module__).encode()
        else:
            yield from self._code(function.__code__)
            yield from self._each([function.__defaults__, function.__kwdefaults__])
            yield from self._each(_referenced(function))
        for cell in function.__closure__ or ():
            try:
                yield self.digest(cell.cell_contents).encode()
            except ValueError:  # a cell that is not filled yet
                yield b"empty"

    def _code(self, code: types.CodeType) -> Iterator[bytes]:
        yield code.co_code
        yield from (name.encode() for name in (*code.co_names, *code.co_varnames, *code.co_freevars))
        yield from self._each(code.co_consts)

    def _object(self, thing: Any) -> Iterator[bytes]:
        kind = type(thing)
        yield b"object"
        yield self.digest(kind).encode()
        if _opaque(kind):
            return
        values = dict(getattr(thing, "__dict__", {}) or {})
        for slot in (name for base in kind.__mro__ for name in _slots(base)):
            if hasattr(thing, slot):
                values[slot] = getattr(thing, slot)
        if isinstance(thing, nn.Module):
            values.pop("training", None)  # whoever plays it puts it into evaluation mode
        for name, value in sorted(values.items(), key=lambda item: str(item[0])):
            yield str(name).encode()
            yield self.digest(value).encode()


def _opaque(kind: type) -> bool:
    """Whether objects of a class count by their type alone: those of Python itself, and torch's inner machinery."""
    top = kind.__module__.partition(".")[0]
    python = top in sys.stdlib_module_names and top != "__main__" and kind is not types.SimpleNamespace
    return python or kind.__module__.startswith(("torch._", *_TOOLS))


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _as_bytes(tensor: torch.Tensor) -> Any:
    """The values of a tensor as an array of bytes, or of integers where it is quantised."""
    values = tensor.detach()
    if values.is_quantized:
        values = values.dequantize()
    if values.layout is not torch.strided:
        values = values.to_dense()
    return values.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _memory_mapped(array: np.ndarray[Any, Any]) -> bool:
    base: Any = array
    while base is not None:
        if isinstance(base, np.memmap):
            return True
        base = getattr(base, "base", None)
    return False


def _referenced(function: types.FunctionType) -> list[Any]:
    """The global values that a function names, by name; of a module of the program, its attributes that it names."""
    names = sorted(_names(function.__code__))
    found: list[Any] = []
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        found += [name, value]
        if isinstance(value, types.ModuleType) and not _installed(value.__name__):
            found += [part for other in names if hasattr(value, other) for part in (other, getattr(value, other))]
    return found


def _names(code: types.CodeType) -> set[str]:
    """The global names and attributes in a piece of code and in the functions inside it."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


@functools.lru_cache(maxsize=4096)
def _installed(module: str | None) -> bool:
    """Whether a module belongs to Python, to an installed package or to this project: its name tells what it does."""
    top = (module or "").partition(".")[0]
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return top != "__main__"
    if top in ("bench", "attacks", "defenses", "leaderboard"):
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if not file:
        return False
    path = pathlib.Path(file)
    if not _PACKAGES.isdisjoint(path.parts):  # of this environment, or of one that it builds upon
        return True
    folders = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")]
    folders.append(str(pathlib.Path(torch.__file__).parents[1]))  # packages may lie in any folder of PYTHONPATH
    return any(path.is_relative_to(folder) for folder in folders if folder)
