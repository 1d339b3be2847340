"""What alembic runs to bring a schema up to date: every step in the one transaction that the caller has begun."""

from __future__ import annotations

from alembic import context

# SQLite's DDL is transactional, too: a step that was killed leaves the schema as it was before.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
