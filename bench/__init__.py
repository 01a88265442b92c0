"""A harness that plays attacks against defenses and keeps the score.

`bench.evaluate(net, x, y, eps="8/255")` attacks a network on arrays; `bench.run("rmc", "pgd")` plays a run by names, as
the command line does; `bench.load()` gives what is stored.
`from bench import Attack, Defense, OnlineDefense, register_attack, register_defense, ...`: names are loaded on use, so
that listing what exists imports nothing heavy.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "bench.contracts.base": ("Base",),
    "bench.contracts": (
        "Attack",
        "BatchDefense",
        "Context",
        "Defense",
        "DefenseInfo",
        "Effort",
        "OnlineDefense",
        "StaticDefense",
        "in_blocks",
        "shallow_fork",
    ),
    "bench.draws": ("Draws", "generator", "seed_of"),
    "bench.errors": ("BenchError",),
    "bench.in_memory": ("audit", "compare", "evaluate", "verify"),
    "bench.library": ("load", "results", "run", "run_suite"),
    "bench.analysis.intervals": ("Estimate",),
    "bench.models.frozen": ("frozen_copy",),
    "bench.models.network": ("Network",),
    "bench.models.zoo": ("zoo",),
    "bench.contracts.oracle": ("Oracle", "Simulation"),
    "bench.game.protocols.protocol": ("Protocol",),
    "bench.values": ("Params", "State"),
    "bench.registry": (
        "register_attack",
        "register_dataset",
        "register_defense",
        "register_model",
        "register_protocol",
    ),
    "bench.analysis.result": ("Result", "Results"),
    "bench.threat": ("ThreatModel",),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
