"""Results in a database: SQLite by default, any SQLAlchemy URL. Only this package knows SQLAlchemy."""

from bench.store.store import Claim, GameRecord, LeaseLost, RunRecord, Store

__all__ = ["Claim", "GameRecord", "LeaseLost", "RunRecord", "Store"]
