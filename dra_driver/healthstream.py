"""The health of our devices as a stream for the kubelet, in both versions of the service.

Every message is the complete list. It is sent again before the kubelet's patience ends, also when nothing changed: a
driver that hangs is so seen as devices of unknown health.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from proto.dra_health.v1 import dra_health_v1_pb2 as v1
from proto.dra_health.v1 import dra_health_v1_pb2_grpc as v1_grpc
from proto.dra_health.v1alpha1 import dra_health_v1alpha1_pb2 as v1alpha1
from proto.dra_health.v1alpha1 import dra_health_v1alpha1_pb2_grpc as v1alpha1_grpc

REFRESH_S = 10.0
TIMEOUT_S = 30
"""After so long without news the kubelet calls a device unknown: three refreshes."""
MAX_MESSAGE = 1024  # bytes; the kubelet cuts longer ones to 1021 and "..."


class Health(enum.IntEnum):
    """As the kubelet numbers them."""

    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """The health of one device.

    Attributes
    ----------
    updated_s : int
        When it was seen so last, in seconds since 1970.
    timeout_s : int
        For how long that holds.
    """

    pool: str
    device: str
    health: Health
    updated_s: int
    message: str = ""
    timeout_s: int = TIMEOUT_S


class Source(Protocol):
    """Where the health comes from."""

    def current(self) -> Sequence[DeviceHealth]:
        """Return the health of all devices of the node."""


def cut(message: str) -> str:
    """Return a message that the kubelet takes as it is.

    Examples
    --------
    >>> len(cut("ü" * 600).encode()), cut("ü" * 600)[-3:], cut("fine")
    (1023, '...', 'fine')
    """
    data = message.encode()
    if len(data) <= MAX_MESSAGE:
        return message
    return data[: MAX_MESSAGE - 3].decode(errors="ignore") + "..."


class Stream:
    """Servicer of both versions; register it with `add`."""

    def __init__(self, source: Source, refresh_s: float = REFRESH_S) -> None:
        self.source, self.refresh_s = source, refresh_s
        self._changed = asyncio.Event()
        self._ended = False

    def changed(self) -> None:
        """Send the list now: something about it changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """End all streams, so that the server can stop."""
        self._ended = True
        self.changed()

    def add(self, server: grpc.aio.Server) -> None:
        """Offer both versions on a server."""
        v1_grpc.add_DRAResourceHealthServicer_to_server(_Servicer(self, v1), server)
        v1alpha1_grpc.add_DRAResourceHealthServicer_to_server(_Servicer(self, v1alpha1), server)

    async def lists(self) -> AsyncIterator[Sequence[DeviceHealth]]:
        """Yield the complete list now, after each change, and after each `refresh_s` without one."""
        while not self._ended:
            changed = self._changed  # taken before the list is read, so that no change in between is lost
            yield self.source.current()
            try:
                async with asyncio.timeout(self.refresh_s):
                    await changed.wait()
            except TimeoutError:
                continue


class _Servicer:
    """One version of the service; the messages of both have the same fields."""

    def __init__(self, stream: Stream, messages: Any) -> None:
        self._stream = stream
        self._response: Callable[..., Any] = messages.NodeWatchResourcesResponse
        self._health: Callable[..., Any] = messages.DeviceHealth
        self._identifier: Callable[..., Any] = messages.DeviceIdentifier

    async def NodeWatchResources(  # noqa: N802 (the name of the call)
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async for listed in self._stream.lists():
            yield self._response(devices=[self._message(device) for device in listed])

    def _message(self, device: DeviceHealth) -> Any:
        return self._health(
            device=self._identifier(pool_name=device.pool, device_name=device.device),
            health=int(device.health),
            last_updated_time=device.updated_s,
            health_check_timeout_seconds=device.timeout_s,
            message=cut(device.message),
        )
