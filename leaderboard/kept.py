"""What this program has written into the folder of a site, so that a page that shows nothing new is not drawn again.

A file in the folder says of each page what it was made from and which bytes it has. Whoever has the folder can change
that file, so nothing in it is believed that is not looked up: where it is damaged, every page is drawn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cache import write_atomic

#: the file in the folder of a site
FILE = "pages.json"
#: the form of that file; another form is not read
FORM = 1
#: pages that may be removed: those of defenses and of runs
REMOVABLE = re.compile(r"(defenses/[a-z0-9][a-z0-9-]*|runs/[0-9a-f]{1,16})\.html")


@dataclass(frozen=True)
class Page:
    """One page as it was written.

    inputs   digest of all that it is a function of; "": it is written every time
    sha256   of its bytes
    uses     artefacts that were looked for when it was drawn, each with what was there (see `StoredRuns.stamp`)
    """

    inputs: str
    sha256: str
    uses: Mapping[str, str] = field(default_factory=dict)


class Kept:
    """The pages in the folder of a site: those that earlier calls wrote, and those of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = _read(folder / FILE)
        self._now: dict[str, Page] = {}

    def stays(self, address: str, inputs: str, stamp: Callable[[str], str] = lambda name: "") -> bool:
        """Whether a page would be drawn as it lies there: then it belongs to the site as it is.

        inputs: of the page now; stamp: what is there now of an artefact.
        """
        known = self._before.get(address)
        if known is None or not inputs or known.inputs != inputs or self._sha256(address) != known.sha256:
            return False
        if any(stamp(name) != there for name, there in known.uses.items()):
            return False
        self._now[address] = known
        return True

    def write(self, address: str, text: str, inputs: str = "") -> None:
        """Write a page, and note it."""
        self.note(address, Page(inputs, write_page(self.folder, address, text)))

    def note(self, address: str, page: Page) -> None:
        """Note a page that was written."""
        self._now[address] = page

    def remove_others(self) -> None:
        """Remove the pages of earlier calls that do not belong to the site now, unless somebody edited them since."""
        for address, page in self._before.items():
            gone = address not in self._now and REMOVABLE.fullmatch(address)
            if gone and self._sha256(address) == page.sha256:
                (self.folder / address).unlink(missing_ok=True)

    def save(self, whole: bool = True) -> None:
        """Write the file. whole: all pages of the site are noted; else those of earlier calls stay noted too."""
        if not whole and not self._now:
            return
        pages = self._now if whole else {**self._before, **self._now}
        listed = {address: asdict(page) for address, page in sorted(pages.items())}
        write_atomic(self.folder / FILE, json.dumps({"form": FORM, "pages": listed}, indent=0).encode())

    def _sha256(self, address: str) -> str:
        """sha256 of a file of the site; "" where there is none, or something that is no file."""
        path = self.folder / address
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        except OSError:  # it is written anew, which says why that cannot be
            return ""


def write_page(folder: Path, address: str, text: str) -> str:
    """Write a page whole; its sha256."""
    data = text.encode()
    write_atomic(folder / address, data)
    return hashlib.sha256(data).hexdigest()


def _read(path: Path) -> dict[str, Page]:
    """The pages that the file names; none where there is no such file, or it is not what this program writes."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        held = json.loads(path.read_bytes())
        if held["form"] != FORM:
            return {}
        return {str(address): _page(page) for address, page in held["pages"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def _page(held: Any) -> Page:
    page = Page(**held)
    texts = [page.inputs, page.sha256, *page.uses.values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("it holds what is no text")
    return page
