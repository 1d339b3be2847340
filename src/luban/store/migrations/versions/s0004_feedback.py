"""What callers say of answers, and which of their posts were taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables."""
    name, time = sa.String(64), sa.String(32)
    op.create_table(
        "feedback",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", time, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("until", time),
        sa.Column("tenant", name, nullable=False),
        sa.Column("caller", name, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("model", name, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("answer", time, nullable=False),
        sa.Column("rollout", sa.Integer),
        sa.Column("unit", time, nullable=False),
        sa.Column("wrong", sa.Boolean),
        sa.Column("text", sa.Text),
        sa.Column("truth", sa.Text),
        sa.Column("said", sa.Text),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("masked", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.UniqueConstraint("id", name="feedback_id"),
        sa.CheckConstraint("state IN ('quarantined', 'approved', 'rejected')", name="feedback_state"),
    )
    op.create_index("feedback_model", "feedback", ["model", "seq"])
    op.create_index("feedback_source", "feedback", ["source"])
    op.create_index("feedback_until", "feedback", ["until"])
    tried = sa.text("rollout IS NOT NULL")
    op.create_index("feedback_rollout", "feedback", ["rollout"], sqlite_where=tried, postgresql_where=tried)
    op.create_table(
        "feedback_posts",
        sa.Column("caller", name, primary_key=True),
        sa.Column("once", name, primary_key=True),
        sa.Column("digest", name, nullable=False),
        sa.Column("ids", sa.Text, nullable=False),
        sa.Column("at", time, nullable=False),
    )
    op.create_index("feedback_posts_at", "feedback_posts", ["at"])
