"""Names of the driver's sockets, one set for each instance, so that two can serve at a time during an upgrade."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_PATH = 107  # bytes of sun_path without its final NUL (unix(7))


class SocketError(ValueError):
    """No name fits; the message names the folder."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where one instance listens.

    Attributes
    ----------
    registration : Path
        In the folder that the kubelet watches.
    plugin : Path
        In the driver's own folder; the kubelet is told.
    """

    registration: Path
    plugin: Path


def of_instance(driver: str, registry: Path, folder: Path, pod_uid: str = "") -> Sockets:
    """Return the sockets of an instance; without a UID of its pod it has the fixed names, and there can be only one.

    Raises
    ------
    SocketError
        Paths that the kernel does not take.
    """
    plugin = folder / (f"dra-{pod_uid}.sock" if pod_uid else "dra.sock")
    if len(bytes(plugin)) > MAX_PATH:
        raise SocketError(
            f"{plugin}: {len(bytes(plugin))} bytes, a socket's path has at most {MAX_PATH}; move the folder"
        )
    for name in _registration_names(driver, pod_uid):
        if len(bytes(registry / name)) <= MAX_PATH:
            return Sockets(registry / name, plugin)
    raise SocketError(f"{registry}: no name of a socket fits; a socket's path has at most {MAX_PATH} bytes")


def _registration_names(driver: str, pod_uid: str) -> Iterator[str]:
    """Yield names, the most telling first; no two instances have one in common."""
    if not pod_uid:
        yield f"{driver}-reg.sock"
        return
    yield f"{driver}-{pod_uid}-reg.sock"
    yield f"{driver}-{_digest(pod_uid, 8)}-reg.sock"
    yield f"dra-{_digest(f'{driver}{chr(0)}{pod_uid}', 16)}-reg.sock"


def _digest(text: str, size: int) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:size]).rstrip(b"=").decode()


def clear(path: Path) -> None:
    """Remove a socket that an earlier process of this very instance left; one that is served is an error.

    Raises
    ------
    SocketError
        Another process listens there.
    """
    if listens(path):
        raise SocketError(f"{path}: another process listens there; give each instance the UID of its pod")
    path.unlink(missing_ok=True)


def listens(path: Path) -> bool:
    """Tell whether a process listens at a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
