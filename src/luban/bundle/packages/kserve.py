"""Kubernetes: manifests for KServe, the same without KServe, and the folder that their image is built from.

Memory is what the server took here when it was proven; cores come from the container's limit, which Luban heeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luban import files
from luban.bundle.packages import Source, docker, rendered

IMAGE = "image"
"""Folder that the image is built from."""
MANIFESTS = {"inference-service.yaml": "inference.yaml.jinja", "deployment.yaml": "deployment.yaml.jinja"}
PLACE = "YOUR-REGISTRY"
"""Stands in the manifests for where the image was pushed to."""
CORES = 1
_BEFORE_STOP_S = 5
"""Seconds until nobody sends requests to a pod that is to stop: only then it is told."""
_SPARE_S = 10


def write(source: Source, folder: Path) -> None:
    """Write what the image is built from; the manifests are written when it is known how much memory it takes.

    Raises:
        LubanError: as `docker.write`.
    """
    (folder / IMAGE).mkdir()
    docker.write(source, folder / IMAGE)


def prove(source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
    """Serve as the image would, compare, and write the manifests by what that took."""
    proof = docker.prove(source, folder / IMAGE, rows, max_difference)
    for name, text in manifests(source, proof["memory_bytes"]).items():
        files.write_text(folder / name, text)
    files.write_text(folder / IMAGE / "README.md", docker.readme(source, {**proof, "rows_from": "the rows compared"}))
    return proof


def manifests(source: Source, memory_bytes: int) -> dict[str, str]:
    """Return file name -> text."""
    values = {
        **docker.told(source), "plain_name": docker.plain_name(source.engine.name), "place": PLACE, "cores": CORES,
        "memory_mb": docker.memory_mb(memory_bytes), "before_stop_s": _BEFORE_STOP_S,
        "stop_s": _BEFORE_STOP_S + docker.DRAIN_S + _SPARE_S,
    }  # fmt: skip
    return {name: rendered(template, **values) for name, template in MANIFESTS.items()}


def readme(source: Source, proof: Mapping[str, Any]) -> str:
    """Return how to build the image, where it goes, and what the manifests ask for."""
    return rendered(
        "kserve.md.jinja", proof=proof, place=PLACE, plain_name=docker.plain_name(source.engine.name), cores=CORES,
        memory_mb=docker.memory_mb(proof["memory_bytes"]), before_stop_s=_BEFORE_STOP_S, **docker.told(source),
    )  # fmt: skip
