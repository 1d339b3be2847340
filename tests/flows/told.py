"""What commands tell programs."""

from __future__ import annotations

import json
from typing import Any


def as_json(text: str) -> dict[str, Any]:
    """Return the last line of what a command said with `--json`."""
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found
