"""Batches of claims as the kubelet sends them, over real sockets."""

import asyncio
import json
import threading

from tests.driver import objects


async def test_a_pod_gets_its_two_gpus_in_the_order_of_the_allocation(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        wanted = node.claims.add(objects.claim(1, "gpu-2", "gpu-0"))
        answer = (await kubelet.prepare(wanted))[wanted.uid]
        assert answer.error == ""
        assert [(d.pool_name, d.device_name, list(d.request_names)) for d in answer.devices] == [
            ("node-a", "gpu-2", ["gpus"]),
            ("node-a", "gpu-0", ["gpus"]),
        ]
        uid = objects.uid(1)
        assert [list(d.cdi_device_ids) for d in answer.devices] == [
            [f"gpu.muster.dev/claim={uid}-gpu-2", f"gpu.muster.dev/claim={uid}_gpus"],
            [f"gpu.muster.dev/claim={uid}-gpu-0"],
        ]
        assert await kubelet.unprepare(wanted) == {uid: ""}
        assert list(node.cdi.glob("*")) == []


async def test_one_bad_claim_does_not_spoil_the_others(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        good = node.claims.add(objects.claim(1, "gpu-0"))
        recreated = node.claims.add(objects.claim(2, "gpu-1"))
        node.claims.add(objects.claim(22, "gpu-1", name="claim-2"))
        unallocated = objects.claim(3)
        unallocated["status"] = {}
        unallocated = node.claims.add(unallocated)
        foreign = node.claims.add(objects.claim(4, objects.result("nic-0", driver="dra.net")))
        unknown = node.claims.add(objects.claim(5, "gpu-3"))
        del node.claims.objects["default", "claim-5"]
        vanished = node.claims.add(objects.claim(6, "gpu-77"))
        pool = node.claims.add(objects.claim(7, objects.result("gpu-4", pool="node-b")))
        answers = await kubelet.prepare(good, recreated, unallocated, foreign, unknown, vanished, pool)
        errors = {uid: answer.error for uid, answer in answers.items()}
        assert errors[good.uid] == ""
        assert "deleted and created again" in errors[recreated.uid]
        assert "status.allocation is empty" in errors[unallocated.uid]
        assert "no device of gpu.muster.dev" in errors[foreign.uid]
        assert "not found" in errors[unknown.uid]
        assert "device node-a/gpu-77 does not exist" in errors[vanished.uid]
        assert "device node-b/gpu-4 does not exist" in errors[pool.uid]


async def test_an_empty_prepare_is_a_probe(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        assert await kubelet.prepare() == {}
        assert await kubelet.unprepare() == {}


async def test_names_that_are_no_names_are_refused_before_they_become_paths(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        evil = objects.claim(1, "gpu-0")
        evil["metadata"]["uid"] = "../../../etc/passwd"
        evil = node.claims.add(evil)
        assert "is not valid" in (await kubelet.prepare(evil))[evil.uid].error
        assert "is not valid" in (await kubelet.unprepare(evil))[evil.uid]


async def test_share_ids_are_echoed_by_v1_and_do_not_exist_in_v1beta1(make_node):
    node = make_node()
    async with node.driver():
        wanted = node.claims.add(objects.claim(1, objects.share("gpu-0", "share-a", 250)))
        async with node.kubelet("v1.DRAPlugin") as kubelet:
            (device,) = (await kubelet.prepare(wanted))[wanted.uid].devices
            assert device.share_id == "share-a"
        async with node.kubelet("v1beta1.DRAPlugin") as kubelet:
            (device,) = (await kubelet.prepare(wanted))[wanted.uid].devices
            assert not hasattr(device, "share_id")
            assert device.device_name == "gpu-0"


async def test_subrequests_are_named_by_their_request(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        wanted = node.claims.add(objects.claim(1, objects.result("gpu-0", "gpus/pair")))
        (device,) = (await kubelet.prepare(wanted))[wanted.uid].devices
        assert list(device.request_names) == ["gpus"]


async def test_a_second_call_while_the_first_is_under_way_joins_it(make_node):
    node = make_node(mig_gpus=(7,))
    running, go = threading.Event(), threading.Event()
    create, calls = node.hardware.create_gpu_instance, []

    def slow(*args):
        calls.append(args)
        running.set()
        assert go.wait(10)
        return create(*args)

    node.hardware.create_gpu_instance = slow
    async with node.driver(), node.kubelet() as kubelet:
        wanted = node.claims.add(objects.claim(1, "gpu-7-mig-1g10gb-19-6"))
        first = asyncio.create_task(kubelet.prepare(wanted, timeout_s=3.0))
        await asyncio.to_thread(running.wait, 5)
        answer = (await first)[wanted.uid]
        assert "not prepared within the deadline" in answer.error
        second = asyncio.create_task(kubelet.prepare(wanted))
        await asyncio.sleep(0.05)
        go.set()
        assert (await second)[wanted.uid].error == ""
        assert len(calls) == 1


async def test_a_long_mig_create_does_not_hold_up_other_gpus(make_node):
    node = make_node(mig_gpus=(7,))
    running, go = threading.Event(), threading.Event()
    create = node.hardware.create_gpu_instance

    def slow(*args):
        running.set()
        assert go.wait(10)
        return create(*args)

    node.hardware.create_gpu_instance = slow
    async with node.driver(), node.kubelet() as kubelet:
        partition = node.claims.add(objects.claim(1, "gpu-7-mig-1g10gb-19-6"))
        whole = node.claims.add(objects.claim(2, "gpu-0"))
        first = asyncio.create_task(kubelet.prepare(partition))
        await asyncio.to_thread(running.wait, 5)
        assert (await kubelet.prepare(whole))[whole.uid].error == ""
        assert not first.done()
        go.set()
        assert (await first)[partition.uid].error == ""


async def test_a_silent_api_server_fails_new_claims_but_not_prepared_ones(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        known = node.claims.add(objects.claim(1, "gpu-0"))
        fresh = node.claims.add(objects.claim(2, "gpu-1"))
        await kubelet.prepare(known)
        node.claims.reachable = False
        answers = await kubelet.prepare(known, fresh)
        assert answers[known.uid].error == ""
        assert "the API server does not answer" in answers[fresh.uid].error
        assert await kubelet.unprepare(known, fresh) == {known.uid: "", fresh.uid: ""}


async def test_two_claims_of_one_pod_leave_the_order_of_the_gpus_alone(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        first, second = (node.claims.add(objects.claim(i, f"gpu-{i}")) for i in (1, 2))
        await kubelet.prepare(first, second)
        texts = [path.read_text() for path in node.cdi.glob("*.json")]
        assert len(texts) == 2
        assert not any("CUDA_VISIBLE_DEVICES" in text for text in texts)


def environment(node, wanted):
    (path,) = node.cdi.glob(f"*{wanted.uid}*")
    edits = [device["containerEdits"] for device in json.loads(path.read_text())["devices"]]
    return [text for one in edits for text in one.get("env", ())]


def shown(node, wanted):
    return [text for text in environment(node, wanted) if text.startswith("CUDA_VISIBLE_DEVICES")]


async def test_a_pod_with_a_claim_that_was_prepared_before_is_given_no_two_orders(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        both = objects.claim(1, "gpu-0", "gpu-1")
        shared = node.claims.add(both)
        assert (await kubelet.prepare(shared))[shared.uid].error == ""
        assert len(shown(node, shared)) == 1
        both["status"]["reservedFor"].append({"resource": "pods", "name": "pod-2", "uid": objects.uid(1002)})
        own = node.claims.add(objects.claim(2, "gpu-3"))
        assert (await kubelet.prepare(own))[own.uid].error == ""
        assert shown(node, own) == [] and shown(node, shared) == []
        uuids = ",".join(node.machine.gpus[i].uuid for i in (0, 1))
        assert f"MUSTER_DEVICES_GPUS={uuids}" in environment(node, shared)
        alone = node.claims.add(objects.claim(3, "gpu-4"))
        assert (await kubelet.prepare(alone))[alone.uid].error == ""
        assert len(shown(node, alone)) == 1


async def test_an_order_that_must_go_and_stays_is_told_for_the_claim_that_would_be_hidden(make_node):
    node = make_node()
    async with node.driver() as driver, node.kubelet() as kubelet:
        first = objects.claim(1, "gpu-0")
        shared = node.claims.add(first)
        await kubelet.prepare(shared)
        first["status"]["reservedFor"].append({"resource": "pods", "name": "pod-2", "uid": objects.uid(1002)})
        own = node.claims.add(objects.claim(2, "gpu-3"))
        (node.root / "dev/nvidia0").rename(node.root / "dev/gone")
        assert "order of GPUs of claim default/claim-1" in (await kubelet.prepare(own))[own.uid].error
        (node.root / "dev/gone").rename(node.root / "dev/nvidia0")
        assert (await kubelet.prepare(own))[own.uid].error == ""
        assert shown(node, own) == [] and shown(node, shared) == []
        assert not driver.state.parts.store.read().claims[shared.uid].ordered


async def test_gpus_have_no_order_while_the_claims_of_the_pod_are_not_known(make_node):
    node = make_node()
    async with node.driver(), node.kubelet() as kubelet:
        group = objects.claim(1, "gpu-0")
        group["status"]["reservedFor"] = [{"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "g"}]
        of_group = node.claims.add(group)
        assert (await kubelet.prepare(of_group))[of_group.uid].error == ""
        assert shown(node, of_group) == []
