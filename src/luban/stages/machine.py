"""What can be had and done on this machine: `bases` and `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luban.models.facts import BaseListing
    from luban.records import Finding


def bases() -> list[BaseListing]:
    """Return the bases that can be had by name, the defaults first."""
    from luban.models import base

    return base.bases()


def doctor() -> list[Finding]:
    """Return what this machine can do, what is missing, and which pip command mends it."""
    from luban.models import device
    from luban.store.database import finding

    return [*device.findings(), finding()]
