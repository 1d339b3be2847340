"""OpenAPI 3.1 out of routes and types, and the same as a page that needs nothing from elsewhere."""

from __future__ import annotations

import html
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from luban.errors import (
    BadRequest,
    DeadlineExceeded,
    Forbidden,
    LubanError,
    NotFound,
    Overloaded,
    TooLarge,
    TooSlow,
    Unauthenticated,
    Unavailable,
    codes,
)
from luban.plugins import field_docs
from luban.serve.routing import PUBLIC, Route
from luban.serve.schemas import TYPES, Problem

_TITLE = "Luban"
_REFERENCE = "#/components/schemas/{name}"
_NDJSON = "application/x-ndjson"
_NEXT_LINE = " \\\n  "
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code,pre{font:14px ui-monospace,monospace;background:#f4f4f2;border-radius:4px}code{padding:.1em .3em}"
    "pre{padding:.8em;overflow:auto}table{border-collapse:collapse}td,th{padding:.2em .8em .2em 0;text-align:left;"
    "vertical-align:top}h2{margin-top:2rem;font-size:1.1rem}"
)


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the description of routes as OpenAPI 3.1."""
    types = list(
        {**dict.fromkeys(TYPES), **{one: None for route in routes for one in (route.takes, route.gives) if one}}
    )
    shown, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for name, one in _structs(types).items():
        _describe(schemas[name], one)
    shown_by_type = dict(zip(types, shown, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shown_by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def page(found: dict[str, Any]) -> bytes:
    """Return a description as HTML, for reading."""
    statuses: dict[str, str] = {}
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_TITLE}</title><style>{_STYLE}</style>"
        f"<h1>{_TITLE}</h1>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>'
    ]
    for path, methods in found["paths"].items():
        for method, told in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(told['summary'])}")
            if "security" in told:
                parts.append(f" Scope: <code>{html.escape(told['x-scope'])}</code>.")
            for name, content in (("Takes", told.get("requestBody", {})), ("Gives", told["responses"]["200"])):
                kinds = content.get("content", {})
                parts += [f"<p>{name} {_linked(kind['schema'])}" for kind in kinds.values() if kind]
                if other := [kind for kind, about in kinds.items() if not about]:
                    parts.append(f", or {', '.join(other)}")
            refused = {status: one["description"] for status, one in told["responses"].items() if status != "200"}
            statuses = refused | statuses
            links = ", ".join(f'<a href="#{status}">{status}</a>' for status in refused)
            parts.append(f"<p>Else {links}{_example(method, path, told)}")
    parts.append("<h2>Statuses</h2><p>Each with a problem, and most with a hint, in its body.<table>")
    parts += [f'<tr id="{status}"><td>{status}<td>{html.escape(statuses[status])}' for status in sorted(statuses)]
    parts.append("</table>")
    for name, schema in found["components"]["schemas"].items():
        parts.append(f'<h2 id="{name}">{name}</h2><p>{html.escape(schema.get("description", ""))}<table>')
        for field, told in schema.get("properties", {}).items():
            means = html.escape(told.pop("description", ""))
            parts.append(f"<tr><td><code>{field}</code><td>{means}<td><code>{html.escape(json.dumps(told))}</code>")
        parts.append("</table>")
    return "".join(parts).encode()


def _example(method: str, path: str, told: dict[str, Any]) -> str:
    """Return a command that asks a route, as HTML; nothing where no example of its body is known."""
    for kind, content in told.get("requestBody", {}).get("content", {}).items():
        if "example" in content:
            filled = re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), path)
            lines = [f"curl -X {method.upper()} http://HOST:PORT{filled} -H 'content-type: {kind}'"]
            lines += ["-H 'authorization: Bearer KEY'"] if "security" in told else []
            lines.append(f"-d '{json.dumps(content['example'])}'")
            return f"<pre>{html.escape(_NEXT_LINE.join(lines), quote=False)}</pre>"
    return ""


def _operation(route: Route, shown: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    kind = _NDJSON if route.streams else "application/json"
    done: dict[str, Any] = {"description": "Done."}
    if route.gives is not None:
        done["content"] = {kind: {"schema": shown[route.gives]}, **{one: {} for one in route.also_gives}}
    refused = _refused(route, shown[Problem])
    if route.tells_unready:
        content = {**done.get("content", {}), **refused.get("503", {}).get("content", {})}
        refused["503"] = {"description": "Not ready.", **({"content": content} if content else {})}
    responses = {"200": done, **dict(sorted(refused.items()))}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.about,
        "responses": responses,
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": means, "schema": {"type": "boolean"}}
        for name, means in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.takes is not None:
        content = {kind: {"schema": shown[route.takes]}, **{one: {} for one in route.also_takes}}
        if route.example is not None:
            content[kind]["example"] = route.example
        operation["requestBody"] = {"required": True, "content": content}
    if route.scope != PUBLIC:
        operation |= {"security": [{"key": []}], "x-scope": route.scope}
    return operation


def _refused(route: Route, shown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a route may answer in place of what was asked for: status -> response."""
    kinds: list[type[LubanError]] = [BadRequest, TooLarge, *route.refuses]
    if route.takes is not None:
        kinds.append(TooSlow)
    kinds.append(LubanError)
    if route.scope != PUBLIC:
        kinds += [Unauthenticated, Forbidden, Overloaded, Unavailable]
        if route.asks_model or "{" in route.path:
            kinds += [NotFound, DeadlineExceeded]
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        means = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
        told: dict[str, Any] = {"description": means, "content": {"application/problem+json": {"schema": shown}}}
        if kind in (Overloaded, Unavailable):
            about = "Seconds after which to come again."
            told["headers"] = {
                "retry-after": {"description": about, "required": True, "schema": {"type": "integer", "minimum": 1}}
            }
        found[str(codes(kind).http)] = told
    found["500"]["description"] = "Something failed within the server; its log says what."
    return found


def _structs(types: Sequence[Any]) -> dict[str, type]:
    """Return the structures among types and unions of them, by their names."""
    each = [part for one in types for part in (get_args(one) or (one,))]
    return {one.__name__: one for one in each if isinstance(one, type) and issubclass(one, msgspec.Struct)}


def _describe(schema: dict[str, Any], one: type) -> None:
    """Give a type's fields what stands beneath them in the source, and those of the types within it."""
    for name, text in field_docs(one).items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = text


def _linked(schema: dict[str, Any]) -> str:
    """Return what a body is, with a link to each structure in it."""
    if "$ref" not in schema:
        parts = [_linked(one) for one in schema.get("anyOf", ())]
        return " or ".join(parts) or html.escape(schema.get("type", "any JSON"))
    name = schema["$ref"].rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>'
