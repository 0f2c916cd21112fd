"""The OpenAPI 3.1 document of the explain routes, made from the questions and the types of their answers."""

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler.web import explain

PATH = "/openapi.json"
REF = "#/components/schemas/{name}"

Item = dict[str, Any]

ERRORS = {
    "400": "What was asked can't be read; `detail` names the field and the remedy.",
    "404": "There is no such object.",
    "503": "Not synced with the API server yet, or busy; ask again.",
}


def document(questions: Sequence[explain.Question], problem: type[msgspec.Struct], version: str) -> Item:
    """Return the document.

    Parameters
    ----------
    problem : type
        Of the body of every error.
    """
    types: list[type[msgspec.Struct]] = [*(one.answer for one in questions), problem]
    _, schemas = msgspec.json.schema_components(types, ref_template=REF)
    paths: Item = {}
    for one in questions:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, problem)
    about = (
        "Read-only answers about gangs, pods, devices and what a manifest would become. Nothing here changes anything."
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Muster explain", "version": version, "description": about},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def route(questions: Sequence[explain.Question], problem: type[msgspec.Struct], version: str) -> Route:
    """Return the route that serves the document; it is made once."""
    body = msgspec.json.encode(document(questions, problem, version))

    async def served(request: Request) -> Response:
        return Response(body, media_type="application/json")

    return Route(PATH, served)


def _operation(one: explain.Question, problem: type[msgspec.Struct]) -> Item:
    found: Item = {
        "operationId": one.name,
        "summary": one.text,
        "parameters": [_parameter(each) for each in one.parameters],
        "responses": {
            "200": {
                "description": inspect.cleandoc(one.answer.__doc__ or one.text),
                "content": {"application/json": {"schema": _ref(one.answer)}},
            }
        },
    }
    for status, text in ERRORS.items():
        found["responses"][status] = {
            "description": text,
            "content": {explain.PROBLEM: {"schema": _ref(problem)}},
        }
    if one.reads:
        found["requestBody"] = {
            "description": one.reads,
            "required": True,
            "content": {
                "application/yaml": {"schema": {"type": "string"}},
                "application/json": {"schema": {"type": "object"}},
            },
        }
    return found


def _parameter(one: explain.Parameter) -> Item:
    number = {"type": "integer", "minimum": 0, "maximum": one.most}
    schema: Item = number if one.kind is int else {"type": "string", "maxLength": explain.MAX_TEXT}
    if not one.in_path:
        schema["default"] = one.default
    where = "path" if one.in_path else "query"
    return {"name": one.name, "in": where, "required": one.in_path, "description": one.text, "schema": schema}


def _ref(kind: type[msgspec.Struct]) -> Item:
    return {"$ref": REF.format(name=kind.__name__)}
