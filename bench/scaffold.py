"""Writes the files of a new defense or attack: a working example with its test, to be changed."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from bench import registry
from bench.errors import BadValue, UnknownName

TEMPLATES = Path(__file__).with_name("templates")
#: what `bench new` can begin, and of which kinds; the first is the default
KINDS: dict[str, tuple[str, ...]] = {"defense": ("static", "online"), "attack": ()}


@dataclass(frozen=True)
class NewFile:
    """A file to write."""

    path: Path
    text: str


def new_plugin(what: str, name: str, kind: str | None, folder: Path) -> list[NewFile]:
    """The plug-in and its test, not written yet, for the folder of a bench.toml. The registries must be loaded.

    what  `defense` or `attack`
    kind  of a defense: `static` or `online`; None: the first

    Raises `BadValue` if the name is invalid or taken, or if a file already exists.
    """
    if what not in KINDS:
        raise UnknownName("kind of plug-in", what, KINDS)
    _check_kind(what, kind)
    _check_name(name)
    module = name.replace("-", "_")
    template = f"{kind or KINDS[what][0]}_defense" if what == "defense" else "attack"
    plugin, test = folder / f"{what}s" / f"{module}.py", folder / "tests" / f"test_{module}.py"
    words = {
        "name": name,
        "module": module,
        "cls": class_name(name),
        "kind": what,
        "group": f"{what}s",
    }
    files = [NewFile(plugin, _filled(template, words)), NewFile(test, _filled("test_plugin", words))]
    for file in files:
        if file.path.exists() or file.path.is_symlink():
            raise BadValue(f"{file.path} exists already; choose another name, or move it away.")
    return files


def write_new(files: list[NewFile]) -> None:
    """Write all files, or none of them if one cannot be written (`BadValue`). Existing files are overwritten."""
    parts: list[Path] = []
    try:
        for file in files:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            parts.append(file.path.with_name(f"{file.path.name}.part"))
            parts[-1].write_text(file.text, encoding="utf-8")
        for part, file in zip(parts, files, strict=True):
            part.replace(file.path)
    except OSError as error:
        for part in parts:
            part.unlink(missing_ok=True)
        raise BadValue(
            f"{error.filename or files[0].path} cannot be made: {error.strerror}; work in another folder."
        ) from None


def class_name(name: str) -> str:
    """`rmc-plus` as a class: RmcPlus."""
    return "".join(part[:1].upper() + part[1:] for part in re.split("[-_]+", name))


def _check_kind(what: str, kind: str | None) -> None:
    if kind is None or kind in KINDS[what]:
        return
    if not KINDS[what]:
        raise BadValue(f"--kind is {kind!r}, but only a defense is of a kind; drop it.")
    raise BadValue(f"--kind is {kind!r}; give {' or '.join(KINDS[what])}.")


def _check_name(name: str) -> None:
    """Raise `BadValue` unless the name can be registered, and made into a module and a class."""
    spelled = re.fullmatch(r"[A-Za-z]+[A-Za-z0-9]*([-_][A-Za-z0-9]+)*", name) and registry.is_name(name)
    if not spelled or keyword.iskeyword(class_name(name)):
        raise BadValue(
            f"{name!r} cannot be the name of a plug-in; give letters and digits, with single '-' or '_' between them, "
            f"such as my-defense."
        )
    for known in (registry.defenses, registry.attacks):
        if name in known:
            raise BadValue(f"{name!r} is the name of another {known.what} ({known[name].origin}); choose another.")


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((TEMPLATES / f"{template}.py.txt").read_text(encoding="utf-8")).substitute(words)
