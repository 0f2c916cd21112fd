"""The witness sees what it is there to see."""

from __future__ import annotations

from typing import Any

from scheduler.model import names
from tests.live import witness, work


def pod(revision: int, name: str, node: str = "", there: bool = True) -> witness.Seen:
    item = work.pod(name, notes={names.GANG_NAME: "g", names.GANG_SIZE: "2"})
    item["metadata"]["uid"] = name
    item["spec"]["nodeName"] = node
    return witness.Seen(revision, witness.POD, there, item)


def claim(revision: int, owner: str, device: str) -> witness.Seen:
    rows = [{"pool": "n", "device": device}] if device else []
    item: dict[str, Any] = {"metadata": {"uid": f"c-{owner}", "ownerReferences": [{"uid": owner, "name": owner}]}}
    item["status"] = {"allocation": {"devices": {"results": rows}}} if rows else {}
    return witness.Seen(revision, witness.CLAIM, True, item)


CREATED = [pod(1, "a"), pod(2, "b"), claim(3, "a", "gpu-0")]


def test_a_gang_that_gets_nodes_after_all_devices_is_well() -> None:
    assert not list(witness.Witness([*CREATED, pod(5, "a", "n"), claim(4, "b", "gpu-1")]).faults())


def test_a_member_that_runs_beside_one_without_devices_is_seen() -> None:
    [fault] = witness.Witness([*CREATED, pod(4, "a", "n"), claim(5, "b", "gpu-1")]).faults()
    assert fault == "revision 4: 1 pods of g have nodes, 1 have no devices"


def test_a_device_in_two_claims_is_seen() -> None:
    [fault] = witness.Witness([*CREATED, claim(4, "b", "gpu-0")]).faults()
    assert "in two claims: n/gpu-0" in fault


def test_a_gang_of_which_a_pod_was_deleted_is_over() -> None:
    story = [*CREATED, claim(4, "b", "gpu-1"), pod(5, "a", "n"), pod(6, "b", there=False), claim(7, "b", "")]
    assert not list(witness.Witness(story).faults())
