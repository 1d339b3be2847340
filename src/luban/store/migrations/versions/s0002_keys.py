"""Access keys, and their secrets as hashes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    name, digest, time = sa.String(64), sa.String(64), sa.String(32)
    op.create_table(
        "keys",
        sa.Column("name", name, primary_key=True),
        sa.Column("tenant", name, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("models", sa.Text, nullable=False),
        sa.Column("rate", sa.Float),
        sa.Column("burst", sa.Integer),
        sa.Column("at", time, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("revoked", time),
        sa.CheckConstraint("rate > 0 AND burst > 0", name="keys_rate"),
    )
    op.create_table(
        "key_secrets",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", name, sa.ForeignKey("keys.name"), nullable=False),
        sa.Column("sha256", digest, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("expires", time),
        sa.Column("used", time),
        sa.UniqueConstraint("sha256", name="key_secrets_once"),
    )
    op.create_index("key_secrets_name", "key_secrets", ["name"])
