"""Two instances of the driver on one node, as during an upgrade under running pods."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest

from dra_driver import healthstream, sockets
from tests.driver import host, kubelet, objects

MPS = objects.gpu_config(sharing={"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": "8Gi"}})
OLD, NEW = "11111111-0000-0000-0000-000000000001", "22222222-0000-0000-0000-000000000002"


async def test_prepared_by_the_old_instance_and_unprepared_by_the_new_one(make_node):
    node = make_node(mig_gpus=(7,))
    old, new = node.instance(OLD), node.instance(NEW)
    await old.start()
    async with node.kubelet() as calls:
        running = node.claims.add(objects.claim(1, "gpu-7-mig-1g10gb-19-6"))
        assert (await calls.prepare(running))[running.uid].error == ""
        await new.start()
        await calls.scan()
        assert len(calls.plugins) == 2
        again = (await calls.prepare(running))[running.uid]
        assert again.error == ""
        await old.stop()
        await calls.scan()
        assert len(calls.plugins) == 1
        assert await calls.unprepare(running) == {running.uid: ""}
        assert node.hardware._all() == []
    await new.stop()
    assert list(node.registry.iterdir()) == []


async def test_an_mps_daemon_goes_on_under_the_new_instance_which_starts_it_again_when_it_ends(make_node):
    node, set_up = make_node(), "set_default_device_pinned_mem_limit 0 8192M"

    def said(name="mps.log"):
        return (node.root / name).read_text().splitlines()

    old, new = node.instance(OLD), node.instance(NEW)
    await old.start()
    async with node.kubelet() as calls:
        running = node.claims.add(objects.claim(1, objects.share("gpu-0", "a", 250), configs=[objects.config(MPS)]))
        assert (await calls.prepare(running))[running.uid].error == ""
        await new.start()
        await calls.scan()
        await old.stop()
        assert len(said("mps.started")) == 1 and not (node.root / "mps.refused").exists()
        assert said().count(set_up) == 2, "the new instance cannot know how far the old one came"
        (control,) = (node.plugins / "mps").glob("*/pipe/control")
        os.kill(int(control.read_text()), signal.SIGKILL)
        async with asyncio.timeout(30.0):
            while said().count(set_up) < 3:
                await asyncio.sleep(0.05)
        assert len(said("mps.started")) == 2
        await calls.scan()
        assert await calls.unprepare(running) == {running.uid: ""}
        assert "quit" in said() and list((node.plugins / "mps").iterdir()) == []
    await new.stop()


async def test_a_storm_of_pods_during_an_upgrade_loses_none(make_node):
    node = make_node(mig_gpus=(6, 7))
    old, new = node.instance(OLD), node.instance(NEW)
    await old.start()
    names = [f"gpu-{g}-mig-1g10gb-19-{start}" for g in (6, 7) for start in range(7)] + [f"gpu-{g}" for g in range(6)]
    claims = [node.claims.add(objects.claim(i + 1, name)) for i, name in enumerate(names)]
    async with kubelet.Kubelet(node.registry) as first, kubelet.Kubelet(node.registry) as second:
        await first.scan()
        await new.start()
        await second.scan()
        answers = await asyncio.gather(
            *((first if i % 2 else second).prepare(reference) for i, reference in enumerate(claims))
        )
        assert [a.error for answer in answers for a in answer.values()] == [""] * len(claims)
        await old.stop()
        await second.scan()
        assert set((await second.unprepare(*claims)).values()) == {""}
    await new.stop()
    assert node.hardware._all() == []


async def test_two_instances_never_give_one_gpu_to_two_claims(make_node):
    node = make_node()
    async with node.driver(OLD), node.driver(NEW), kubelet.Kubelet(node.registry) as calls:
        await calls.scan()
        channels = list(calls.plugins.values())
        pairs = [[node.claims.add(objects.claim(10 * g + i, f"gpu-{g}")) for i in (1, 2)] for g in range(8)]

        async def ask(plugin, reference):
            messages, services = kubelet.SERVICES[plugin.service]
            request = messages.NodePrepareResourcesRequest(claims=[kubelet._message(messages, reference)])
            return (await services.DRAPluginStub(plugin.channel).NodePrepareResources(request)).claims[reference.uid]

        answers = await asyncio.gather(*(ask(channels[i], pair[i]) for pair in pairs for i in (0, 1)))
    errors = [answer.error for answer in answers]
    for one, other in zip(errors[::2], errors[1::2], strict=True):
        assert (one == "") != (other == ""), (one, other)
        assert "is held by claim default/claim-" in one + other


async def test_the_kubelet_is_told_again_after_its_restart_and_refusals_are_surfaced(make_node):
    node = make_node()
    async with node.driver() as driver, node.kubelet() as calls:
        assert driver.registration.status.registered is True
        await calls.restart()
        assert driver.registration.status.asked == 2
        with pytest.raises(grpc.aio.AioRpcError, match="registration failed: name taken"):
            await calls.register(driver._own.registration, refuse="name taken")
        assert driver.registration.status.describe() == "the kubelet refused the driver: name taken"


async def test_a_stale_socket_is_replaced_and_a_served_one_is_not(make_node):
    node = make_node()
    node.registry.mkdir()
    node.plugins.mkdir(parents=True)
    async with node.driver():
        with pytest.raises(sockets.SocketError, match="another process listens there"):
            await node.instance().start()
    for path in (
        node.registry / "gpu.muster.dev-reg.sock",
        node.plugins / "dra.sock",
        node.registry / "other-reg.sock",
    ):
        path.touch()
    async with node.driver():
        assert (node.registry / "other-reg.sock").exists()
        async with kubelet.Kubelet(node.registry) as calls:
            await calls.register(node.registry / "gpu.muster.dev-reg.sock")


@pytest.mark.parametrize("length", [30, 60, 71])
def test_names_fit_into_a_socket_address_and_differ(length):
    registry = Path("/" + "r" * (length - 1))
    made = {sockets.of_instance(host.DRIVER, registry, Path("/p"), uid).registration for uid in (OLD, NEW)}
    assert len(made) == 2
    assert all(len(bytes(path)) <= 107 and path.name.endswith("-reg.sock") for path in made)


def test_a_path_that_is_too_long_is_named():
    with pytest.raises(sockets.SocketError, match="no name of a socket fits"):
        sockets.of_instance(host.DRIVER, Path("/" + "r" * 90), Path("/p"), OLD)
    with pytest.raises(sockets.SocketError, match="a socket's path has at most 107; move the folder"):
        sockets.of_instance(host.DRIVER, Path("/r"), Path("/" + "p" * 90), OLD)


class Health:
    def __init__(self) -> None:
        self.bad = False

    def current(self) -> list[healthstream.DeviceHealth]:
        health = healthstream.Health.UNHEALTHY if self.bad else healthstream.Health.HEALTHY
        return [healthstream.DeviceHealth("node-a", f"gpu-{i}", health, 1_700_000_000, "x" * 2000) for i in range(2)]


@pytest.mark.parametrize("version", ["v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"])
async def test_the_health_stream_has_the_full_list_each_time(make_node, version):
    node, health = make_node(), Health()
    async with node.driver(health=health) as driver, node.kubelet("v1.DRAPlugin", version) as calls:
        driver.stream.refresh_s = 0.05
        first, second, *_ = await calls.watch_health(3)
        assert [d.device.device_name for d in first.devices] == ["gpu-0", "gpu-1"]
        assert first == second
        assert first.devices[0].health == 1
        assert len(first.devices[0].message.encode()) == 1024
        health.bad = True
        assert (await calls.watch_health(1))[0].devices[1].health == 2
