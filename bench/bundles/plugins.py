"""Plug-in code of a bundle: it runs only where the one who merges says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from bench import plugins, registry
from bench.bundles.archive import Archive, plugin_name
from bench.bundles.check import content
from bench.bundles.manifest import Manifest, PluginForm
from bench.execution.session import Session, names_used
from bench.planning.spec import RunSpec


def with_plugins(
    session: Session, archive: Archive, manifest: Manifest, folder: Path, trust: bool
) -> tuple[Session, dict[str, str]]:
    """Check the sources of a bundle, and load those of names that are not registered here if they are trusted.

    The session that knows them, and where the network files lie, by the name of the network. Without trust the files
    are neither written nor run.
    """
    for plugin in manifest.plugins:
        if plugin.file:
            content(archive, manifest, plugin_name(plugin.file))
    if not trust:
        return session, {}
    files, networks = [], {}
    for plugin in manifest.plugins:
        if not plugin.file or _is_here(plugin):
            continue
        path = folder / plugin.file / _file_name(plugin)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(archive, manifest, plugin_name(plugin.file)))
        if plugin.what == "model" and ".py:" in plugin.name:
            networks[plugin.name] = f"{path}:{plugin.name.rpartition(':')[2]}"
        else:
            files.append(str(path))
    if not files:
        return session, networks
    known = (*session.plugins, *dict.fromkeys(files))
    plugins.load_all(session.path, known)
    return replace(session, plugins=known), networks


def trusted(archive: Archive, run: str, spec: RunSpec, trust: bool) -> None:
    """`BadBundle` where a replay needs code of a file that a bundle names, and nobody trusts it."""
    files = [f"network {part.name!r}" for part in (spec.network, spec.surrogate) if part and ".py:" in part.name]
    missing = [f"{names.what} {name!r}" for names, name in names_used(spec) if name not in names and ":" not in name]
    if (named := [*files, *(one for one in missing if spec.network.name not in one)]) and not trust:
        raise archive.wrong(
            f"its run {run[:12]} needs the {named[0]:.120}, which is code and not here: read that of the bundle, then "
            f"replay with --trust, or give a file of your own with --plugin"
        )


def _is_here(plugin: PluginForm) -> bool:
    names = next(names for names in registry.ALL if names.what == plugin.what)
    return plugin.name in names


def _file_name(plugin: PluginForm) -> str:
    """The name of the file that is written: that of a network enters its run's key; the others may have any."""
    name = plugin.name.rpartition(":")[0]
    return name if plugin.what == "model" and re.fullmatch(r"[A-Za-z0-9_-]{1,100}\.py", name) else "plugin.py"
