"""What the API server refuses, in its own words: a `Status` object with code, reason and causes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.testbed.embedded.kinds import Kind

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
Cause = tuple[str, str, str]  # field, reason (FieldValueInvalid, ...), message


class Failure(Exception):
    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason, self.message, self.details = code, reason, message, details or {}

    def status(self) -> dict[str, Any]:
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        body |= {"reason": self.reason} if self.reason else {}
        return body | ({"details": self.details} if self.details else {}) | {"code": self.code}


def _details(kind: Kind, name: str) -> dict[str, Any]:
    return {"name": name, **({"group": kind.group} if kind.group else {}), "kind": kind.plural}


def bad_request(message: str) -> Failure:
    return Failure(400, "BadRequest", message)


def missing(kind: Kind, name: str) -> Failure:
    return Failure(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def no_resource() -> Failure:
    return Failure(404, "NotFound", "the server could not find the requested resource")


def exists(kind: Kind, name: str) -> Failure:
    return Failure(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str = MODIFIED, causes: Sequence[Cause] = ()) -> Failure:
    told = _details(kind, name) | ({"causes": _causes(causes)} if causes else {})
    return Failure(409, "Conflict", f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}', told)


def forbidden(kind: Kind, name: str, why: str) -> Failure:
    return Failure(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', _details(kind, name))


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> Failure:
    texts = [f"{field}: {message}" for field, _, message in causes]
    said = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    told = {"name": name, **({"group": kind.group} if kind.group else {}), "kind": kind.kind, "causes": _causes(causes)}
    return Failure(422, "Invalid", f'{kind.title} "{name}" is invalid: {said}', told)


def expired(message: str) -> Failure:
    return Failure(410, "Expired", message)


def _causes(causes: Sequence[Cause]) -> list[dict[str, str]]:
    return [{"reason": reason, "message": message, "field": field} for field, reason, message in causes]


def wrong(field: str, message: str) -> Cause:
    return field, "FieldValueInvalid", f"Invalid value: {message}"


def barred(field: str, message: str) -> Cause:
    return field, "FieldValueForbidden", f"Forbidden: {message}"


def required(field: str, message: str = "") -> Cause:
    return field, "FieldValueRequired", "Required value" + (f": {message}" if message else "")


def too_many(field: str, count: int, limit: int) -> Cause:
    return field, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items"
