"""What is wrong with a claim or with the node is told for that claim, by name; a later call succeeds; nothing is lost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from dra_driver import claim
from tests.driver import kubelet, objects, small_disk
from tests.driver.conftest import Node

MakeNode = Callable[..., Node]
PARTITION = "gpu-7-mig-1g10gb-19-6"
MALFORMED = {
    "no object": "time slices, please",
    "no kind": {"apiVersion": "gpu.muster.dev/v1alpha1"},
    "unknown kind": {"apiVersion": "gpu.muster.dev/v1alpha1", "kind": "GpuConfigs"},
    "unknown version": {"apiVersion": "gpu.muster.dev/v9", "kind": "GpuConfig"},
    "unknown field": objects.gpu_config(sharingg={}),
    "unknown strategy": objects.gpu_config(sharing={"strategy": "Perhaps"}),
    "wrong type": objects.gpu_config(sharing=[1, 2]),
    "settings of the other strategy": objects.gpu_config(
        sharing={"strategy": "TimeSlicing", "mpsConfig": {"defaultActiveThreadPercentage": 50}}
    ),
    "out of range": objects.gpu_config(
        sharing={"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 101}}
    ),
    "for another kind of device": objects.mig_config(),
}


async def errors_of(calls: kubelet.Kubelet, *references: claim.Reference) -> dict[str, str]:
    """Prepare, and return the errors by the name of the claim."""
    answers = await calls.prepare(*references)
    return {one.name: answers[one.uid].error for one in references}


def untouched(node: Node, *references: claim.Reference) -> bool:
    """Tell whether nothing at all is left of claims that were refused."""
    files = {path.name for path in node.cdi.glob("*")} | {path.name for path in (node.plugins / "metadata").glob("*")}
    path = node.plugins / "checkpoint.json"
    record = path.read_text() if path.exists() else ""
    return not any(one.uid in record or any(one.uid in name for name in files) for one in references)


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_config_is_told_with_its_place(make_node: MakeNode, what: str) -> None:
    node = make_node()
    bad = objects.claim(1, "gpu-0", configs=[objects.config(MALFORMED[what], requests=["gpus"])], name="spoilt")
    async with node.driver(), node.kubelet() as calls:
        spoilt, good = node.claims.add(bad), node.claims.add(objects.claim(2, "gpu-1"))
        errors = await errors_of(calls, spoilt, good)
        assert errors["claim-2"] == ""
        assert "default/spoilt" in errors["spoilt"] and "config[0]" in errors["spoilt"], errors["spoilt"]
        assert untouched(node, spoilt) and not untouched(node, good)
        bad["status"]["allocation"]["devices"]["config"] = []
        node.claims.add(bad)
        assert await errors_of(calls, spoilt) == {"spoilt": ""}


async def test_claims_that_are_not_as_the_kubelet_says_are_named_and_leave_nothing(make_node: MakeNode) -> None:
    node = make_node()
    async with node.driver(), node.kubelet() as calls:
        wanted = [node.claims.add(objects.claim(i, f"gpu-{i}")) for i in (1, 2, 3)]
        kept = dict(node.claims.objects)
        del node.claims.objects["default", "claim-1"]
        node.claims.add(objects.claim(20, "gpu-2", name="claim-2"))
        node.claims.add({**objects.claim(3), "status": {}})
        errors = await errors_of(calls, *wanted)
        for name, error in errors.items():
            assert f"default/{name}" in error
        assert "not found" in errors["claim-1"]
        assert "deleted and created again" in errors["claim-2"] and objects.uid(20) in errors["claim-2"]
        assert "status.allocation is empty" in errors["claim-3"]
        assert untouched(node, *wanted)
        node.claims.objects.update(kept)
        assert set((await errors_of(calls, *wanted)).values()) == {""}
        assert set((await calls.unprepare(*wanted)).values()) == {""}


@pytest.mark.parametrize("device", ["gpu-0", PARTITION])
async def test_a_device_that_vanished_is_named_and_its_claim_is_not_lost(make_node: MakeNode, device: str) -> None:
    node = make_node(mig_gpus=(7,))
    async with node.driver() as driver, node.kubelet() as calls:
        held = node.claims.add(objects.claim(1, device))
        assert await errors_of(calls, held) == {"claim-1": ""}
        here: Any = driver.state.parts.machine
        whole = here.topology
        index = int(device.split("-")[1])
        gpus = tuple(gpu for gpu in whole.gpus if gpu.index != index)
        here.topology = dataclasses.replace(
            whole,
            gpus=tuple(dataclasses.replace(gpu, index=i) for i, gpu in enumerate(gpus)),
            nvlinks=(),
        )
        (error,) = (await errors_of(calls, held)).values()
        assert "default/claim-1" in error and f"device node-a/{device}" in error and "does not exist" in error
        assert not untouched(node, held)
        here.topology = whole
        assert await errors_of(calls, held) == {"claim-1": ""}
        here.topology = dataclasses.replace(whole, gpus=(), nvlinks=())
        assert await calls.unprepare(held) == {held.uid: ""}
        assert untouched(node, held)


async def test_a_cdi_folder_that_cannot_be_written(make_node: MakeNode) -> None:
    node = make_node()
    with small_disk.mounted(node.cdi) as disk:
        async with node.driver(), node.kubelet() as calls:
            held, fresh = (node.claims.add(objects.claim(i, f"gpu-{i}")) for i in (1, 2))
            assert await errors_of(calls, held) == {"claim-1": ""}
            disk.read_only(True)
            errors = await errors_of(calls, held) | await errors_of(calls, fresh)
            assert errors["claim-1"] == ""
            assert "default/claim-2" in errors["claim-2"] and "Read-only file system" in errors["claim-2"]
            assert str(node.cdi) in errors["claim-2"]
            (gone,) = (await calls.unprepare(held)).values()
            assert "Read-only file system" in gone and "default/claim-1" in gone
            assert await errors_of(calls, held) == {"claim-1": ""}
            disk.read_only(False)
            assert await errors_of(calls, fresh) == {"claim-2": ""}
            assert set((await calls.unprepare(held, fresh)).values()) == {""}
            assert untouched(node, held, fresh)


async def test_a_full_disk_refuses_new_claims_and_keeps_the_prepared_ones(make_node: MakeNode) -> None:
    node = make_node(mig_gpus=(7,))
    with small_disk.mounted(node.plugins) as disk:
        async with node.driver(), node.kubelet() as calls:
            devices = ("gpu-0", "gpu-1", PARTITION)
            held, fresh, cut = (node.claims.add(objects.claim(i + 1, name)) for i, name in enumerate(devices))
            assert await errors_of(calls, held) == {"claim-1": ""}
            disk.fill()
            errors = await errors_of(calls, held) | await errors_of(calls, fresh, cut)
            assert errors["claim-1"] == ""
            for name in ("claim-2", "claim-3"):
                assert f"default/{name}" in errors[name] and "No space left on device" in errors[name]
                assert "checkpoint.json" in errors[name]
            assert node.hardware._all() == [], "hardware is changed although no record says so"
            assert await calls.unprepare(held) == {held.uid: ""}, "its own files make the room that is needed"
            disk.free()
            assert set((await errors_of(calls, held, fresh, cut)).values()) == {""}
            assert len(node.hardware._all()) == 1
            disk.fill()
        (node.root / "proc/sys/kernel/random/boot_id").write_text("another boot\n")
        async with node.driver(), node.kubelet() as calls:  # a start on a full disk, after a reboot, goes on too
            assert set((await errors_of(calls, held, fresh, cut)).values()) == {""}
            disk.free()
            assert set((await calls.unprepare(held, fresh, cut)).values()) == {""}
            assert untouched(node, held, fresh, cut) and node.hardware._all() == []


async def test_until_a_damaged_checkpoint_is_set_aside_each_claim_is_told(make_node: MakeNode) -> None:
    node = make_node()
    async with node.driver() as driver, node.kubelet() as calls:
        held, fresh = (node.claims.add(objects.claim(i, f"gpu-{i}")) for i in (1, 2))
        assert await errors_of(calls, held) == {"claim-1": ""}
        path = node.plugins / "checkpoint.json"
        path.write_bytes(path.read_bytes()[:-30])
        for name, error in (await errors_of(calls, held, fresh)).items():
            assert f"default/{name}" in error and "checkpoint.json" in error and "defect" not in error, error
        assert all("checkpoint.json" in error for error in (await calls.unprepare(held)).values())
        assert await driver.recovery.mend()
        assert set((await errors_of(calls, held, fresh)).values()) == {""}
        rival = node.claims.add(objects.claim(3, "gpu-2"))
        assert "is held by claim default/claim-2" in (await errors_of(calls, rival))["claim-3"]


async def test_a_checkpoint_that_is_gone_is_rebuilt_where_files_of_claims_are_left(make_node: MakeNode) -> None:
    node = make_node(mig_gpus=(7,))
    async with node.driver(), node.kubelet() as calls:
        held, cut = (node.claims.add(objects.claim(i, name)) for i, name in enumerate(("gpu-0", PARTITION), 1))
        assert set((await errors_of(calls, held, cut)).values()) == {""}
    (node.plugins / "checkpoint.json").unlink()
    async with node.driver() as driver, node.kubelet() as calls:
        assert [reason for reason, _ in node.events] == ["CheckpointLost"]
        await driver.recovery.sweep()
        assert set(driver.state.parts.store.read().claims) == {held.uid, cut.uid} and len(node.hardware._all()) == 1
        rival = node.claims.add(objects.claim(3, "gpu-0"))
        assert "is held by claim default/claim-1" in (await errors_of(calls, rival))["claim-3"]


async def test_an_api_server_that_answers_nonsense_is_told_for_the_claim(make_node: MakeNode) -> None:
    node = make_node()
    async with node.driver(), node.kubelet() as calls:
        nonsense: list[Any] = [{"results": [{"driver": "gpu.muster.dev"}]}, {"results": "gpu-1"}, [], {"results": [7]}]
        for number, devices in enumerate(nonsense, 1):
            obj = objects.claim(number, "gpu-0")
            obj["status"]["allocation"]["devices"] = devices
            wanted = node.claims.add(obj)
            (error,) = (await errors_of(calls, wanted)).values()
            assert f"default/claim-{number}" in error, (json.dumps(devices), error)
            assert untouched(node, wanted)
