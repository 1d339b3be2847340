"""What a body that is not as it should be is told."""

from __future__ import annotations

from typing import Any

import pytest

from luban.errors import BadRequest
from luban.serve import schemas
from luban.serve.limits import Limits
from luban.serve.routing import decoded


@pytest.mark.parametrize(("decoder", "body", "what", "message", "hint"), [
    (schemas.ASK, b'{"txt": "a"}', "the body", "the body: there is no field 'txt'", "did you mean 'text'?"),
    (schemas.ASK, b'{"text": "a", "q": 1}', "the body", "the body: there is no field 'q'", "known: ids, scores, text"),
    (schemas.LINE, b'{"text": "a", "ids": 1}', "the line", "the line: there is no field 'ids'", "did you mean 'id'?"),
    (schemas.LINE, b'{"text": ', "the line", "the line: the JSON ends too soon", "/openapi.json"),
    (schemas.LINE, b" ", "the line", "the line: got nothing, wanted JSON", "/openapi.json"),
    (schemas.LINE, b'{"id": 1}', "the line", "the line: there is no field 'text', which is needed", "/openapi.json"),
    (schemas.ASK, b'{"texts": [true]}', "the body", "texts[0]: got true or false, wanted a text", "/openapi.json"),
    (schemas.ASK, b'{"text": "\xff"}', "the body", "the body: got a byte that is not UTF-8, at position 10", "/"),
    (schemas.ASK, b'{"text": 3}', "the body", "text: got a whole number, wanted a text or a list", "/openapi.json"),
])  # fmt: skip
def test_what_is_wrong_is_told_with_its_place_and_mend(
    decoder: Any, body: bytes, what: str, message: str, hint: str
) -> None:
    with pytest.raises(BadRequest) as found:
        decoded(body, decoder, Limits(), what)
    assert found.value.message.startswith(message) and hint in found.value.hint
