"""The names of tenants, from labels in the API."""

from __future__ import annotations

from typing import Any

import pytest

from dra_driver.metrics import tenants
from scheduler.apiserver import access, client, errors
from tests.driver.metrics import background, until
from tests.testbed.embedded import server as embedded


async def test_the_tenant_is_the_pods_else_the_namespaces_else_its_name() -> None:
    async with embedded.Server(run=frozenset()) as home, client.Client(access.Access(home.url)) as api:
        for name, label in (("ml", "blue"), ("plain", "")):
            labels = {tenants.LABEL: label} if label else {}
            await api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        container = {"name": "main", "image": "none"}
        for space, name, labels in (("ml", "own", {tenants.LABEL: "red"}), ("ml", "other", {}), ("plain", "p", {})):
            obj = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
            await api.create(f"/api/v1/namespaces/{space}/pods", obj)
        pods = {("ml", "own"), ("ml", "other"), ("plain", "p"), ("plain", "gone")}
        asked = tenants.Tenants(api)
        async with background(asked.run):
            assert asked.of(pods) == {}, "a scrape does not wait"
            await until(lambda: len(asked.of(pods)) == 4)
            expected = {("ml", "own"): "red", ("ml", "other"): "blue", ("plain", "p"): "plain"}
            assert asked.of(pods) == expected | {("plain", "gone"): "plain"}
            assert asked.of({("ml", "own")}) == {("ml", "own"): "red"}, "what is gone is forgotten"


async def test_a_server_that_forbids_it_leaves_tenants_empty_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forbidding:
        asked = 0

        async def get(self, path: str) -> Any:
            self.asked += 1
            if self.asked < 3:
                raise errors.ApiError(403, "Forbidden", "no")
            return {"metadata": {"labels": {tenants.LABEL: "blue"}}}

    monkeypatch.setattr(tenants, "RETRY_S", 0.01)
    api = Forbidding()
    asked = tenants.Tenants(api)
    async with background(asked.run):
        assert asked.of({("ml", "p")}) == {}
        await until(lambda: asked.of({("ml", "p")}))
    assert api.asked == 3
