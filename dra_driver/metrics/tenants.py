"""Whose work a pod is: the label ``muster.dev/tenant`` of the pod, else of its namespace, else the namespace's name.

Asked in the background and kept, so that a scrape never waits for the API server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any

import structlog

from dra_driver import claim, claims_api, state
from scheduler.apiserver import client, errors, paths

LABEL = "muster.dev/tenant"
FRESH_S = 600.0
RETRY_S = 30.0

Pod = tuple[str, str]
"""Namespace and name."""

log = structlog.get_logger()


class Tenants:
    """Tenants of the pods that use devices; `run` asks for those that are not known."""

    def __init__(self, api: client.Client) -> None:
        self._api = api
        self._known: dict[Pod, str] = {}
        self._asked_at: dict[Pod, float] = {}
        self._news = asyncio.Event()
        self._problem = ""

    def of(self, pods: Collection[Pod]) -> Mapping[Pod, str]:
        """Return what is known of these pods and forget all others; what is missing will be asked."""
        for gone in self._asked_at.keys() - set(pods):
            self._asked_at.pop(gone)
            self._known.pop(gone, None)
        for pod in set(pods) - self._asked_at.keys():
            self._asked_at[pod] = float("-inf")
        if self._due():
            self._news.set()
        return dict(self._known)

    async def run(self) -> None:
        """Ask until cancelled; a server that does not answer, or forbids it, is asked again after a pause."""
        while True:
            await self._news.wait()
            self._news.clear()
            spaces: dict[str, str] = {}
            for pod in self._due():
                try:
                    found = await self._tenant(pod, spaces)
                except (state.UnreachableError, errors.ApiError) as error:
                    self._tell(str(error))
                    await asyncio.sleep(RETRY_S)
                    self._news.set()
                    break
                self._tell("")
                if pod in self._asked_at:  # else it is gone meanwhile
                    self._known[pod], self._asked_at[pod] = found, time.monotonic()

    def _due(self) -> list[Pod]:
        now = time.monotonic()
        return sorted(pod for pod, asked_at in self._asked_at.items() if now - asked_at > FRESH_S)

    async def _tenant(self, pod: Pod, spaces: dict[str, str]) -> str:
        namespace, name = pod
        own = await self._label(paths.of("v1", "pods", namespace, name))
        if own:
            return own
        if namespace not in spaces:
            spaces[namespace] = await self._label(paths.of("v1", "namespaces", name=namespace)) or namespace
        return spaces[namespace]

    async def _label(self, path: str) -> str:
        try:
            found: Any = await claims_api.asked(path, self._api.get(path))
        except claim.ClaimError:  # gone
            return ""
        return str((found["metadata"].get("labels") or {}).get(LABEL, ""))

    def _tell(self, problem: str) -> None:
        """Write one line for each change."""
        if problem and not self._problem:
            log.warning("tenants of pods are not known; metrics lack them", problem=problem)
        self._problem = problem
