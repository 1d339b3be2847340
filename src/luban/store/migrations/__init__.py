"""The steps from one schema to the next, for alembic; `luban.store.database` runs them."""
