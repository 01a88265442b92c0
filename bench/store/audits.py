"""Audits: the verdict of each, under the key of what was audited and how."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.store.tables import AuditRow


def put_audit(session: Session, key: str, result: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Insert a verdict, or replace an older one with the same key."""
    cell = {name: result[name] for name in ("defense", "base", "dataset", "budget")}
    session.merge(AuditRow(key=key, **cell, result=result, provenance=provenance, created=time.time()))


def audits(session: Session) -> list[dict[str, Any]]:
    """All verdicts, oldest first."""
    return [row.result for row in session.scalars(select(AuditRow).order_by(AuditRow.created, AuditRow.key))]
