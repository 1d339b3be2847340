"""Serving: what `luban serve` was told becomes settings, and one process or several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import BadRequest
from luban.stages.masking import names_finders
from luban.stages.predicting import newest_bundle
from luban.stages.registering import find_bundle, registry_place

if TYPE_CHECKING:
    from luban.serve.process import Settings
    from luban.serve.ray import Scaling


def settings(
    models: Sequence[str],
    *,
    registry: str | None = None,
    names_by: Sequence[str] = (),
    graphs: str | None = "none",
    **more: Any,
) -> Settings:
    """Return what to serve.

    Args:
        models: each `NAME=ALIAS`, `NAME=NUMBER`, `NAME@ALIAS` or `NAME` of the registry, a bundle's folder, or
            `NAME=FOLDER`; without any the newest bundle under `./runs`.
        registry: a folder or URL; see `registry_place`.
        names_by: bundles that tag names, folders or versions: feedback is masked by them, too.
        graphs: folder in which graphs are kept ready; `none` keeps none, None is Luban's own.
        more: see `luban.serve.process.Settings`.

    Raises:
        BadRequest: one names nothing, two have one name, or what shall find names does not.
        NotFound: a folder is no bundle.
    """
    from luban.bundle.prepared import place
    from luban.serve.process import Settings

    found: dict[str, str] = {}
    for given in models or [str(newest_bundle(Path.cwd()))]:
        name, what = _source(given)
        if name in found:
            raise BadRequest(f"two models are called {name!r}", hint=f"name one of them: other={given}")
        found[name] = what
    folders = tuple(str(find_bundle(one, registry)) for one in names_by)
    names_finders(folders)  # so that what they can't do is said now
    kept = place(graphs)
    return Settings(
        models=found, registry=registry_place(registry), names_by=folders, graphs=str(kept) if kept else "", **more
    )


def serve(wanted: Settings) -> int:
    """Serve until told to stop, and return the exit code.

    Raises:
        LubanError: a model can't be opened, a port can't be had, or nobody would be kept out.
    """
    from luban.serve import process, workers

    process.access(wanted).close()
    with ExitStack() as open_sockets:
        bound = [open_sockets.enter_context(one) for one in process.sockets(wanted)]
        return process.run(wanted, bound) if wanted.workers == 1 else workers.run(wanted, bound)


def serve_on_ray(wanted: Settings, scaling: Scaling) -> int:
    """Serve on Ray until told to stop, and return the exit code; each replica has one thread if none are named.

    Raises:
        MissingExtra: Ray is not installed.
        LubanError: as `serve`.
    """
    import msgspec

    from luban.serve import ray

    return ray.run(msgspec.structs.replace(wanted, threads=wanted.threads or 1), scaling)


def _source(given: str) -> tuple[str, str]:
    """Return the name of a model here, and where it comes from."""
    from luban.bundle import seal
    from luban.registry.version import parse, wanted_name

    if Path(given).is_dir():
        return seal.open_bundle(Path(given)).name, str(Path(given).absolute())
    name, equals, what = given.partition("=")
    if not equals:
        reference = parse(given)
        return reference.name, str(reference)
    if "/" in what or Path(what).is_dir():
        return wanted_name(name), str(Path(what).absolute())
    reference = parse(what if "@" in what else f"{name}@{what}")
    return wanted_name(name), str(reference)
