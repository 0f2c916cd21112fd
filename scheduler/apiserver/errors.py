"""What the API server says when it does not do as asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


class ApiError(Exception):
    """A status that is not a success: `status` is the HTTP code, `reason` the API's own word (``NotFound``, ``Conflict``)."""

    def __init__(
        self, status: int, reason: str, message: str, retry_after_s: float | None = None, details: Any = None
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message
        self.retry_after_s, self.details = retry_after_s, details

    @property
    def conflict(self) -> bool:
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def missing(self) -> bool:
        return self.status == 404

    @property
    def expired(self) -> bool:
        """A watch or a page that starts from a version that the server has forgotten."""
        return self.status == 410

    @property
    def passing(self) -> bool:
        """The same request may succeed later without any change."""
        return self.status in (408, 429, 500, 502, 503, 504)


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Read a ``Status`` object, or else the beginning of whatever a proxy wrote."""
    try:
        said = orjson.loads(body)
        if not isinstance(said, dict):
            said = {}
    except orjson.JSONDecodeError:
        said = {}
    text = said.get("message") or body[:300].decode(errors="replace").strip() or "no message"
    return ApiError(
        status, said.get("reason") or "Unknown", text, _seconds(headers.get("Retry-After")), said.get("details")
    )


def _seconds(value: str | None) -> float | None:
    """Seconds of a Retry-After header; the date form is not used by the API server."""
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None
