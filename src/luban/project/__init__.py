"""The project file: its schema, how it is read, and its lock."""
