"""Where collections and objects are below an API server's URL."""

from __future__ import annotations

RESOURCE = "resource.k8s.io/v1"


def of(api_version: str, plural: str, namespace: str = "", name: str = "", sub: str = "") -> str:
    """Return the path of a collection, an object or a subresource.

    >>> of("v1", "pods", "ml", "w-0", "binding")
    '/api/v1/namespaces/ml/pods/w-0/binding'
    >>> of("resource.k8s.io/v1", "resourceslices")
    '/apis/resource.k8s.io/v1/resourceslices'
    """
    parts = ["/apis" if "/" in api_version else "/api", api_version]
    parts += ["namespaces", namespace] if namespace else []
    return "/".join([*parts, plural, *(part for part in (name, sub) if part)])
