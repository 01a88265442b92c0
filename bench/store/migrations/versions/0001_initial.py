"""Runs, games, examples and images."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("defense", sa.String(200), nullable=False),
        sa.Column("base", sa.String(200), nullable=False),
        sa.Column("attack", sa.String(200), nullable=False),
        sa.Column("dataset", sa.String(200), nullable=False),
        sa.Column("clean_key", sa.String(64)),
        sa.Column("provenance", sa.JSON, nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process_start", sa.Float(53), nullable=False),
        sa.Column("heartbeat", sa.Float(53), nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("finished", sa.Float(53)),
    )
    op.create_index("runs_by_cell", "runs", ["dataset", "defense", "attack"])
    op.create_table(
        "games",
        _run(),
        sa.Column("game", sa.Integer, primary_key=True),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("served", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("attack_s", sa.Float(53), nullable=False),
        sa.Column("defense_s", sa.Float(53), nullable=False),
        sa.Column("wall_s", sa.Float(53), nullable=False),
        sa.Column("background_answers", sa.Integer, nullable=False),
        sa.Column("background_steps", sa.Integer, nullable=False),
        sa.Column("background_s", sa.Float(53), nullable=False),
        sa.Column("flags", sa.JSON, nullable=False),
    )
    op.create_table(
        "examples",
        _run(),
        sa.Column("game", sa.Integer, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("index", "label", "answer")),
        sa.Column("clean_answer", sa.Integer),
        *(sa.Column(name, sa.Float(53)) for name in ("linf", "l2", "l0")),
        sa.Column("violation", sa.Text, nullable=False),
        sa.Column("x_sha256", sa.String(64), nullable=False),
        sa.Column("adv_sha256", sa.String(64), nullable=False),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("forwards", "backwards", "queries", "simulated", "adaptation_steps")
        ),
        sa.Column("believed", sa.Boolean),
        sa.Column("fooled_inside", sa.Boolean),
        sa.Column("attack_s", sa.Float(53), nullable=False),
        sa.Column("defense_s", sa.Float(53), nullable=False),
    )
    op.create_table(
        "images",
        _run(),
        sa.Column("game", sa.Integer, primary_key=True),
        sa.Column("start", sa.Integer, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("file", sa.String(64), nullable=False),
    )


def _run() -> sa.Column[str]:
    return sa.Column("run", sa.String(64), sa.ForeignKey("runs.key", ondelete="CASCADE"), primary_key=True)


def downgrade() -> None:
    for table in ("images", "examples", "games", "runs"):
        op.drop_table(table)
