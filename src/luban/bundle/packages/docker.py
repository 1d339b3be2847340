"""Docker: a folder to build an image from that serves the bundle: no torch, no root, every package pinned.

What the image will run is started here, out of the folder's own wheel, and asked. The image itself is built by whoever
has Docker.
"""

from __future__ import annotations

import math
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
HOME = "/srv/bundle"
"""Where the bundle is in the image."""
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
    command = [*arguments(source, HOME), "--host", "0.0.0.0", "--port", str(PORT), "--everybody"]
    text = rendered("dockerfile.jinja", wheel=wheel.name, arguments=command, **told(source))
    files.write_text(folder / "Dockerfile", text)
    files.write_text(folder / ".dockerignore", f"*\n!bundle\n!requirements.txt\n!{wheel.name}\n")


def arguments(source: Source, bundle: str) -> list[str]:
    """Return what follows `luban serve`, but for addresses, to serve a bundle that is at a place."""
    return [f"{source.engine.name}={bundle}", "--drain-s", str(DRAIN_S)]


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
    more = {"n_packages": len(own.closure(source.runtime)), "memory_mb": memory_mb(proof["memory_bytes"])}
    return rendered("docker.md.jinja", proof=proof, **more, **told(source))


def told(source: Source) -> dict[str, Any]:
    """Return what the texts beside a server tell."""
    engine = source.engine
    return {
        "name": engine.name, "digest": engine.digest, "labels": list(engine.labels), "port": PORT, "user": USER,
        "per_token": engine.task.per_token, "many": bool(getattr(engine.task, "multi_label", False)),
        "version": metadata.version("luban"), "image": image(source), "drain_s": DRAIN_S, "home": HOME,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }  # fmt: skip


def memory_mb(measured_bytes: int) -> int:
    """Return how much memory to give, in MiB: twice what was measured, in steps of 64."""
    return 64 * math.ceil(2 * measured_bytes / 2**20 / 64)


def image(source: Source) -> str:
    """Return what the image is called: by the bundle's digest, so that another bundle is another image."""
    return f"{plain_name(source.engine.name)}:{source.engine.digest[:12]}"


def plain_name(name: str) -> str:
    """Return a project's name as registries of images and Kubernetes take one: small letters, digits and dashes."""
    letters = (char if char.isalnum() and char.isascii() else "-" for char in name.lower())
    plain = "-".join(part for part in "".join(letters).split("-") if part)[:50].rstrip("-")
    return plain if plain[:1].isalpha() else f"luban-{plain}"
