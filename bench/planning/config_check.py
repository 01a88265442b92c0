"""Checks the sections of bench.toml that hold values by name: every name and every key in them must be known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from bench import registry
from bench.config import Config, validation_error
from bench.errors import BadValue, BrokenPlugin, UnknownName
from bench.norms import NORMS
from bench.threat import ThreatModel, parse_number
from bench.values import Params


def game_keys() -> set[str]:
    """The keys of [game]: `protocol`, and those of every protocol that loads."""
    keys = {"protocol"}
    for entry in registry.protocols:
        with suppress(BrokenPlugin):  # reported when the plug-in is used
            keys |= set(entry.load().Params.model_fields)
    return keys


def check_sections(config: Config) -> None:
    """Raise `UnknownName`, with the nearest name, for an unknown name or key; `BadValue` for what is no table."""
    _check_plugins("", config.base, config.defense, config.attack)
    _check_keys("game", config.game, game_keys())
    families: dict[str, list[registry.Entry]] = defaultdict(list)
    for entry in (*registry.defenses, *registry.attacks) if config.recipe else ():
        families[_family(entry)].append(entry)
    for family, recipes in config.recipe.items():
        _check_name("recipe", family, families)
        known = _recipe_keys(families[family])
        for recipe, values in recipes.items():
            for part in (values, *(_table(f"recipe.{family}.{recipe}", n, v) for n, v in _own(values))):
                keys = [key for key, value in part.items() if not isinstance(value, dict)]
                if known is not None:
                    _check_keys(f"recipe.{family}.{recipe}", keys, known)
            for name, _ in _own(values):
                _check_name(f"recipe.{family}.{recipe}", name, [entry.name for entry in registry.datasets])
    for name, values in config.dataset.items():
        _check_dataset(name, values)


def _check_dataset(name: str, values: dict[str, Any]) -> None:
    where = f"dataset.{name}"
    _check_name("dataset", name, [entry.name for entry in registry.datasets])
    tables = ("eps", "game", "threat", "base", "defense", "attack")
    params = registry.datasets.load(name).Params.model_fields
    _check_keys(where, values, [*params, *tables])
    _check_keys(f"{where}.eps", _table(where, "eps", values.get("eps", {})), NORMS)
    _check_keys(f"{where}.game", _table(where, "game", values.get("game", {})), game_keys())
    threat = [field.name for field in fields(ThreatModel)]
    _check_keys(f"{where}.threat", _table(where, "threat", values.get("threat", {})), threat)
    plugins = [_table(where, section, values.get(section, {})) for section in ("base", "defense", "attack")]
    _check_plugins(f"{where}.", *plugins)


def _check_plugins(prefix: str, base: dict[str, Any], defense: dict[str, Any], attack: dict[str, Any]) -> None:
    sections = (("base", base, registry.defenses), ("defense", defense, registry.defenses))
    for section, values, names in (*sections, ("attack", attack, registry.attacks)):
        for name, keys in values.items():
            _check_name(f"{prefix}{section}", name, [entry.name for entry in names])
            try:
                params = names[name].section_params()
            except BrokenPlugin:
                continue  # reported when the plug-in is used; its keys are not known here
            where, known = f"{prefix}{section}.{name}", set(params.model_fields)
            more = ["seed"] if section == "base" else []
            _check_keys(where, _table(f"{prefix}{section}", name, keys), [*known, *more])
            for key in known & set(keys):
                _check_value(where, params, key, keys[key])


def _check_value(where: str, params: type[Params], key: str, value: Any) -> None:
    """`BadValue` for a value that its parameter cannot take, also where another layer's value is used instead of it."""
    if params.model_fields[key].annotation is float and isinstance(value, str):
        parse_number(f"{where}.{key}", value)
        return
    try:
        params(**{key: value})
    except ValidationError as error:
        if error.errors()[0]["loc"][:1] == (key,):  # else values do not go together, which the plan finds
            raise validation_error(error, params, f"[{where}]") from None


def _family(entry: registry.Entry) -> str:
    try:
        return entry.load().recipe_family or entry.name
    except BrokenPlugin:
        return entry.name


def _recipe_keys(family: Iterable[registry.Entry]) -> set[str] | None:
    """The parameters of all plug-ins of a recipe family; None if one of them does not load."""
    try:
        return {key for entry in family for key in entry.load().Params.model_fields}
    except BrokenPlugin:
        return None


def _own(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The tables of a recipe that hold its values for one dataset."""
    return [(name, value) for name, value in values.items() if isinstance(value, dict)]


def _table(where: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadValue(f"{where}.{name} in bench.toml is {value!r}; it is a section with keys of its own.")
    return value


def _check_name(section: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UnknownName("section of bench.toml", f"{section}.{name}", [f"{section}.{other}" for other in known])


def _check_keys(section: str, given: Iterable[str], known: Iterable[str]) -> None:
    for key in given:
        if key not in known:
            raise UnknownName(f"key of [{section}] in bench.toml", key, known)
