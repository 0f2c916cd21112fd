"""What to do to which requests: values that a test composes and may change while the proxy runs.

>>> lost = Rule(Match(verbs=("update",), resource="resourceclaims", subresource="status"), Reset(after=True), times=1)
>>> asked = Request.read("PUT", "/apis/resource.k8s.io/v1/namespaces/ml/resourceclaims/w-0/status", {})
>>> lost.match.fits(asked)
True
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request in the words of RBAC; `group` is empty for the core API."""

    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    agent: str
    path: str

    @classmethod
    def read(cls, method: str, path: str, query: Mapping[str, str], agent: str = "") -> Request:
        parts = [part for part in path.split("/") if part]
        group, rest = "", []
        if parts[:1] == ["api"]:
            rest = parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 2:
            group, rest = parts[1], parts[3:]
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource, name, subresource = [*rest[:3], "", "", ""][:3]
        return cls(_verb(method, name, query), group, resource, subresource, namespace, name, agent, path)


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    if query.get("watch") in ("1", "true"):
        return "watch"
    if method == "GET":
        return "get" if name else "list"
    return "deletecollection" if method == "DELETE" and not name else VERBS.get(method, method.lower())


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests; what is empty fits all. `skip` lets the first ones pass."""

    verbs: tuple[str, ...] = ()
    group: str | None = None
    resource: str = ""
    subresource: str | None = None
    namespace: str = ""
    name: str = ""
    agent: str = ""
    skip: int = 0

    def fits(self, asked: Request) -> bool:
        return (
            (not self.verbs or asked.verb in self.verbs)
            and self.group in (None, asked.group)
            and self.resource in ("", asked.resource)
            and self.subresource in (None, asked.subresource)
            and self.namespace in ("", asked.namespace)
            and self.name in ("", asked.name)
            and self.agent in asked.agent
        )


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait before the request goes on; `spread_s` is added by a seeded draw."""

    seconds: float
    spread_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the request until `opened` is set; the server sees it only then."""

    opened: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer in the server's place with a Status; the server never sees the request."""

    status: int
    reason: str = ""
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """Cut the connection: before the server sees the request, or `after` it has done it and only the answer is lost."""

    after: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """End a watch after some events, as a proxy with a time limit would; `torn` cuts in the middle of a line."""

    events: int
    torn: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """Keep a watch open after some events and let nothing more through."""

    events: int


@dataclass(frozen=True, slots=True)
class Expire:
    """Send the ERROR event of a version that is too old after some events, then end the watch."""

    events: int


@dataclass(frozen=True, slots=True)
class SkipBookmarks:
    """Let no bookmark of a watch through."""


Fault = Delay | Hold | Answer | Reset | Cut | Stall | Expire | SkipBookmarks
ON_WATCHES = (Cut, Stall, Expire, SkipBookmarks)
REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(slots=True)
class Rule:
    """A fault for what matches, at most `times` times (None: always); `met` and `applied` count."""

    match: Match
    fault: Fault
    times: int | None = None
    met: int = field(default=0)
    applied: int = field(default=0)

    def take(self, asked: Request) -> bool:
        """Count a request, and tell whether the fault strikes it."""
        if not self.match.fits(asked) or (isinstance(self.fault, ON_WATCHES) and asked.verb != "watch"):
            return False
        self.met += 1
        if self.met <= self.match.skip or (self.times is not None and self.applied >= self.times):
            return False
        self.applied += 1
        return True


def status(fault: Answer) -> dict[str, object]:
    """Return the body of an answer in the server's place."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": "a fault on purpose",
        "reason": fault.reason or REASONS.get(fault.status, "Unknown"),
        "code": fault.status,
    }
