"""Which runs a suite holds; labels of an example's neighbours; the delay of every answer to a background."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "suite_runs",
        sa.Column("suite", sa.String(200), primary_key=True),
        sa.Column("run", sa.String(64), primary_key=True),
    )
    op.add_column("examples", sa.Column("neighbours", sa.JSON))
    op.add_column("games", sa.Column("background_delays", sa.JSON))


def downgrade() -> None:
    op.drop_column("games", "background_delays")
    op.drop_column("examples", "neighbours")
    op.drop_table("suite_runs")
