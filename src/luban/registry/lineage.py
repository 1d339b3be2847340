"""Where a version comes from: the versions that it was made from, one after another."""

from __future__ import annotations

from luban.registry.store import Registry
from luban.registry.version import Version


def lineage(registry: Registry, version: Version) -> list[Version]:
    """Return a version's parent, that one's parent, and so on; each has its own data, project and base.

    A parent is older than its child, so that there is no circle.
    """
    found: list[Version] = []
    while version.parent:
        version = registry.version(version.parent)
        found.append(version)
    return found
