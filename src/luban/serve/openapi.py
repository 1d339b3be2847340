"""OpenAPI 3.1 out of routes and types, and the same as a page that needs nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from luban.plugins import field_docs
from luban.serve.routing import PUBLIC, Route
from luban.serve.schemas import TYPES, Problem

_TITLE = "Luban"
_REFERENCE = "#/components/schemas/{name}"
_NDJSON = "application/x-ndjson"
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
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for one in types:
        _describe(schemas, one)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
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
            for kind in told.get("requestBody", {}).get("content", {}).values():
                parts.append(f"<p>Takes {_linked(kind['schema'])}")
            for kind in told["responses"]["200"].get("content", {}).values():
                parts.append(f"<p>Gives {_linked(kind['schema'])}")
    for name, schema in found["components"]["schemas"].items():
        parts.append(f'<h2 id="{name}">{name}</h2><p>{html.escape(schema.get("description", ""))}<table>')
        for field, told in schema.get("properties", {}).items():
            means = html.escape(told.pop("description", ""))
            parts.append(f"<tr><td><code>{field}</code><td>{means}<td><code>{html.escape(json.dumps(told))}</code>")
        parts.append("</table>")
    return "".join(parts).encode()


def _operation(route: Route) -> dict[str, Any]:
    kind = _NDJSON if route.streams else "application/json"
    done: dict[str, Any] = {"description": "Done."}
    if route.gives is not None:
        done["content"] = {kind: {"schema": _reference(route.gives)}}
    problem = {"description": "A problem.", "content": {"application/problem+json": {"schema": _reference(Problem)}}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.about,
        "responses": {"200": done, "default": problem},
    }
    if names := re.findall(r"\{(\w+)\}", route.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": _reference(route.takes)}}}
    if route.scope != PUBLIC:
        operation |= {"security": [{"key": []}], "x-scope": route.scope}
    return operation


def _reference(one: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=one.__name__)}


def _describe(schemas: dict[str, Any], one: type) -> None:
    """Give a type's fields what stands beneath them in the source, and those of the types within it."""
    schema = schemas.get(one.__name__)
    if schema is None:
        return
    for name, text in field_docs(one).items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = text


def _linked(schema: dict[str, str]) -> str:
    name = schema["$ref"].rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>'
