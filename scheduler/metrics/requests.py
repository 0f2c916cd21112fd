"""Requests to the API server: how many by verb, resource and status, and how long they took."""

import prometheus_client

VERBS = {"GET": "read", "POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""Seconds."""

MAX_RESOURCES = 64
"""Resources that have series of their own; the scheduler uses about 25."""

OTHER = "other"


class Requests:
    """Counts requests; `observe` is what the client is given."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._count = prometheus_client.Counter(
            "muster_api_requests",
            "Requests to the API server by verb, resource and HTTP status.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self._seconds = prometheus_client.Histogram(
            "muster_api_request_duration_seconds",
            "From a request sent to its answer read, each page of a list by itself; watches are left out.",
            ["verb", "resource"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._named: dict[str, str] = {}

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request that has ended; a status of 0 is told as ``none``."""
        verb, resource = VERBS.get(method, OTHER), self._resource(path)
        self._count.labels(verb, resource, str(status or "none")).inc()
        self._seconds.labels(verb, resource).observe(seconds)

    def _resource(self, path: str) -> str:
        """Return the resource of a path, ``other`` beyond `MAX_RESOURCES`."""
        found = resource(path)
        if found not in self._named and len(self._named) >= MAX_RESOURCES:
            return OTHER
        return self._named.setdefault(found, found)


def resource(path: str) -> str:
    """Return plural and subresource of a path below an API server's URL.

    >>> resource("/api/v1/namespaces/ml/pods/w-0/binding")
    'pods/binding'
    >>> resource("/apis/resource.k8s.io/v1/resourceslices")
    'resourceslices'
    >>> resource("/api/v1/namespaces/ml"), resource("/version")
    ('namespaces', 'other')
    """
    parts = path.strip("/").split("/")
    skip = {"api": 2, "apis": 3}.get(parts[0], len(parts))
    rest = parts[skip:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    if not rest:
        return OTHER
    return "/".join([rest[0], *rest[2:3]])[:80]
