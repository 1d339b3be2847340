"""A small project whose texts, English and Chinese, a tiny base learns in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from luban.models import tiny

WORDS = {"good": ["lovely", "warm", "kind", "好吃", "喜欢"], "bad": ["cold", "rude", "late", "难吃", "讨厌"]}


def write(folder: Path, project: str, *, n_rows: int, words: Callable[[random.Random], int]) -> Path:
    """Write rows, base and project file; return the latter.

    Args:
        folder: where they will be.
        project: text of the project file, whose base is `base` and whose rows are `rows.jsonl`.
        n_rows: rows of each label.
        words: words of a row.
    """
    rng = random.Random(3)
    rows = [
        {"text": " ".join(rng.choices(WORDS[label], k=words(rng))) + f" {number}", "label": label}
        for number in range(n_rows)
        for label in WORDS
    ]
    tiny.make(folder / "base", [row["text"] for row in rows])
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    (folder / "luban.yaml").write_text(project, "utf-8")
    return folder / "luban.yaml"
