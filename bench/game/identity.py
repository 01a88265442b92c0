"""One key, one thing: what is fitted or loaded under a key must be what was fitted under it before.

A key holds the source and the parameters of a plug-in. A network, an array or a file that it reads besides does not
stand in them. So the tensors of what is fitted are fingerprinted, and the fingerprint is kept beside the artefacts that
depend on them.
"""

from __future__ import annotations

from bench.cache import Cache, digest, is_own_file, write_atomic
from bench.errors import ChangedFit
from bench.fingerprint import tensors_fingerprint

#: the kind of artefact
FITS = "fits"


def hold_against(cache: Cache, key: str, what: str, thing: object) -> None:
    """Keep the fingerprint of the tensors of `thing`; `ChangedFit` if another one was kept under the key before.

    what: names the thing in the error.
    """
    found, known = tensors_fingerprint(thing), kept(cache, key)
    if not known:
        write_atomic(cache.path(FITS, key), f"{found} {digest(found)}".encode())
    elif known != found:
        raise ChangedFit(
            f"{what} holds other tensors than when it was first made under this key (fingerprint {known[:12]}, now "
            f"{found[:12]}): it reads something that its source and parameters do not show, such as a file or a "
            f"captured network, or its fit is no function of context.seed. Make that a parameter or raise its version; "
            f"to forget the first one, run: bench cache prune --kind {FITS}"
        )


def kept(cache: Cache, key: str) -> str:
    """The fingerprint that is kept under a key; "" where there is none, or where its file is damaged or refused."""
    path = cache.path(FITS, key)
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if is_own_file(path) else ""
    except OSError:
        return ""
    known, _, proof = text.partition(" ")
    return known if proof == digest(known) else ""
