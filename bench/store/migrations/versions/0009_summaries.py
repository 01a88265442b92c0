"""A summary of each finished run, so that who lists runs reads no rows. It is made anew where it is missing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "summaries",
        sa.Column("run", sa.String(64), sa.ForeignKey("runs.key", ondelete="CASCADE"), primary_key=True),
        sa.Column("stamp", sa.String(64), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("outcomes", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("summaries")
