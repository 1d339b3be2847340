"""Routes: method, path, the scope that a caller needs, and what answers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

from luban.errors import BadRequest, LubanError, TooLarge, TooSlow, codes, did_you_mean
from luban.serve.access import Principal, Scope
from luban.serve.limits import Limits

Receive = Callable[[], Awaitable[Any]]
JSON = b"application/json"
PROBLEM = b"application/problem+json"
_KNOWN_PATHS = 256
EXAMPLE = "Where is my card?"
"""The text of the documentation's examples."""
PUBLIC: Literal["public"] = "public"
"""The scope of a route that anybody may use, said and not forgotten."""
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `([^`]{1,100})`(.*)", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `\$\.?([^`]+)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]+)`(?: - at `\$\.?([^`]+)`)?")
_KINDS = {
    "str": "a text", "array": "a list", "object": "an object", "int": "a whole number", "float": "a number",
    "bool": "true or false",
}  # fmt: skip
"""What msgspec calls the kinds of JSON -> what people do."""
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back."""

    body: bytes | AsyncGenerator[bytes] = b""
    status: int = 200
    kind: bytes = JSON
    """The content's type."""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(slots=True)
class Request:
    """One request, its body not read yet."""

    scope: Mapping[str, Any]
    """ASGI's."""
    receive: Receive
    limits: Limits
    principal: Principal
    params: Mapping[str, str]
    """What stands in the path for `{name}` and its like."""
    deadline: float = 0.0
    """By `time.monotonic`; set when the body has been read."""
    read: bool = field(default=False)
    """The body was read to its end."""

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            TooLarge: it has more bytes than the limit.
            TooSlow: it did not arrive in time.
            ClientLeftError: it never will.
        """
        message = await self._in_time()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            body = b"".join([body, await self._rest(len(body))])
        if len(body) > self.limits.body_bytes:
            raise _too_large(self.limits)
        self.read = True
        self.deadline = time.monotonic() + self.limits.request_s
        return body

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body as it comes, for a stream; each piece must come in time.

        Raises:
            TooSlow, ClientLeftError: as `body`.
        """
        more = True
        while more:
            message = await self._in_time()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            more = message.get("more_body", False)
            if body := message.get("body", b""):
                yield body
        self.read = True

    async def _rest(self, n_bytes: int) -> bytes:
        parts: list[bytes] = []
        end = time.monotonic() + self.limits.body_s
        more = True
        while more:
            message = await self._in_time(end)
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part = message.get("body", b"")
            n_bytes += len(part)
            if n_bytes > self.limits.body_bytes:
                raise _too_large(self.limits)
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)

    async def _in_time(self, end: float | None = None) -> Any:

        left = self.limits.body_s if end is None else end - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                return await self.receive()
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {self.limits.body_s:g} s", hint="send it at once") from None


Handler = Callable[[Request], Awaitable[Response]]


def nothing_more(error: LubanError) -> Mapping[str, Any]:
    """Add nothing to a problem."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    """Such as `/v1/models/{name}/predict`. A part called `name` is a model's: who may not use it is refused."""
    scope: Scope | Literal["public"]
    """What the caller must be allowed."""
    answer: Handler
    about: str
    """One line for the documentation."""
    asks_model: bool = False
    """Takes a place of the queue, and is refused where none is free."""
    explains: bool = False
    """The place that it takes is one of those for explanations."""
    streams: bool = False
    """Takes a place of the streams, and reads its body as it comes."""
    takes: Any = None
    """Type of the body, for the documentation."""
    example: Any = None
    """Such a body, as JSON has it; for the documentation."""
    gives: Any = None
    """Type of the answer, for the documentation; of each line, where it streams."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the query, each true or false, and what they mean; for the documentation."""
    also_takes: tuple[str, ...] = ()
    """Other content types that the body may have."""
    also_gives: tuple[str, ...] = ()
    """Other content types that the answer may have."""
    tells_unready: bool = False
    """Gives the same with status 503 while it should not be sent requests."""
    refuses: tuple[type[LubanError], ...] = ()
    """What it may raise beside what all its kind do; for the documentation."""
    told: Callable[[LubanError], Mapping[str, Any]] = nothing_more
    """What is added to a problem, for clients that look for it elsewhere."""


class Router:
    """Finds the route of a method and a path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[int, list[tuple[list[_Part], dict[str, Route]]]] = {}
        for route in self.routes:
            if "{" not in route.path:
                self._exact.setdefault(route.path, {})[route.method] = route
                continue
            parts = [_part(text) for text in route.path.split("/")]
            same = self._patterns.setdefault(len(parts), [])
            there = next((methods for known, methods in same if known == parts), None)
            if there is None:
                same.append((parts, there := {}))
                # `/models/{name}:predict` before `/models/{name}`, which would take the whole for a name.
                same.sort(key=lambda one: -sum(len(part.fixed) for part in one[0]))
            there[route.method] = route
        self.find = lru_cache(_KNOWN_PATHS)(self._find)
        """Return the routes of a path by method, and what stands for the path's names; none where there are none."""

    def _find(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
        if methods := self._exact.get(path):
            return methods, {}
        texts = path.split("/")
        for parts, methods in self._patterns.get(len(texts), ()):
            if all(part.fits(text) for part, text in zip(parts, texts, strict=True)):
                return methods, {
                    part.name: text.removesuffix(part.fixed)
                    for part, text in zip(parts, texts, strict=True)
                    if part.name
                }
        return {}, {}


class _Part(NamedTuple):
    """What stands between two slashes of a route's path: `{name}`, `fixed`, or `{name}:fixed`."""

    name: str
    """Empty where all of it is fixed."""
    fixed: str

    def fits(self, text: str) -> bool:
        """Tell whether a text can stand there."""
        if not self.name:
            return text == self.fixed
        return len(text) > len(self.fixed) and text.endswith(self.fixed)


def _part(text: str) -> _Part:
    if text[:1] != "{":
        return _Part("", text)
    name, _, fixed = text[1:].partition("}")
    return _Part(name, fixed)


def problem(error: LubanError, status: int | None = None, /, **more: Any) -> Response:
    """Return an error as problem details (RFC 9457), with the kind of Luban's error and its hint."""
    import msgspec

    facts = {
        "type": "about:blank", "title": type(error).__name__, "status": status or codes(error).http,
        "detail": error.message, **({"hint": error.hint} if error.hint else {}), **more,
    }  # fmt: skip
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if (later := getattr(error, "retry_after_s", None)) is not None:
        headers = ((b"retry-after", b"%d" % max(1, round(later + 0.5))),)
    if facts["status"] == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    return Response(msgspec.json.encode(facts), facts["status"], PROBLEM, headers)


def decoded(body: bytes, decoder: Any, limits: Limits, what: str = "the body") -> Any:
    """Return a body's JSON as the decoder's type.

    Args:
        body: the JSON.
        decoder: msgspec's.
        limits: of its depth.
        what: what it is, for messages.

    Raises:
        BadRequest: it is no JSON, or of another form; the message says where.
    """
    import msgspec

    if too_deep(body, limits.depth):
        raise BadRequest(
            f"{what}: got brackets more than {limits.depth} deep, wanted {limits.depth} at most",
            hint="send what the documentation of the route shows",
        )
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if (unknown := _UNKNOWN_FIELD.match(str(error))) and (known := _fields(decoder.type)):
            raise BadRequest(
                f"{what}: there is no field {unknown[1]!r}{unknown[2]}", hint=did_you_mean(unknown[1], known)
            ) from None
        raise BadRequest(_told(error, body, what), hint="see /openapi.json for what is wanted") from None


def too_deep(body: bytes, depth: int) -> bool:
    """Tell whether brackets stand within brackets deeper than that. Those in strings do not count."""
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    level = 0
    for found in _STRING_OR_BRACKET.finditer(body):
        mark = found[0][:1]
        if mark in b"[{":
            level += 1
            if level > depth:
                return True
        elif mark in b"]}":
            level -= 1
    return False


def _fields(wanted: Any) -> tuple[str, ...]:
    """Return the fields of a type of msgspec, or of the first among several that has any."""
    import msgspec

    for one in get_args(wanted) or (wanted,):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return one.__struct_encode_fields__
    return ()


def _told(error: Exception, body: bytes, what: str) -> str:
    """Return in Luban's words what is wrong with a body that could not be decoded."""
    if isinstance(error, RecursionError):
        return f"{what}: it is nested too deep"
    try:
        body.decode()
    except UnicodeDecodeError as bad:
        return f"{what}: got a byte that is not UTF-8, at position {bad.start}"
    if not body.strip():
        return f"{what}: got nothing, wanted JSON"
    if found := _WRONG_TYPE.fullmatch(str(error)):
        wanted = " or ".join(_KINDS.get(one, one) for one in found[1].split(" | "))
        return f"{found[3] or what}: got {_KINDS.get(found[2], found[2])}, wanted {wanted}"
    if found := _MISSING.fullmatch(str(error)):
        return f"{found[2] or what}: there is no field {found[1]!r}, which is needed"
    return f"{what}: {str(error).replace('Input data was truncated', 'the JSON ends too soon')}"


def _too_large(limits: Limits) -> TooLarge:
    return TooLarge(f"the body: got more than {limits.body_bytes} bytes", hint="send fewer texts at once")
