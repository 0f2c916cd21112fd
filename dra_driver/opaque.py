"""Opaque configurations of claims and device classes: how a device is shared, and what its containers see.

They are decoded strictly: an unknown field or value is an error that names the place, never ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import orjson
import pydantic

from dra_driver import claim
from scheduler.model import quantity

API_VERSION = "gpu.muster.dev/v1alpha1"


class OpaqueError(claim.ClaimError):
    """A configuration is malformed or does not fit its device; the message names the field."""


INTERVALS = ("Default", "Short", "Medium", "Long")
"""Lengths of a time slice, as the driver of the GPU counts them from 0."""


def _whole_mib(text: str) -> str:
    """Check a limit of pinned memory: MPS takes whole MiB."""
    try:
        size = quantity.mib(text)
    except quantity.QuantityError as error:
        raise ValueError(str(error)) from error
    if size < 1:
        raise ValueError(f"{text} is less than 1Mi")
    return text


Memory = Annotated[str, pydantic.Field(max_length=32), pydantic.AfterValidator(_whole_mib)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class TimeSlicingConfig(_Strict):
    """Processes of all containers take turns on the GPU."""

    interval: Literal["Default", "Short", "Medium", "Long"] = "Default"


class MpsConfig(_Strict):
    """Processes run side by side under an MPS control daemon.

    The pinned memory limit holds for each device; one by UUID wins over the default.
    """

    default_active_thread_percentage: int | None = pydantic.Field(
        None, ge=1, le=100, alias="defaultActiveThreadPercentage"
    )
    default_pinned_device_memory_limit: Memory | None = pydantic.Field(None, alias="defaultPinnedDeviceMemoryLimit")
    pinned_device_memory_limits: dict[str, Memory] = pydantic.Field(
        default_factory=dict, max_length=claim.MAX_RESULTS, alias="pinnedDeviceMemoryLimits"
    )


class Sharing(_Strict):
    """How several processes share one device."""

    strategy: Literal["TimeSlicing", "MPS"]
    time_slicing: TimeSlicingConfig | None = pydantic.Field(None, alias="timeSlicingConfig")
    mps: MpsConfig | None = pydantic.Field(None, alias="mpsConfig")

    @pydantic.model_validator(mode="after")
    def _only_of_the_strategy(self) -> Sharing:
        if self.strategy == "MPS" and self.time_slicing is not None:
            raise ValueError("timeSlicingConfig is not allowed with strategy MPS")
        if self.strategy == "TimeSlicing" and self.mps is not None:
            raise ValueError("mpsConfig is not allowed with strategy TimeSlicing")
        return self


class MigSharing(Sharing):
    """A MIG device has no time slices of its own length."""

    @pydantic.model_validator(mode="after")
    def _no_interval(self) -> MigSharing:
        if self.time_slicing is not None:
            raise ValueError("timeSlicingConfig is not allowed for MIG devices, whose interval cannot be set")
        return self


class GpuConfig(_Strict):
    """Configuration of whole and shared GPUs.

    ``deviceOrder: Plan`` shows the GPUs to CUDA in the order of the allocation, by CUDA_VISIBLE_DEVICES. A container
    that uses several claims or GPU requests needs ``Pci``: variables of one name do not add up.
    """

    api_version: Literal["gpu.muster.dev/v1alpha1"] = pydantic.Field(alias="apiVersion")
    kind: Literal["GpuConfig"]
    sharing: Sharing | None = None
    device_order: Literal["Plan", "Pci"] = pydantic.Field("Plan", alias="deviceOrder")


class MigDeviceConfig(_Strict):
    """Configuration of MIG devices."""

    api_version: Literal["gpu.muster.dev/v1alpha1"] = pydantic.Field(alias="apiVersion")
    kind: Literal["MigDeviceConfig"]
    sharing: MigSharing | None = None
    device_order: Literal["Plan", "Pci"] = pydantic.Field("Plan", alias="deviceOrder")


Config = GpuConfig | MigDeviceConfig
Kind = type[GpuConfig] | type[MigDeviceConfig]

KINDS: dict[str, Kind] = {"GpuConfig": GpuConfig, "MigDeviceConfig": MigDeviceConfig}


def decode(opaque: claim.Opaque) -> Config:
    """Decode one configuration.

    Raises
    ------
    OpaqueError
    """
    place = f"{opaque.place}.opaque.parameters"
    if len(orjson.dumps(opaque.parameters)) > claim.MAX_PARAMETERS:
        raise OpaqueError(f"{place}: more than {claim.MAX_PARAMETERS} bytes")
    version, kind = opaque.parameters.get("apiVersion"), opaque.parameters.get("kind")
    if version != API_VERSION:
        raise OpaqueError(f"{place}.apiVersion: {version!r} is not known; use {API_VERSION!r}")
    if kind not in KINDS:
        raise OpaqueError(f"{place}.kind: {kind!r} is not known; use one of {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate(dict(opaque.parameters))
    except pydantic.ValidationError as error:
        raise OpaqueError("; ".join(f"{place}{_path(e['loc'])}: {e['msg']}" for e in error.errors())) from error


def effective(result: claim.Result, decoded: Sequence[tuple[claim.Opaque, Config]], kind: Kind) -> Config | None:
    """Return the configuration that holds for a device: the last that names its request, or is for all and of its kind.

    Raises
    ------
    OpaqueError
        A configuration names the request but is for another kind of device.
    """
    for opaque, config in reversed(decoded):
        if opaque.names(result) and not isinstance(config, kind):
            raise OpaqueError(
                f"{opaque.place}.opaque.parameters.kind: {config.kind} is for request {result.request!r}, whose device"
                f" {result.device} takes {kind.__name__}"
            )
        if isinstance(config, kind) and (not opaque.requests or opaque.names(result)):
            return config
    return None


def interval(config: TimeSlicingConfig) -> int:
    """Return the number of a length of time slices."""
    return INTERVALS.index(config.interval)


def _path(place: tuple[int | str, ...]) -> str:
    """Write a place in a document as users do."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place if step != "")
