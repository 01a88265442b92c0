"""Results in a database: SQLite by default, any SQLAlchemy URL. Only this package knows SQLAlchemy."""

from bench.store.glance import Glance, glance_at
from bench.store.store import Claim, GameRecord, LeaseLost, Needs, RunRecord, Store, files_of, shares_files

__all__ = [
    "Claim",
    "GameRecord",
    "Glance",
    "LeaseLost",
    "Needs",
    "RunRecord",
    "Store",
    "files_of",
    "glance_at",
    "shares_files",
]
