"""Configuration of the driver: from options, environment variables, or a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pydantic

from dra_driver import sockets
from scheduler.model import claim as model_claim

KUBELET = Path("/var/lib/kubelet")

Absolute = Annotated[Path, pydantic.AfterValidator(lambda path: _absolute(path))]


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{path} must be an absolute path")
    return path


class Config(pydantic.BaseModel):
    """All settings.

    Paths of the kubelet must be the same inside and outside of the driver's container, since the kubelet is told them.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    node_name: str = pydantic.Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
    driver: str = pydantic.Field(model_claim.DRIVER, pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")
    pod_uid: str = pydantic.Field("", pattern=r"^[A-Za-z0-9-]{0,64}$")
    kubeconfig: Path | None = None
    registry: Absolute = KUBELET / "plugins_registry"
    plugins: Absolute = KUBELET / "plugins"
    cdi: Absolute = Path("/var/run/cdi")
    root: Absolute = Path("/")
    """Where the driver sees the host's root: its /dev, /proc and /sys."""
    host_root: str = "/"
    """What the host calls that place."""
    driver_root: str = "/"
    """Where the GPU's user-space driver is, from the host's root."""
    library: Path | None = None
    """NVML, where it is not in a usual folder below the root of the GPU driver, nor where the loader looks."""
    accelerators: Path | None = None
    """Which PCI functions are accelerators, as YAML; the driver's own mapping where nothing is given."""
    dynamic_mig: bool = True
    own_devices: bool = False
    """Publish every device with the taint ``muster.dev/owned``, where the server keeps taints: only Muster gives it out."""
    numa_lists: bool = False
    """Publish the NUMA node as a list with its nearest neighbours, where the server keeps lists. All drivers of a cluster
    must do alike, and selectors that compare it with a number fail then."""
    v1: bool = True
    """Serve version v1 of the kubelet's calls; one of the two must be served."""
    v1beta1: bool = True
    """Serve version v1beta1, for kubelets before 1.34."""
    health: bool = True
    """Tell the kubelet the health of devices."""
    discover_s: float = pydantic.Field(30.0, ge=1.0)
    health_s: float = pydantic.Field(5.0, ge=0.1)
    sweep_s: float = pydantic.Field(600.0, ge=1.0)
    http: str = pydantic.Field("", pattern=r"^$|^[^:]*:\d{1,5}$|^\[[0-9a-fA-F:.]+\]:\d{1,5}$")
    """Where metrics and probes are served, as ``HOST:PORT`` or ``:PORT``; "" for nowhere."""
    pod_resources: Absolute = KUBELET / "pod-resources" / "kubelet.sock"
    log_level: str = pydantic.Field("info", pattern=r"^(debug|info|warning|error)$")

    @property
    def folder(self) -> Path:
        """Folder of the driver's state and sockets."""
        return self.plugins / self.driver

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of `http`; an empty host is every address of the node or pod."""
        host, _, port = self.http.rpartition(":")
        return host.strip("[]") or "0.0.0.0", int(port)

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions of the kubelet's calls that are served."""
        return tuple(name for name, served in (("v1", self.v1), ("v1beta1", self.v1beta1)) if served)

    @pydantic.field_validator("v1beta1")
    @classmethod
    def _one_version(cls, value: bool, info: pydantic.ValidationInfo) -> bool:
        if not value and not info.data.get("v1", True):
            raise ValueError("neither v1 nor v1beta1 would be served")
        return value

    @pydantic.field_validator("http")
    @classmethod
    def _port(cls, value: str) -> str:
        if value and int(value.rpartition(":")[2]) > 65535:
            raise ValueError(f"{value}: a port is at most 65535")
        return value

    @property
    def sockets(self) -> sockets.Sockets:
        """Where this instance listens."""
        return sockets.of_instance(self.driver, self.registry, self.folder, self.pod_uid)
