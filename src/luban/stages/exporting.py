"""The stage `export`: the best checkpoint as a graph that a runtime executes, with proof that it answers the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luban.data.sample import evenly_by_length
from luban.data.split import Splits
from luban.files import new_folder, seal
from luban.models import checkpoint
from luban.models.facts import BaseFolder
from luban.project import lock
from luban.project.schema import Project
from luban.stages.places import CHECKPOINT, GRAPH
from luban.stages.record import Run, code_digest, digest_of
from luban.tasks import Task, make_head

if TYPE_CHECKING:
    from luban.bundle.runtimes import Origin

PARITY_ROWS = 256
"""Validation rows, of every length, that answers are compared on."""


def export(run: Run, splits: Splits, task: Task, base: BaseFolder) -> Mapping[str, Any]:
    """Write the graph and compare it with the checkpoint; the facts tell the runtime's own and the parity.

    The checkpoint was trained from `base`, which a runtime that shares bases keeps apart.
    """
    settings = lock.resolved(run.loaded.project)["export"]
    inputs = {
        "checkpoint_digest": digest_of(run.folder / CHECKPOINT),
        "settings": {"export": settings},
        "code_digest": code_digest("bundle", "models", "adapters"),
    }

    def work() -> dict[str, Any]:
        from luban.bundle import parity, runtimes

        model, parts = checkpoint.load(run.folder / CHECKPOINT, make_head)
        rows = task.encode(evenly_by_length(splits.validation.table, PARITY_ROWS), parts.processor)
        wanted = run.loaded.project.export
        kind = wanted.runtime
        runtime = runtimes.catalogue.load(kind)
        run.tell("export", f"writing for {kind}")
        with new_folder(run.folder / GRAPH, replace=True) as aside:
            origin = _origin(run.loaded.project, base) if runtimes.shares_base(kind) else None
            facts = runtimes.write(kind, model, aside, rows, precision=wanted.precision, origin=origin)
            facts |= {"threads": wanted.threads} if wanted.threads else {}
            run.tell("export", "comparing its answers with torch's")
            runner = runtime.open(aside, facts, run.loaded.project.train.threads)
            compared = parity.check(
                model, runner, rows, pad_id=parts.processor.pad_id, per_token=task.per_token,
                max_difference=wanted.max_difference, precision=wanted.precision,
            )  # fmt: skip
            seal(aside, {"kind": "graph", "runtime": facts})
        return {"runtime": facts, "parity": compared}

    return run.stage("export", inputs, [GRAPH], work)


def _origin(project: Project, base: BaseFolder) -> Origin:
    """Return the base as it was before training, and which of its layers the adapter has changed."""
    from luban.adapters import low_rank
    from luban.bundle.runtimes import Origin
    from luban.models.body import load_body

    body, adapter = load_body(base), project.train.adapter
    frozen = project.train.freeze == "base"
    return Origin(body, () if frozen else low_rank(body, adapter.kind, adapter.options))
