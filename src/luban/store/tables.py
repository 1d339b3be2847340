"""The tables, as the newest migration leaves them. SQLAlchemy is imported here: import this only where rows are used.

Times are UTC as ISO 8601 text, which is the same text in every database; JSON is text too, so that it is hashed as it
was written.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData()

SETTINGS = Table(
    "settings",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What holds for everyone who opens this database, such as where its objects are."""

OBJECTS = Table(
    "objects",
    METADATA,
    Column("key", String(96), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("whole", Boolean, nullable=False),
    Column("since", Float, nullable=False),
    Index("objects_digest", "digest"),
)
"""Sealed folders in the object store. A row is there before its first file is; `whole` when its last one is.

`since` is the time, in seconds since 1970, at which writing began."""

MODELS = Table(
    "models",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("n_versions", Integer, nullable=False),
)
"""Names of models, and the number of their newest version."""

VERSIONS = Table(
    "versions",
    METADATA,
    Column("name", String(64), ForeignKey("models.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("object", String(96), ForeignKey("objects.key"), nullable=False),
    Column("at", String(32), nullable=False),
    Column("who", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("task", String(64), nullable=False),
    Column("base", Text, nullable=False),
    Column("data_digest", String(64), nullable=False),
    Column("project_digest", String(64), nullable=False),
    Column("parent", String(96), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("latency_ms", Float),
    Column("scores", Text, nullable=False),
    UniqueConstraint("name", "digest", name="versions_once"),
    CheckConstraint("number > 0", name="versions_number"),
)
"""Versions: never changed, never removed; triggers refuse both."""

CARDS = Table(
    "cards",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("what", String(32), primary_key=True),
    Column("text", Text, nullable=False),
    ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
)
"""What people have stated of a version beside its bundle's own card."""

ALIASES = Table(
    "aliases",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
    ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
)
"""Which version each alias names now."""

MOVES = Table(
    "moves",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("before", Integer),
    Column("after", Integer, nullable=False),
    Column("at", String(32), nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("once", String(128)),
    UniqueConstraint("once", name="moves_once"),
    ForeignKeyConstraint(["name", "after"], ["versions.name", "versions.number"]),
    Index("moves_alias", "name", "alias", "id"),
)
"""Every move of an alias, in order: what a rollback goes back along. `once` is the caller's idempotency key."""

KEYS = Table(
    "keys",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("rate", Float),
    Column("burst", Integer),
    Column("at", String(32), nullable=False),
    Column("who", Text, nullable=False),
    Column("revoked", String(32)),
    CheckConstraint("rate > 0 AND burst > 0", name="keys_rate"),
)
"""Who may call, and what: never removed, so that a name means one caller for ever.

`scopes` and `models` are lists in JSON; `rate` is in requests a second, null where there is no limit; `revoked` is when
the whole key ended."""

KEY_SECRETS = Table(
    "key_secrets",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), ForeignKey("keys.name"), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("at", String(32), nullable=False),
    Column("expires", String(32)),
    Column("used", String(32)),
    UniqueConstraint("sha256", name="key_secrets_once"),
    Index("key_secrets_name", "name"),
)
"""Secrets of keys, as SHA-256 alone: the secret itself is shown once and is nowhere. `used` lacks the last minute."""

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("champion", Integer, nullable=False),
    Column("challenger", Integer, nullable=False),
    Column("terms", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("ended", String(32)),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    ForeignKeyConstraint(["name", "champion"], ["versions.name", "versions.number"]),
    ForeignKeyConstraint(["name", "challenger"], ["versions.name", "versions.number"]),
    Index(
        "rollouts_one", "name", "alias", unique=True, sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
)  # fmt: skip
"""Versions on trial beside what an alias names; one at a time an alias, and one end each."""

ROLLOUT_COUNTS = Table(
    "rollout_counts",
    METADATA,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("server", String(64), primary_key=True),
    Column("counts", Text, nullable=False),
)
"""What each serving process has counted of a trial: it writes its own row alone, and readers add them up."""

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("seq", Integer, primary_key=True),
    Column("id", String(32), nullable=False),
    Column("at", String(32), nullable=False),
    Column("until", String(32)),
    Column("tenant", String(64), nullable=False),
    Column("caller", String(64), nullable=False),
    Column("source", Text, nullable=False),
    Column("model", String(64), nullable=False),
    Column("version", Integer),
    Column("answer", String(32), nullable=False),
    Column("rollout", Integer),
    Column("unit", String(32), nullable=False),
    Column("wrong", Boolean),
    Column("text", Text),
    Column("truth", Text),
    Column("said", Text),
    Column("comment", Text, nullable=False),
    Column("masked", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    UniqueConstraint("id", name="feedback_id"),
    CheckConstraint("state IN ('quarantined', 'approved', 'rejected')", name="feedback_state"),
    Index("feedback_model", "model", "seq"),
    Index("feedback_source", "source"),
    Index("feedback_until", "until"),
    Index(
        "feedback_rollout", "rollout", sqlite_where=text("rollout IS NOT NULL"),
        postgresql_where=text("rollout IS NOT NULL"),
    ),
)  # fmt: skip
"""What callers say of answers. Nothing refers to it and it refers to nothing, so that a row can go at any time.

From `until` on a row counts as gone. `rollout` and `unit` belong to answers that were given in a trial: what was
decided by lot once, a request or a caller, is one unit."""

FEEDBACK_POSTS = Table(
    "feedback_posts",
    METADATA,
    Column("caller", String(64), primary_key=True),
    Column("once", String(64), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("ids", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Index("feedback_posts_at", "at"),
)
"""Posts that were taken: `once` and `digest` are hashes under a secret of the caller's key and of what was sent."""

AUDIT = Table(
    "audit",
    METADATA,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("who", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
"""The chain: each entry's hash covers its own columns and the hash before it. Triggers refuse change and removal."""

AUDIT_HEAD = Table(
    "audit_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", Integer, nullable=False),
    Column("hash", String(64), nullable=False),
    CheckConstraint("id = 1", name="audit_head_one"),
)
"""One row: the newest entry of the chain. Writers lock it, so that changes come one after another."""
