"""What every page has in common: the templates, the policy, and the two files that all of them share.

Pages work from a disk and fetch nothing: their policy allows the script and the style that lie beside them, pictures
that stand in them, and nothing else; no code is made from text. Tables are drawn by DataTables (from the package
itables), pictures by Vega in its interpreter mode (from vl-convert).
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).with_name("templates")
ASSETS = Path(__file__).with_name("assets")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)
#: the version of Vega-Lite for which the pictures are made
VEGA_LITE = "6.4"


@cache
def environment() -> Environment:
    """Our templates; whatever is put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A page as text."""
    return environment().get_template(template).render(policy=POLICY, **values)


@cache
def script() -> str:
    """The one script of all pages: the two libraries, each in a scope of its own, and ours."""
    import vl_convert

    pictures = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    own = (ASSETS / "app.js").read_text(encoding="utf-8")
    return "\n".join(f"(function () {{\n{part}\n}})();" for part in (_tables(), pictures, own))


def _tables() -> str:
    """DataTables as a script: the package holds it as a module, which no browser loads from a disk."""
    module = files("itables").joinpath("html/dt_bundle.js").read_text(encoding="utf-8")
    found = re.search(r"export\s*\{[^}]*?(\w+) as jQuery[^}]*\};?", module)
    if found is None:
        raise RuntimeError("itables holds another script than expected; install a version of constraints.txt.")
    return module.replace(found.group(0), f"window.jQuery = {found.group(1)};")


def style() -> str:
    """The one style sheet of all pages."""
    tables = files("itables").joinpath("html/dt_bundle.css").read_text(encoding="utf-8")
    return tables + "\n" + (ASSETS / "site.css").read_text(encoding="utf-8")
