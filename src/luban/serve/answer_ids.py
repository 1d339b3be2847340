"""Ids of answers that need no memory: each says which version gave what answer to which text, under a seal.

Whoever sends an id back shows that this answer was given, by which version, and to whom; nothing of it is kept until
then, and every process with the registry's secret can read it. Texts and answers are in it as hashes under the secret,
so that an id tells nothing of them to who has not got both. The seal is BLAKE2b with a key (RFC 7693), 128 bits; it
covers the model and the caller's tenant, too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luban.errors import BadRequest

if TYPE_CHECKING:
    from luban.records import Prediction
    from luban.serve.hosting import Answer
    from luban.tasks import Task

_FORM = struct.Struct(">BIIH8s8sI8s8s")
"""Form, version, trial, row, request, unit, time in seconds since 1970, hash of the text, hash of the answer."""
_FIRST_FORM = 1
_SEAL_BYTES = 16
_ID = re.compile(r"[A-Za-z0-9_-]{84}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What an id says."""

    version: int | None
    """None for a folder, which has no number."""
    rollout: int | None
    """The trial in which chance chose the version."""
    answer: str
    """Request and row, 20 hexadecimal digits: no two answers have the same."""
    unit: str
    at: int
    """When it was answered, in seconds since 1970."""
    text: bytes
    said: bytes


class AnswerIds:
    """Makes ids and reads them. Threads may share it."""

    def __init__(self, secret: bytes) -> None:
        """Store the secret, 32 bytes."""
        self._secret = secret

    def made(self, answer: Answer, rows: Sequence[Any], *, model: str, tenant: str) -> list[str]:
        """Return an id for each row of an answer."""
        request, at, bound = os.urandom(8), int(time.time()), _bound(model, tenant)
        unit, version, task = answer.unit or request, answer.served.number or 0, answer.served.engine.task
        found = []
        for row, (text, prediction) in enumerate(zip(rows, answer.predictions, strict=True)):
            body = _FORM.pack(
                _FIRST_FORM, version, answer.rollout, row, request, unit, at, self.of_text(text),
                self.of_answer(said(prediction, task)),
            )  # fmt: skip
            found.append(base64.urlsafe_b64encode(body + self._seal(body, bound)).decode())
        return found

    def read(self, text: str, *, model: str, tenant: str) -> Given:
        """Return what an id says.

        Raises:
            BadRequest: it was never given out for this model to this tenant.
        """
        if _ID.fullmatch(text):
            try:
                whole = base64.b64decode(text, altchars=b"-_", validate=True)
            except binascii.Error:
                whole = b""
            body, seal = whole[: _FORM.size], whole[_FORM.size :]
            if hmac.compare_digest(seal, self._seal(body, _bound(model, tenant))):
                _, version, rollout, row, request, unit, at, of_text, of_answer = _FORM.unpack(body)
                return Given(
                    version=version or None, rollout=rollout or None, answer=f"{request.hex()}{row:04x}",
                    unit=unit.hex(), at=at, text=of_text, said=of_answer,
                )  # fmt: skip
        raise BadRequest(
            f"got {text[:12] + '...' if len(text) > 12 else text!r}, which is no id of an answer of {model}",
            hint="send it as it came with the answer, for the same model and with a key of the same tenant",
        )

    def of_text(self, text: Any) -> bytes:
        """Return the hash, 8 bytes, of a text or of its tokens."""
        whole = text if isinstance(text, str) else "\0".join(text)
        return self._hash(whole.encode("utf-8", "surrogatepass"), b"text")

    def of_answer(self, told: Mapping[str, Any]) -> bytes:
        """Return the hash, 8 bytes, of an answer as `said` returns it."""
        return self._hash(json.dumps(told, sort_keys=True).encode(), b"said")

    def digest(self, what: bytes) -> str:
        """Return a hash of anything, 64 hexadecimal digits, that tells nothing of it without the secret."""
        return hashlib.blake2b(what, digest_size=32, key=self._secret, person=b"any").hexdigest()

    def _hash(self, what: bytes, kind: bytes) -> bytes:
        return hashlib.blake2b(what, digest_size=8, key=self._secret, person=kind).digest()

    def _seal(self, body: bytes, bound: bytes) -> bytes:
        return hashlib.blake2b(body + bound, digest_size=_SEAL_BYTES, key=self._secret, person=b"seal").digest()


def said(prediction: Prediction, task: Task) -> dict[str, Any]:
    """Return what an answer says, as feedback does: `label`, `labels` or `spans`, in one order."""
    if task.per_token:
        return {"spans": in_order({"start": s.start, "end": s.end, "label": s.label} for s in prediction.spans)}
    if getattr(task, "multi_label", False):
        return {"labels": sorted(prediction.labels)}
    return {"label": prediction.label}


def in_order(spans: Any) -> list[dict[str, Any]]:
    """Return spans as they stand in the text."""
    return sorted(spans, key=lambda one: (one["start"], one["end"], one["label"]))


def _bound(model: str, tenant: str) -> bytes:
    return b"\0".join((model.encode(), tenant.encode()))
