"""The suite against the embedded server, and those assumptions about claims, pods and slices that it has to fulfil too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.apiserver import client, paths
from tests.testbed import embedded, versions
from tests.testbed import objects as bodies
from tests.testbed.assumptions import world
from tests.testbed.assumptions.conftest import NODES
from tests.testbed.assumptions.test_claims import (  # noqa: F401
    test_a_claim_of_a_template_goes_with_its_pod,
    test_a_gated_pod_gets_its_claim_from_the_template,
    test_a_result_has_to_name_a_request_of_the_claim,
    test_a_spec_of_a_claim_never_changes,
    test_a_stale_version_is_a_conflict,
    test_an_allocation_cannot_be_changed_only_taken_back,
    test_an_allocation_in_use_cannot_be_taken_back,
    test_an_allocation_that_nobody_used_is_left_alone,
    test_exactly_the_allocated_devices_are_kept_when_the_pod_is_let_go,
    test_more_than_32_devices_are_refused,
    test_the_server_lets_two_claims_have_one_device,
    test_the_timestamp_is_kept_where_it_is_known,
)
from tests.testbed.assumptions.test_pods import (  # noqa: F401
    test_a_gated_pod_can_be_pinned,
    test_a_node_selector_may_be_added_to_but_not_changed,
    test_a_pod_without_gates_cannot_be_pinned_any_more,
    test_a_pod_without_its_service_account_is_refused,
    test_deletion_with_another_uid_is_refused,
    test_gates_can_be_removed_but_not_added,
    test_labels_and_annotations_change_at_any_time,
    test_terms_of_an_affinity_may_only_be_narrowed,
)
from tests.testbed.assumptions.test_slices import (  # noqa: F401
    test_64_devices_with_taints_are_the_limit,
    test_128_plain_devices_are_the_limit,
    test_driver_and_node_of_a_slice_never_change,
    test_fields_behind_a_gate_that_is_off_are_dropped_in_silence,
    test_partitions_and_counters_by_version,
    test_slices_can_be_selected_by_node_and_driver,
    test_versions_in_attributes_have_to_be_semantic,
)
from tests.testbed.contract.suite.lists import *  # noqa: F403
from tests.testbed.contract.suite.objects import *  # noqa: F403
from tests.testbed.contract.suite.patches import *  # noqa: F403


@dataclass(frozen=True, slots=True)
class Home:
    """What `world.World` needs of a cluster."""

    kubeconfig: Path
    kubernetes: versions.Kubernetes


@pytest.fixture(params=[versions.NEWEST, versions.FLOOR])
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[world.World]:
    version = versions.kubernetes(request.param)
    async with embedded.Server(f"1.{version.minor}") as server:
        config = server.kubeconfig(tmp_path / "kubeconfig")
        async with await client.Client.connect(config) as api:
            await furnish(api)
            async with world.World.open(Home(config, version), api) as opened:  # type: ignore[arg-type]
                yield opened


async def furnish(api: client.Client) -> None:
    """Make the three nodes with eight devices each that the real clusters have."""
    await api.create(paths.of(paths.RESOURCE, "deviceclasses"), bodies.device_class("gpu.test", world.DRIVER))
    for name in NODES:
        await api.create(paths.of("v1", "nodes"), world.node(name))
        devices = [f"gpu-{index}" for index in range(8)]
        body = bodies.resource_slice(f"{name}-s", world.DRIVER, name, devices)
        await api.create(paths.of(paths.RESOURCE, "resourceslices"), body)
