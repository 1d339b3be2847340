"""Parity: proof on real rows that an exported model, or a package, answers as the model it was made from.

Legend: W windows, T tokens of all windows, B windows in a batch, L tokens in the longest, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from luban.errors import ParityFailed
from luban.models.windows import cut_to_budget, pad, token_places

if TYPE_CHECKING:
    from luban.bundle.runtimes import Runner
    from luban.models.heads import TaskModel
    from luban.records import Encoded

LABELS_AGREE = {"fp32": 0.999, "bf16": 0.98}
"""Share of answers whose best label must be the same; only ties within the accepted difference may fall otherwise, of
which there are more where products have 8 bits of mantissa."""
EXACT = 1e-3
"""Largest difference of a logit that is taken for a matter of the last bits."""
_BATCH_TOKENS = 2048


def check(
    model: TaskModel,
    runner: Runner,
    rows: Encoded,
    *,
    pad_id: int,
    per_token: bool,
    max_difference: float,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Run windows through both, in ragged batches and each length's extremes alone, and compare logits and labels.

    Args:
        model: the torch model, in evaluation mode.
        runner: the exported one.
        rows: real rows.
        pad_id: token id of padding.
        per_token: the task answers tokens.
        max_difference: largest difference of a logit that is accepted.
        precision: of the exported model's products.

    Returns:
        `max_difference`, `mean_difference`, `allowed`, `labels_agree` (a share), `n` (different answers
        compared), `windows`.

    Raises:
        ParityFailed: a difference above `max_difference`, labels that differ more than ties can, or no rows at all.
    """
    import torch

    model.eval()

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = model(torch.from_numpy(ids), torch.from_numpy(mask)).float().numpy()
        return found

    hint = "choose `export.runtime: torch`, or another base; please report the base that does this"
    if precision != "fp32":
        hint = f"{precision} is not exact: accept more by `export.max_difference`, or set `export.precision: fp32`"
    return _judged(
        ("the exported model", "torch"), logits, runner, rows, pad_id=pad_id, per_token=per_token,
        max_difference=max_difference, agree=LABELS_AGREE[precision], hint=hint,
    )  # fmt: skip


def check_package(
    engine: Runner, package: Runner, rows: Encoded, *, pad_id: int, per_token: bool, max_difference: float
) -> dict[str, Any]:
    """Compare a package that another tool has opened with the engine's runner, in the same batches; see `check`.

    Raises:
        ParityFailed: as `check`. Where more than `EXACT` may differ, ties are many, and fewer labels have to agree.
    """
    return _judged(
        ("the package", "the engine"), engine.run, package, rows, pad_id=pad_id, per_token=per_token,
        max_difference=max_difference, agree=labels_agree(max_difference),
        hint="where products are quantised, each tool rounds in its own way: accept more by `--max-difference`",
    )  # fmt: skip


def labels_agree(max_difference: float) -> float:
    """Return the share of labels that must be the same where logits may differ by so much."""
    return LABELS_AGREE["fp32" if max_difference <= EXACT else "bf16"]


def _judged(
    names: tuple[str, str],
    logits: Callable[[np.ndarray, np.ndarray], np.ndarray],
    runner: Runner,
    rows: Encoded,
    *,
    pad_id: int,
    per_token: bool,
    max_difference: float,
    agree: float,
    hint: str,
) -> dict[str, Any]:
    """Compare, and return or raise what `check` does; `names` are those of the new one and of the one it's held to."""
    new, old = names
    differences, agreed = _compare(names, logits, runner, rows, pad_id=pad_id, per_token=per_token)
    if not len(differences):
        raise ParityFailed("there are no rows to compare on", measured=0.0, allowed=1.0, hint="give validation rows")
    largest = float(differences.max()) if np.isfinite(differences).all() else float("inf")
    share = float(agreed.mean())
    if not largest <= max_difference:
        raise ParityFailed(
            f"{new}'s logits differ from {old}'s by {largest:.2g}, allowed is {max_difference:.2g}",
            measured=largest, allowed=max_difference, hint=hint,
        )  # fmt: skip
    if share < agree:
        raise ParityFailed(
            f"{new} gives {old}'s label in {share:.2%} of {len(agreed)} cases, wanted {agree:.1%}",
            measured=share, allowed=agree, hint=hint,
        )  # fmt: skip
    return {
        "max_difference": largest,
        "mean_difference": float(differences.mean()),
        "allowed": max_difference,
        "labels_agree": share,
        "n": len(agreed),
        "windows": len(rows),
    }


def _compare(
    names: tuple[str, str],
    logits: Callable[[np.ndarray, np.ndarray], np.ndarray],
    runner: Runner,
    rows: Encoded,
    *,
    pad_id: int,
    per_token: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest difference (A,) and whether the best label agrees (A,) for A answers.

    An answer that is asked for twice, in a batch and alone, counts once, with its worst.
    """
    n_places = len(rows.ids) if per_token else len(rows)
    differences, agreed = np.zeros(n_places), np.ones(n_places, bool)
    answered = np.zeros(n_places, bool)
    for windows in _batches(rows):
        batch = pad(rows, windows, pad_id)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        wanted, got = logits(ids, mask), runner.run(ids, mask)
        if got.shape != wanted.shape:
            raise ParityFailed(
                f"{names[0]} gives logits of the shape {got.shape}, {names[1]} {wanted.shape}",
                measured=float("inf"), allowed=0.0,
            )  # fmt: skip
        places = windows
        if per_token:
            places, asked = token_places(rows, windows)
            if rows.units is not None:
                asked = asked & (rows.units[places] >= 0)
            places, wanted, got = places[asked], wanted[asked], got[asked]
        differences[places] = np.maximum(differences[places], np.abs(wanted - got).max(-1))
        agreed[places] &= wanted.argmax(-1) == got.argmax(-1)
        answered[places] = True
    return differences[answered], agreed[answered]


def _batches(rows: Encoded) -> list[np.ndarray]:
    """Return batches of unlike lengths, which padding makes ragged, then the shortest and the longest window alone."""
    if not len(rows):
        return []
    ordered = np.argsort(rows.lengths, kind="stable")
    mixed = [ordered[start::8] for start in range(min(8, len(ordered)))]
    passes = [part for windows in mixed for part in cut_to_budget(windows, rows.lengths, _BATCH_TOKENS)]
    return [*passes, ordered[:1], ordered[-1:]]
