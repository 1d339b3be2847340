"""Models, versions, cards, aliases and their moves, objects, and the audit chain with its triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_FROZEN = ("audit", "versions", "moves")
_ZEROS = "0" * 64


def upgrade() -> None:
    """Make the tables."""
    name, digest, time = sa.String(64), sa.String(64), sa.String(32)
    op.create_table(
        "settings", sa.Column("name", name, primary_key=True), sa.Column("value", sa.Text, nullable=False),
    )  # fmt: skip
    op.create_table(
        "objects",
        sa.Column("key", sa.String(96), primary_key=True),
        sa.Column("digest", digest, nullable=False),
        sa.Column("whole", sa.Boolean, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
    )
    op.create_index("objects_digest", "objects", ["digest"])
    op.create_table(
        "models", sa.Column("name", name, primary_key=True), sa.Column("n_versions", sa.Integer, nullable=False),
    )  # fmt: skip
    op.create_table(
        "versions",
        sa.Column("name", name, sa.ForeignKey("models.name"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("digest", digest, nullable=False),
        sa.Column("object", sa.String(96), sa.ForeignKey("objects.key"), nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("task", name, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("data_digest", digest, nullable=False),
        sa.Column("project_digest", digest, nullable=False),
        sa.Column("parent", sa.String(96), nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Float),
        sa.Column("scores", sa.Text, nullable=False),
        sa.UniqueConstraint("name", "digest", name="versions_once"),
        sa.CheckConstraint("number > 0", name="versions_number"),
    )
    op.create_table(
        "cards",
        sa.Column("name", name, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("what", sa.String(32), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
    )
    op.create_table(
        "aliases",
        sa.Column("name", name, primary_key=True),
        sa.Column("alias", name, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
    )
    op.create_table(
        "moves",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", name, nullable=False),
        sa.Column("alias", name, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("before", sa.Integer),
        sa.Column("after", sa.Integer, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("once", sa.String(128)),
        sa.UniqueConstraint("once", name="moves_once"),
        sa.ForeignKeyConstraint(["name", "after"], ["versions.name", "versions.number"]),
    )
    op.create_index("moves_alias", "moves", ["name", "alias", "id"])
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", time, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("action", time, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("previous", digest, nullable=False),
        sa.Column("hash", digest, nullable=False),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("hash", digest, nullable=False),
        sa.CheckConstraint("id = 1", name="audit_head_one"),
    )
    op.execute(f"INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '{_ZEROS}')")
    _freeze()


def _freeze() -> None:
    """Make triggers that refuse to change or remove rows which are written once."""
    if op.get_bind().dialect.name == "sqlite":
        for table in _FROZEN:
            for deed in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{deed.lower()} BEFORE {deed} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are written once'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION luban_written_once() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION 'rows of % are written once', TG_TABLE_NAME; END $$"
    )
    for table in _FROZEN:
        op.execute(
            f"CREATE TRIGGER {table}_frozen BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION luban_written_once()"
        )
