"""The shared fleet of 500 nodes."""

from __future__ import annotations

import json

from tests.testbed import cluster as clusters
from tests.testbed.fleet import presets


def test_all_nodes_are_ready_and_have_slices(fleet_500: clusters.Cluster) -> None:
    nodes = json.loads(fleet_500.kubectl("get", "nodes", "-o", "json"))["items"]
    assert len(nodes) == len(presets.fleet_500) == 500
    assert all(clusters.is_ready(one) for one in nodes)
    slices = json.loads(fleet_500.kubectl("get", "resourceslices", "-o", "json"))["items"]
    assert {one["spec"]["nodeName"] for one in slices} == {one["metadata"]["name"] for one in nodes}
