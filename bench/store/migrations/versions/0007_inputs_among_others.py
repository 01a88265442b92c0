"""Inputs of the attacker that are served among those of other users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.add_column(sa.Column("poison", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.drop_column("poison")
