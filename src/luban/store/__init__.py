"""What must not be lost: rows in SQLite or PostgreSQL, and sealed folders on a disk or in an object store."""
