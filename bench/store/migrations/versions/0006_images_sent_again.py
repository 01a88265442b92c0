"""The answers to an image that is sent several times, and to the clean image."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.add_column(sa.Column("resent", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.drop_column("resent")
