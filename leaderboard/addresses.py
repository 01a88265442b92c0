"""Where pages lie in the site, relative to its root, and which addresses elsewhere a page may link to."""

from __future__ import annotations

import hashlib
import re

from bench import registry


def slug(name: str) -> str:
    """A file name for any name: the name itself if it is harmless, else its harmless letters and a digest."""
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", name):
        return name
    letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{letters}-{hashlib.sha256(name.encode()).hexdigest()[:10]}".lstrip("-")


def defense_address(defense: str) -> str:
    """The page of a defense."""
    return f"defenses/{slug(defense)}.html"


def run_address(key: str) -> str:
    """The page of a run, if it has one."""
    return f"runs/{key[:16]}.html"


def registered(defense: str) -> registry.Entry | None:
    """What is registered under this name; None if the plug-in that had it is gone."""
    return registry.defenses[defense] if defense in registry.defenses else None  # noqa: SIM401  not a dictionary


def paper_address(defense: str) -> str:
    """The paper of a defense; "" if there is none, or if the text that the plug-in gave is no https address."""
    known = registered(defense)
    return known.paper if known is not None and known.paper.startswith("https://") else ""
