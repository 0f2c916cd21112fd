"""One machine of every kind in a real API server: accepted as it is, Ready by kwok, given pods, and gone again."""

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from scheduler.apiserver import client
from scheduler.model import machines
from tests.bench import burst
from tests.model import api_limits
from tests.testbed import cluster, fixtures, kwok
from tests.testbed.fleet import create, nodes, presets

pytestmark = pytest.mark.slow

ALL = presets.Fleet("all", (tuple(presets.Rack(kind, 2) for kind in machines.KINDS),))


@pytest.fixture(scope="module")
def simulated(kubernetes_version: str) -> Iterator[cluster.Cluster]:
    """A cluster of its own: the session's clusters shall have no simulated nodes."""
    fixtures.require(real_nodes=False)
    with cluster.Cluster(cluster.Options(version=kubernetes_version)).start() as made:
        kwok.start(made)
        yield made


def plain(value: Any) -> Any:
    """Return a spec with quantities as numbers: the server writes 1000 as 1k and 12288Mi as 12Gi."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return api_limits.value(value) if isinstance(value, str) and re.fullmatch(r"\d+([KMG]i|[kMG])?", value) else value


async def test_a_fleet_is_kept_as_sent_takes_pods_and_goes(simulated: cluster.Cluster) -> None:
    minor = simulated.kubernetes.minor
    async with await client.Client.connect(simulated.kubeconfig) as api:
        made = await create.create(api, ALL, minor, ready_s=60)
        assert made.nodes == made.slices == len(ALL)
        stored = {item["metadata"]["name"]: item for item in (await api.list(nodes.SLICES))[0]}
        for _, *published in nodes.bodies(ALL, minor):
            for body in published:
                sent = orjson.loads(body.data)["spec"]
                assert plain(stored[body.name]["spec"]) == plain(sent), "the server dropped, added or changed a field"
        bound = await burst.run(api, "burst", pods=40, gpus=2)
        assert len(bound.waits) == 40
        assert await create.delete(api, ALL) == 2 * len(ALL)
        assert (await api.list(nodes.SLICES))[0] == (await api.list(nodes.NODES))[0] == []
