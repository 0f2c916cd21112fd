"""Changes to a container as the Container Device Interface words them: variables, device nodes, mounts, hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node in the container.

    Attributes
    ----------
    host_path : str
        Where the host has it, if not at `path`.
    major, minor : int
        Given for nodes that need not exist on the host; otherwise -1, and the runtime looks at the host's node.
    """

    path: str
    host_path: str = ""
    major: int = -1
    minor: int = -1

    def to_dict(self) -> dict[str, Any]:
        """Return it in the words of the specification."""
        written: dict[str, Any] = {"path": self.path}
        if self.host_path and self.host_path != self.path:
            written["hostPath"] = self.host_path
        if self.major >= 0:
            written |= {"type": "c", "major": self.major, "minor": self.minor}
        return written | {"permissions": "rw"}


READ_ONLY = ("ro", "nosuid", "nodev", "rbind", "rprivate")
READ_WRITE = ("rw", "nosuid", "nodev", "rbind", "rprivate")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of the host in the container."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = READ_ONLY

    def to_dict(self) -> dict[str, Any]:
        """Return it in the words of the specification."""
        return {"hostPath": self.host_path, "containerPath": self.container_path, "options": list(self.options)}


@dataclass(frozen=True, slots=True)
class Hook:
    """A program that the runtime runs while it creates the container."""

    name: str
    path: str
    args: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it in the words of the specification."""
        return {"hookName": self.name, "path": self.path, "args": list(self.args)}


@dataclass(frozen=True, slots=True)
class Edits:
    """All changes that belong together."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()

    def __add__(self, other: Edits) -> Edits:
        """Return both, each change once, in order."""
        return Edits(
            tuple(dict.fromkeys(self.env + other.env)),
            tuple(dict.fromkeys(self.device_nodes + other.device_nodes)),
            tuple(dict.fromkeys(self.mounts + other.mounts)),
            tuple(dict.fromkeys(self.hooks + other.hooks)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the ``containerEdits`` of the specification, without empty lists."""
        written = {
            "env": list(self.env),
            "deviceNodes": [node.to_dict() for node in self.device_nodes],
            "mounts": [mount.to_dict() for mount in self.mounts],
            "hooks": [hook.to_dict() for hook in self.hooks],
        }
        return {key: value for key, value in written.items() if value}
