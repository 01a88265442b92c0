"""What every page has in common: the templates, the content security policy, the script and the style sheet.

Pages work from a disk and fetch nothing from a network. The policy allows the script and the style sheet of the site
and images inside the page, and nothing else; no text is evaluated as code. DataTables (files in `assets/vendor`) draws
the tables, Vega in its interpreter mode (from vl-convert) draws the charts.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.config import SiteSection

TEMPLATES = Path(__file__).with_name("templates")
ASSETS = Path(__file__).with_name("assets")
VENDOR = ASSETS / "vendor"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'"
)
#: the version of Vega-Lite that the specifications of the charts are for
VEGA_LITE = "6.4"


@cache
def environment() -> Environment:
    """The templates. Every value in them is escaped."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(frozen=True)
class Site:
    """What every page says of the site: `bench.config.SiteSection`, and when it was made."""

    about: SiteSection
    made: str


def render(template: str, site: Site, root: str, **values: Any) -> str:
    """A page as text. root: the way from the page to the root of the site, such as `../`."""
    return environment().get_template(template).render(policy=POLICY, site=site, root=root, **values)


@cache
def script() -> str:
    """The script of all pages: the libraries and app.js, each in its own scope."""
    import vl_convert

    charts = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    own = (ASSETS / "app.js").read_text(encoding="utf-8")
    return "\n".join(f"(function () {{\n{part}\n}})();" for part in (*_vendored(".js"), charts, own))


def style() -> str:
    """The style sheet of all pages."""
    return "\n".join([*_vendored(".css"), (ASSETS / "site.css").read_text(encoding="utf-8")])


def _vendored(ending: str) -> list[str]:
    """The files of others with this ending, in the order in which they are needed."""
    listed = tomllib.loads((VENDOR / "vendor.toml").read_text(encoding="utf-8"))["file"]
    names = [Path(one["path"]).name for one in listed]
    return [(VENDOR / name).read_text(encoding="utf-8") for name in names if name.endswith(ending)]
