"""What others watch a server with: a dashboard for Grafana, alert rules for Prometheus, and how it finds the server."""

from __future__ import annotations

from pathlib import Path

from luban import files
from luban.errors import Conflict

NAMES = ("grafana.json", "alerts.yml", "prometheus.yml")
_HERE = Path(__file__).resolve().parent


def read(name: str) -> str:
    """Return the text of one of the files."""
    return (_HERE / name).read_text("utf-8")


def write(folder: Path, *, force: bool = False) -> list[Path]:
    """Write the files into a folder, and return their paths.

    Args:
        folder: made where it is not there.
        force: write over what is there.

    Raises:
        Conflict: one is there already and is another.
    """
    paths = [folder / name for name in NAMES]
    for path in paths:
        if not force and path.exists() and path.read_text("utf-8") != read(path.name):
            raise Conflict(f"{path} is there already and is another", hint="name another folder, or say --force")
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        files.write_text(path, read(path.name))
    return paths
