"""How the kubelet learns of this instance, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from dra_driver import calls, sockets
from proto.pluginregistration import pluginregistration_pb2 as messages
from proto.pluginregistration import pluginregistration_pb2_grpc as services

TYPE = "DRAPlugin"
DRA = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
"""Most preferred first: the kubelet takes the first that it knows, and v1beta1 loses share ids."""
HEALTH = ("v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Status:
    """What the kubelet said last.

    Attributes
    ----------
    registered : bool or None
        None as long as it has said nothing.
    """

    registered: bool | None = None
    error: str = ""
    asked: int = 0

    def describe(self) -> str:
        """Return a sentence for readiness."""
        if self.registered:
            return "the kubelet has registered the driver"
        if self.registered is None:
            return f"the kubelet has not registered the driver yet; it asked {self.asked} times"
        return f"the kubelet refused the driver: {self.error}"


class Registration:
    """Server on the registration socket of one instance."""

    def __init__(
        self,
        driver: str,
        own: sockets.Sockets,
        versions: Sequence[str] = DRA + HEALTH,
        told: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.driver, self.own, self.versions, self._told = driver, own, tuple(versions), told
        self.status = Status()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen; the plugin's own socket must be served already, since the kubelet dials it at once."""
        sockets.clear(self.own.registration)
        server = grpc.aio.server(interceptors=[calls.Log()])
        services.add_RegistrationServicer_to_server(self, server)
        self._server = server
        server.add_insecure_port(f"unix:{self.own.registration}")
        await server.start()

    async def stop(self) -> None:
        """Remove the socket, by which the kubelet falls back to another instance, and stop."""
        if self._server is None:
            return  # the socket there, if any, is another process's
        server, self._server = self._server, None
        try:
            self.own.registration.unlink(missing_ok=True)
        except OSError as error:  # a folder that cannot be written
            log.error("the registration socket stays", error=str(error))
        await server.stop(1.0)

    async def GetInfo(  # noqa: N802 (the name of the call)
        self, request: messages.InfoRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> messages.PluginInfo:
        self._set(Status(self.status.registered, self.status.error, self.status.asked + 1))
        return messages.PluginInfo(
            type=TYPE, name=self.driver, endpoint=str(self.own.plugin), supported_versions=self.versions
        )

    async def NotifyRegistrationStatus(  # noqa: N802 (the name of the call)
        self, request: messages.RegistrationStatus, context: grpc.aio.ServicerContext[Any, Any]
    ) -> messages.RegistrationStatusResponse:
        self._set(Status(request.plugin_registered, request.error[:1024], self.status.asked))
        if not request.plugin_registered:
            log.error("the kubelet refused the driver", driver=self.driver, error=self.status.error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"registration failed: {self.status.error}")
        log.info("the kubelet has registered the driver", driver=self.driver, endpoint=str(self.own.plugin))
        return messages.RegistrationStatusResponse()

    def _set(self, status: Status) -> None:
        self.status = status
        self._told(status)
