"""Lists, whole or page by page; all pages of a list are of one version."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from tests.testbed.embedded import failure, objects, selectors
from tests.testbed.embedded.paths import Target
from tests.testbed.embedded.store import Gone, Object, Store

TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)


def listed(store: Store, target: Target, params: Mapping[str, str]) -> Object:
    """Return the answer to a list."""
    kind, limit = target.kind, int(params.get("limit") or 0)
    version, after = _from(store, params)
    matches = selectors.parse(kind, params.get("labelSelector", ""), params.get("fieldSelector", ""))
    try:
        held = store.at(kind.storage, version)
    except Gone as error:
        raise failure.expired(TOO_OLD if params.get("continue") else str(error)) from None
    keys = sorted(key for key in held if target.namespace in ("", key[0]) and key > after)
    found = [(key, held[key]) for key in keys if matches(held[key])]
    meta: dict[str, Any] = {"resourceVersion": str(version)}
    if limit and len(found) > limit:
        meta["continue"] = base64.urlsafe_b64encode(orjson.dumps({"v": version, "after": found[limit - 1][0]})).decode()
        if matches is selectors.everything:
            meta["remainingItemCount"] = len(found) - limit
        found = found[:limit]
    items = [objects.shown(kind, item) for _, item in found]
    if not kind.custom:  # lists of built-in kinds leave the kind of their items out
        items = [{name: value for name, value in one.items() if name not in ("kind", "apiVersion")} for one in items]
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}


def _from(store: Store, params: Mapping[str, str]) -> tuple[int, tuple[str, str]]:
    """Return the version to list at and the key after which to begin."""
    if token := params.get("continue"):
        try:
            told = orjson.loads(base64.urlsafe_b64decode(token))
            return int(told["v"]), (told["after"][0], told["after"][1])
        except (binascii.Error, ValueError, KeyError, TypeError, IndexError):
            raise failure.bad_request(f"continue key is not valid: {token[:80]}") from None
    asked = version_of(params.get("resourceVersion", ""))
    if asked > store.version:
        raise failure.Failure(504, "Timeout", f"Too large resource version: {asked}, current: {store.version}")
    exact = params.get("resourceVersionMatch") == "Exact"
    return (asked if exact else store.version), ("", "")


def version_of(text: str) -> int:
    if text and not text.isdigit():
        raise failure.bad_request(f'resourceVersion: Invalid value: "{text}"')
    return int(text or 0)
