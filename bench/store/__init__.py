"""Results in a database: a SQLite file by default, or a PostgreSQL server. Only this package imports SQLAlchemy."""

from bench.store.folder import Needs, files_of, is_sqlite, named_files, shares_files, sqlite_file, user_files
from bench.store.games import GameRecord
from bench.store.glance import Glance, glance_at
from bench.store.leases import Claim, LeaseLost
from bench.store.merged import WholeRun
from bench.store.rescue import Rescued, damage_in, rescue
from bench.store.runs import RunRecord
from bench.store.setup import prepare
from bench.store.store import Store, in_parts
from bench.store.summaries import StoredSummary

__all__ = [
    "Claim",
    "GameRecord",
    "Glance",
    "LeaseLost",
    "Needs",
    "Rescued",
    "RunRecord",
    "Store",
    "StoredSummary",
    "WholeRun",
    "damage_in",
    "files_of",
    "glance_at",
    "in_parts",
    "is_sqlite",
    "named_files",
    "prepare",
    "rescue",
    "shares_files",
    "sqlite_file",
    "user_files",
]
