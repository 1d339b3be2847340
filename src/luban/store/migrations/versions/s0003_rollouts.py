"""Versions on trial, and what the servers have counted of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    name, time = sa.String(64), sa.String(32)
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", name, nullable=False),
        sa.Column("alias", name, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("champion", sa.Integer, nullable=False),
        sa.Column("challenger", sa.Integer, nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("ended", time),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["name", "champion"], ["versions.name", "versions.number"]),
        sa.ForeignKeyConstraint(["name", "challenger"], ["versions.name", "versions.number"]),
    )
    running = sa.text("state = 'running'")
    op.create_index(
        "rollouts_one", "rollouts", ["name", "alias"], unique=True, sqlite_where=running, postgresql_where=running
    )
    op.create_table(
        "rollout_counts",
        sa.Column("rollout", sa.Integer, sa.ForeignKey("rollouts.id"), primary_key=True),
        sa.Column("server", name, primary_key=True),
        sa.Column("counts", sa.Text, nullable=False),
    )
