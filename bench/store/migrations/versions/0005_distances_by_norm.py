"""The distances of an example as one column, by norm: a new norm needs no new column."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: the norms that had a column of their own
NORMS = ("linf", "l2", "l0")
#: rows that are held in memory at once
BLOCK = 5_000


def upgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.add_column(sa.Column("distances", sa.JSON, nullable=False, server_default="{}"))
    _rewrite(NORMS, lambda row: {"distances": {norm: getattr(row, norm) for norm in NORMS}})
    with op.batch_alter_table("examples") as table:
        table.alter_column("distances", server_default=None)
        for norm in NORMS:
            table.drop_column(norm)


def downgrade() -> None:
    with op.batch_alter_table("examples") as table:
        for norm in NORMS:
            table.add_column(sa.Column(norm, sa.Float(53), nullable=True))
    _rewrite(("distances",), lambda row: {norm: row.distances.get(norm) for norm in NORMS})
    with op.batch_alter_table("examples") as table:
        table.drop_column("distances")


def _rewrite(read: tuple[str, ...], changed: Any) -> None:
    """Write the values that `changed` gives for each row, block by block. Not in SQL: SQLite rounds floats in JSON."""
    connection = op.get_bind()
    kinds: dict[str, Any] = {**dict.fromkeys(NORMS, sa.Float(53)), "distances": sa.JSON()}
    names = ("run", "game", "position")
    table = sa.table("examples", *(sa.column(name) for name in names), *(sa.column(n, k) for n, k in kinds.items()))
    place = [getattr(table.c, name) for name in names]
    wanted = sa.select(*place, *(getattr(table.c, name) for name in read)).order_by(*place).limit(BLOCK)
    after: tuple[Any, ...] | None = None
    while True:
        query = wanted if after is None else wanted.where(sa.tuple_(*place) > sa.tuple_(*map(sa.literal, after)))
        rows = connection.execute(query).all()
        if not rows:
            return
        update = table.update().where(*(column == sa.bindparam(f"at_{column.name}") for column in place))
        values = [{**{f"at_{name}": getattr(row, name) for name in names}, **changed(row)} for row in rows]
        connection.execute(update.values({name: sa.bindparam(name) for name in changed(rows[0])}), values)
        after = tuple(rows[-1][:3])
