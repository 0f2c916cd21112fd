"""Real containers on real nodes."""

from __future__ import annotations

import json
import uuid
from typing import Any

import psutil

from tests.testbed import cluster as clusters
from tests.testbed import fixtures, image, objects, plugin, process


def phase(space: fixtures.Space, pod: str) -> str:
    return space.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}")


def wait_for(space: fixtures.Space, pod: str, wanted: str, deadline_s: float = 60) -> None:
    seen = ""
    for _ in process.until(deadline_s, 0.2):
        seen = phase(space, pod)
        if seen == wanted:
            return
    raise AssertionError(f"pod {pod} is {seen or 'without phase'} after {deadline_s:g} s, not {wanted}")


def create(space: fixtures.Space, *objs: dict[str, Any]) -> None:
    space.kubectl("create", "-f", "-", stdin="\n---\n".join(json.dumps(obj) for obj in objs))


def test_a_pod_reports_what_it_sees_and_ends(real_nodes: clusters.Cluster, space: fixtures.Space) -> None:
    create(space, objects.pod("short", ["report"], "real-0"), objects.pod("bad", ["fail", "3"], "real-1"))
    wait_for(space, "short", "Succeeded")
    wait_for(space, "bad", "Failed")
    told = json.loads(real_nodes.nodes["real-0"].pod_log(space.name, "short"))
    assert told["env"]["POD_NAME"] == "short"
    assert space.kubectl("logs", "short").strip() == real_nodes.nodes["real-0"].pod_log(space.name, "short").strip()
    codes = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
    assert space.kubectl("get", "pod", "bad", "-o", codes) == "3"


def test_a_pod_has_a_network_of_its_own(real_nodes: clusters.Cluster, space: fixtures.Space) -> None:
    create(space, objects.pod("netted", ["run"], "real-0", hostNetwork=False))
    wait_for(space, "netted", "Running")
    assert space.kubectl("get", "pod", "netted", "-o", "jsonpath={.status.podIP}").startswith("10.244.0.")


def test_a_claim_becomes_an_environment_in_the_container(real_nodes: clusters.Cluster, space: fixtures.Space) -> None:
    driver = f"d{uuid.uuid4().hex[:6]}.testbed.muster.dev"
    node = real_nodes.nodes["real-1"]

    def claim_object(namespace: str, name: str) -> Any:
        return json.loads(real_nodes.kubectl("-n", namespace, "get", "resourceclaims", name, "-o", "json"))

    with plugin.Plugin(driver, node.root, node.cdi, claim_object) as served:
        for _ in process.until(20):
            if served.registered:
                break
        assert served.registered, "the kubelet did not register the plugin within 20 s"
        create(
            space,
            objects.resource_slice(f"{node.name}-{driver}", driver, node.name, ["gpu-0", "gpu-1", "gpu-2"]),
            objects.device_class(driver, driver),
            objects.claim("pair", driver, 2),
            objects.pod("user", ["run"], claims=["pair"]),
        )
        wait_for(space, "user", "Running")
        assert json.loads(node.pod_log(space.name, "user"))["env"]["TESTBED_DEVICES"] == "gpu-0,gpu-1"
        space.kubectl("delete", "pod", "user", "--wait=true")
        for _ in process.until(20):
            if not served.devices_of:
                break
        assert not served.devices_of, "not unprepared within 20 s of the pod's deletion"
    real_nodes.kubectl("delete", "deviceclass", driver)


def test_a_ring_of_pods_talks_in_rank_order(real_nodes: clusters.Cluster, space: fixtures.Space) -> None:
    ranks = []
    for rank in range(4):
        one = objects.pod(f"rank-{rank}", ["ring"], f"real-{rank % 2}")
        settings = {"RING_RANK": rank, "RING_SIZE": 4, "RING_PORT": 31000}
        one["spec"]["containers"][0]["env"] += [{"name": name, "value": str(value)} for name, value in settings.items()]
        ranks.append(one)
    create(space, *ranks)
    for rank in range(4):
        wait_for(space, f"rank-{rank}", "Succeeded")
    told = real_nodes.nodes["real-0"].pod_log(space.name, "rank-0").splitlines()[-1]
    assert json.loads(told)["ring"] == [f"{rank}:rank-{rank}" for rank in range(4)] * 2


def test_a_killed_kubelet_comes_back_and_keeps_its_pods(real_nodes: clusters.Cluster, space: fixtures.Space) -> None:
    create(space, objects.pod("stays", ["run"], "real-0"))
    wait_for(space, "stays", "Running")
    node = real_nodes.nodes["real-0"]
    before = {one.pid for one in node.processes("kubelet")}
    node.restart_kubelet()
    for _ in process.until(30):
        after = {one.pid for one in node.processes("kubelet")}
        if after and not after & before and answers(node):
            break
    else:
        raise AssertionError("the kubelet was not started again within 30 s")
    create(space, objects.pod("later", ["report"], "real-0"))
    wait_for(space, "later", "Succeeded")
    assert phase(space, "stays") == "Running"
    started = "jsonpath={.status.containerStatuses[0].restartCount}"
    assert space.kubectl("get", "pod", "stays", "-o", started) == "0"


def answers(node: Any) -> bool:
    try:
        return bool(node.answers())
    except OSError:
        return False


def test_the_same_program_gives_the_same_image(tmp_path: Any) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"anything")
    image.write(tmp_path / "one.tar", program)
    image.write(tmp_path / "two.tar", program)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_each_node_sees_only_its_own_processes(real_nodes: clusters.Cluster) -> None:
    pids = {name: {one.pid for one in node.processes("containerd")} for name, node in real_nodes.nodes.items()}
    assert all(pids.values()) and not pids["real-0"] & pids["real-1"]
    assert all(psutil.pid_exists(pid) for found in pids.values() for pid in found)
