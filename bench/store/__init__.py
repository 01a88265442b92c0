"""Results in a database: a SQLite file by default, or a PostgreSQL server. Only this package imports SQLAlchemy."""

from bench.store.folder import Needs, files_of, shares_files
from bench.store.games import GameRecord
from bench.store.glance import Glance, glance_at
from bench.store.leases import Claim, LeaseLost
from bench.store.merged import WholeRun
from bench.store.runs import RunRecord
from bench.store.store import Store, in_parts

__all__ = [
    "Claim",
    "GameRecord",
    "Glance",
    "LeaseLost",
    "Needs",
    "RunRecord",
    "Store",
    "WholeRun",
    "files_of",
    "glance_at",
    "in_parts",
    "shares_files",
]
