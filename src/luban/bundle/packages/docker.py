"""Docker: a folder to build an image from that serves the bundle: no torch, no root, every package pinned.

What the image will run is started here, out of the folder's own wheel, and asked. The image itself is built by whoever
has Docker.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from luban import files
from luban.bundle import answering, own, served
from luban.bundle.packages import Source, rendered

PORT = 8080
USER = 10001
"""Number of the user: Kubernetes can tell of a number alone that it is not root."""
DRAIN_S = 20
"""Seconds that the server gives those who are inside when it is told to stop."""
_HOME = "/srv/bundle"
_TORCH_FOR_CPUS = "--extra-index-url https://download.pytorch.org/whl/cpu"
_DECIMALS = 1e-6
"""The server gives probabilities so far."""


def write(source: Source, folder: Path) -> None:
    """Write the Dockerfile and all that it copies: the bundle, Luban's wheel, and the pins.

    Raises:
        LubanError: Luban is not installed as a package here, so that what it needs isn't known.
    """
    shutil.copytree(source.folder, folder / "bundle")
    wheel = own.wheel(folder)
    pins = own.closure(source.runtime)
    lines = [_TORCH_FOR_CPUS, *pins] if source.runtime == "torch" else pins
    files.write_text(folder / "requirements.txt", "\n".join(lines) + "\n")
    told = {
        "name": source.engine.name, "digest": source.engine.digest, "wheel": wheel.name, "port": PORT, "user": USER,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}", "drain_s": DRAIN_S, "home": _HOME,
        "arguments": [*arguments(source, _HOME), "--host", "0.0.0.0", "--port", str(PORT)],
    }  # fmt: skip
    files.write_text(folder / "Dockerfile", rendered("dockerfile.jinja", **told))
    files.write_text(folder / ".dockerignore", f"*\n!bundle\n!requirements.txt\n!{wheel.name}\n")


def arguments(source: Source, bundle: str) -> list[str]:
    """Return what follows `luban serve`, but for host and port, to serve a bundle that is at a place."""
    return [f"{source.engine.name}={bundle}"]


def prove(source: Source, folder: Path, rows: Sequence[Any], max_difference: float) -> Mapping[str, Any]:
    """Serve the folder's bundle as the image would, and compare what the server answers."""
    (wheel,) = folder.glob("luban-*.whl")
    command = ["serve", *arguments(source, str((folder / "bundle").resolve()))]
    route = f"/v1/models/{source.engine.name}/predict"
    asked = served.ask(wheel.resolve(), command, route, "/readyz", rows)
    wanted = source.engine.predict(rows)
    found = answering.compare_answers(wanted, asked.answers, max_difference + _DECIMALS, "the package's server")
    return {**found, "memory_bytes": asked.memory_bytes, "ready_s": asked.ready_s}


def readme(source: Source, proof: Mapping[str, Any]) -> str:
    """Return how to build and run it, and what its requests and responses are."""
    return rendered("docker.md.jinja", proof=proof, n_packages=len(own.closure(source.runtime)), **told(source))


def told(source: Source) -> dict[str, Any]:
    """Return what the texts beside a server tell."""
    engine = source.engine
    return {
        "name": engine.name, "digest": engine.digest, "labels": list(engine.labels), "port": PORT, "user": USER,
        "per_token": engine.task.per_token, "many": bool(getattr(engine.task, "multi_label", False)),
        "version": metadata.version("luban"), "image": image(source), "drain_s": DRAIN_S,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }  # fmt: skip


def image(source: Source) -> str:
    """Return what the image is called: by the bundle's digest, so that another bundle is another image."""
    return f"{plain_name(source.engine.name)}:{source.engine.digest[:12]}"


def plain_name(name: str) -> str:
    """Return a project's name as registries of images and Kubernetes take one: small letters, digits and dashes."""
    letters = (char if char.isalnum() and char.isascii() else "-" for char in name.lower())
    return "-".join(part for part in "".join(letters).split("-") if part)[:50].rstrip("-")
