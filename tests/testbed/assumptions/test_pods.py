"""What may be changed in a pod, and when (KEP-3838; scheduling.md 2.6)."""

from __future__ import annotations

from typing import Any

from scheduler.apiserver import errors
from tests.testbed import objects
from tests.testbed.assumptions import world


async def change(here: world.World, pod: str, **spec: Any) -> Any:
    """Replace parts of a pod's spec, again where something else was faster."""
    while True:
        found = await here.get("pods", pod)
        found["spec"] |= spec
        try:
            return await here.api.replace(here.path("pods", pod), found)
        except errors.ApiError as error:
            if not error.conflict:
                raise


async def test_a_gated_pod_is_not_scheduled_and_says_so(here: world.World) -> None:
    await here.create(objects.pod("w", gates=[world.GATE]))
    await here.never_bound("w")
    conditions = (await here.get("pods", "w"))["status"]["conditions"]
    assert any(one["type"] == "PodScheduled" and one["reason"] == "SchedulingGated" for one in conditions)


async def test_gates_can_be_removed_but_not_added(here: world.World) -> None:
    await here.create(objects.pod("w", gates=[world.GATE, "other.dev/gate"]))
    await change(here, "w", schedulingGates=[{"name": world.GATE}])
    error = await here.refused(change(here, "w", schedulingGates=[{"name": world.GATE}, {"name": "new.dev/gate"}]))
    assert error.status == 422 and "schedulingGates" in error.message


async def test_a_gated_pod_can_be_pinned(here: world.World) -> None:
    await here.create(objects.pod("w", gates=[world.GATE]))
    await here.ungate("w", "kw-2")
    assert (await here.bound("w"))["spec"]["nodeName"] == "kw-2"


async def test_terms_of_an_affinity_may_only_be_narrowed(here: world.World) -> None:
    rack = {"key": "muster.dev/rack", "operator": "Exists"}
    term = {"nodeSelectorTerms": [{"matchExpressions": [rack]}]}
    required = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}
    await here.create(objects.pod("w", gates=[world.GATE], affinity=required))
    error = await here.refused(change(here, "w", affinity=objects.pinned("kw-1")))
    assert error.status == 422
    narrowed = objects.pinned("kw-1")
    where = narrowed["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
    where["matchExpressions"] = [rack]
    await change(here, "w", affinity=narrowed)


async def test_a_node_selector_may_be_added_to_but_not_changed(here: world.World) -> None:
    await here.create(objects.pod("w", gates=[world.GATE], nodeSelector={"muster.dev/rack": "rack-1"}))
    await change(here, "w", nodeSelector={"muster.dev/rack": "rack-1", "kubernetes.io/hostname": "kw-1"})
    error = await here.refused(change(here, "w", nodeSelector={"muster.dev/rack": "rack-2"}))
    assert error.status == 422


async def test_a_pod_without_gates_cannot_be_pinned_any_more(here: world.World) -> None:
    nowhere = {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}
    await here.create(objects.pod("w", **nowhere))
    error = await here.refused(change(here, "w", affinity=objects.pinned("kw-1")))
    assert error.status == 422


async def test_labels_and_annotations_change_at_any_time(here: world.World) -> None:
    await here.create(objects.pod("w", gates=[world.GATE]))
    change = {"metadata": {"labels": {"muster.dev/gang": "g"}, "annotations": {"muster.dev/rank": "3"}}}
    assert (await here.api.patch(here.path("pods", "w"), change))["metadata"]["labels"]["muster.dev/gang"] == "g"


async def test_a_pod_without_its_service_account_is_refused(here: world.World) -> None:
    """So it is in the first moments of a namespace: whoever creates pods waits for the account, or tries again."""
    error = await here.refused(here.create(objects.pod("early", serviceAccountName="none-yet")))
    assert error.status == 403 and "serviceaccount" in error.message.lower()


async def test_deletion_with_another_uid_is_refused(here: world.World) -> None:
    await here.create(objects.pod("w", gates=[world.GATE]))
    error = await here.refused(here.api.delete(here.path("pods", "w"), uid="00000000-0000-4000-8000-000000000000"))
    assert error.status == 409


async def test_a_nominated_node_is_tried_first(here: world.World) -> None:
    await here.create(objects.pod("w", gates=[world.GATE]))
    path = here.path("pods", "w", "status")
    await here.api.patch(path, {"status": {"nominatedNodeName": "kw-2"}})
    await here.ungate("w")
    assert (await here.bound("w"))["spec"]["nodeName"] == "kw-2"
