"""Results in a database: SQLite by default, any SQLAlchemy URL. Only this package knows SQLAlchemy."""

from bench.store.store import Claim, LeaseLost, RunRecord, Store

__all__ = ["Claim", "LeaseLost", "RunRecord", "Store"]
