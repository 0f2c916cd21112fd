"""What the API server says when it does not do as asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

PROBLEM = "application/problem+json"
"""What Muster's own server answers; `ApiError.details` is the whole document then, with a `type`."""


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
    """Read a ``Status`` object, a problem document (RFC 9457), or else the beginning of whatever a proxy wrote."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        said = {"message": body[:300].decode(errors="replace").strip()}
    if headers.get("Content-Type", "").startswith(PROBLEM):
        said = {"reason": said.get("title"), "message": said.get("detail"), "details": said}
    return from_status(said | {"code": status}, _seconds(headers.get("Retry-After")))


def from_status(said: Mapping[str, Any], retry_after_s: float | None = None) -> ApiError:
    """Read a ``Status`` that came as the body of an answer or as the object of a watch's ERROR event."""
    details = said.get("details")
    if retry_after_s is None and isinstance(details, dict):
        retry_after_s = _seconds(details.get("retryAfterSeconds"))
    reason, text = said.get("reason") or "Unknown", said.get("message") or "no message"
    return ApiError(int(said.get("code") or 500), str(reason), str(text), retry_after_s, details)


def _seconds(value: Any) -> float | None:
    """Seconds of a Retry-After; the date form is not used by the API server, and 0 in a Status means none."""
    try:
        return float(value) or None if value is not None else None
    except (TypeError, ValueError):
        return None
