"""The kubelet's side of the plugin protocol: it finds sockets in a folder, registers drivers and calls them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from dra_driver import claim
from proto.dra.v1 import dra_v1_pb2 as v1
from proto.dra.v1 import dra_v1_pb2_grpc as v1_grpc
from proto.dra.v1beta1 import dra_v1beta1_pb2 as v1beta1
from proto.dra.v1beta1 import dra_v1beta1_pb2_grpc as v1beta1_grpc
from proto.dra_health.v1 import dra_health_v1_pb2 as health_v1
from proto.dra_health.v1 import dra_health_v1_pb2_grpc as health_v1_grpc
from proto.dra_health.v1alpha1 import dra_health_v1alpha1_pb2 as health_v1alpha1
from proto.dra_health.v1alpha1 import dra_health_v1alpha1_pb2_grpc as health_v1alpha1_grpc
from proto.pluginregistration import pluginregistration_pb2 as registration
from proto.pluginregistration import pluginregistration_pb2_grpc as registration_grpc

DEADLINE_S = 45.0
SERVICES = {"v1.DRAPlugin": (v1, v1_grpc), "v1beta1.DRAPlugin": (v1beta1, v1beta1_grpc)}
HEALTH = {
    "v1.DRAResourceHealth": (health_v1, health_v1_grpc),
    "v1alpha1.DRAResourceHealth": (health_v1alpha1, health_v1alpha1_grpc),
}


class RegistrationError(Exception):
    """The kubelet does not take the plugin."""


@dataclass
class Plugin:
    """A registered instance."""

    name: str
    endpoint: str
    service: str
    health: str | None
    channel: grpc.aio.Channel
    answers: list[Any] = field(default_factory=list)


class Kubelet:
    """Calls the instance that registered last and still has its socket in the folder; use it as a context manager."""

    def __init__(self, registry: Path, knows: Sequence[str] = (*SERVICES, *HEALTH)) -> None:
        self.registry, self.knows = registry, tuple(knows)
        self.plugins: dict[Path, Plugin] = {}

    async def __aenter__(self) -> "Kubelet":
        return self

    async def __aexit__(self, *_: object) -> None:
        for plugin in self.plugins.values():
            await plugin.channel.close()

    async def scan(self) -> None:
        """Register what is new in the folder and forget what is gone, as the watcher does."""
        found = {path for path in self.registry.glob("*.sock") if not path.name.startswith(".")}
        for path in set(self.plugins) - found:
            await self.plugins.pop(path).channel.close()
        for path in sorted(found - set(self.plugins)):
            self.plugins[path] = await self.register(path)

    async def restart(self) -> None:
        """Forget all plugins and register them again."""
        for path in list(self.plugins):
            await self.plugins.pop(path).channel.close()
        await self.scan()

    async def register(self, path: Path, refuse: str = "") -> Plugin:
        """Do the handshake on one registration socket."""
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stub = registration_grpc.RegistrationStub(channel)
            info = await stub.GetInfo(registration.InfoRequest(), timeout=5)
            service = next((v for v in info.supported_versions if v in SERVICES and v in self.knows), None)
            error = refuse or ("" if info.type == "DRAPlugin" else f"type {info.type}")
            error = error or ("" if service else f"none of {list(info.supported_versions)} is supported")
            status = registration.RegistrationStatus(plugin_registered=not error, error=error)
            await stub.NotifyRegistrationStatus(status, timeout=5)
            if error:
                raise RegistrationError(error)
        health = next((v for v in HEALTH if v in info.supported_versions and v in self.knows), None)
        assert Path(info.endpoint).is_absolute()
        channel = grpc.aio.insecure_channel(f"unix:{info.endpoint}")
        return Plugin(info.name, info.endpoint, service, health, channel)

    @property
    def plugin(self) -> Plugin:
        """The instance that is called."""
        assert self.plugins, "no plugin is registered"
        return list(self.plugins.values())[-1]

    async def prepare(self, *claims: claim.Reference, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the answers by UID, after the checks that the kubelet makes."""
        messages, services = SERVICES[self.plugin.service]
        request = messages.NodePrepareResourcesRequest(claims=[_message(messages, c) for c in claims])
        stub = services.DRAPluginStub(self.plugin.channel)
        response = await stub.NodePrepareResources(request, timeout=timeout_s)
        assert set(response.claims) == {c.uid for c in claims}, "a claim was skipped or not asked for"
        return dict(response.claims)

    async def unprepare(self, *claims: claim.Reference, timeout_s: float = DEADLINE_S) -> dict[str, str]:
        """Return the errors by UID."""
        messages, services = SERVICES[self.plugin.service]
        request = messages.NodeUnprepareResourcesRequest(claims=[_message(messages, c) for c in claims])
        stub = services.DRAPluginStub(self.plugin.channel)
        response = await stub.NodeUnprepareResources(request, timeout=timeout_s)
        assert set(response.claims) == {c.uid for c in claims}, "a claim was skipped or not asked for"
        return {uid: answer.error for uid, answer in response.claims.items()}

    async def watch_health(self, count: int, timeout_s: float = 10.0) -> list[Any]:
        """Return the first messages of the health stream."""
        assert self.plugin.health is not None, "the plugin offers no health service"
        messages, services = HEALTH[self.plugin.health]
        stub = services.DRAResourceHealthStub(self.plugin.channel)
        found: list[Any] = []
        call = stub.NodeWatchResources(messages.NodeWatchResourcesRequest())
        async with asyncio.timeout(timeout_s):
            async for response in call:
                found.append(response)
                if len(found) == count:
                    break
        call.cancel()
        return found


def _message(messages: Any, reference: claim.Reference) -> Any:
    return messages.Claim(namespace=reference.namespace, uid=reference.uid, name=reference.name)


async def until(check: Any, timeout_s: float = 5.0) -> None:
    """Wait until a check holds."""
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.01)
