"""The ``Quotas`` and ``Faults`` documents of a replay."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import alias_generators

from scheduler import bad_input, document
from scheduler.gang import config
from simulator import faults

Count = Annotated[int, pydantic.Field(ge=0, le=10_000_000, strict=True)]
Seconds = Annotated[float, pydantic.Field(ge=0, le=1e12, allow_inf_nan=False)]


class SettingsError(bad_input.BadInput):
    """Input that is no valid Quotas or Faults document."""


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", alias_generator=alias_generators.to_camel, populate_by_name=True
    )


class Tenant(_Frozen):
    """GPUs that a tenant always gets back, and GPUs that it may borrow beyond them."""

    name: Annotated[str, pydantic.Field(min_length=1)]
    nominal: Count
    borrow: Count = 0


class QuotaSpec(_Frozen):
    """Quotas; a tenant that is not named waits for ever."""

    tenants: Annotated[list[Tenant], pydantic.Field(min_length=1)]


class Quotas(_Frozen):
    """One quota document."""

    api_version: Annotated[Literal["muster.dev/v1alpha1"], pydantic.Field(alias="apiVersion")]
    kind: Literal["Quotas"]
    spec: QuotaSpec


class Window(_Frozen):
    """A domain or node that is out of service for a time, and takes nothing new from `notice_s` before."""

    domain: str
    start_s: Seconds
    notice_s: Seconds = 0.0
    duration_s: Annotated[float, pydantic.Field(gt=0, le=1e12, allow_inf_nan=False)]


class FaultSpec(_Frozen):
    """Mean times between failures of one unit, 0 for never; see `faults.Faults`."""

    gpu_mtbf_s: Seconds = 0.0
    node_mtbf_s: Seconds = 0.0
    domain_mtbf_s: Seconds = 0.0
    domain_level: str = "rack"
    repair_s: Annotated[float, pydantic.Field(gt=0, le=1e12, allow_inf_nan=False)] = 3600.0
    checkpoint_s: Seconds = 0.0
    restart_s: Seconds = 0.0
    maintenance: list[Window] = []


class Faults(_Frozen):
    """One fault document."""

    api_version: Annotated[Literal["muster.dev/v1alpha1"], pydantic.Field(alias="apiVersion")]
    kind: Literal["Faults"]
    spec: FaultSpec


def quotas(path: Path) -> tuple[config.Quota, ...]:
    """Read a quota document.

    Raises
    ------
    SettingsError
    """
    source = document.read(path, SettingsError)
    tenants = source.check(Quotas).spec.tenants
    seen: dict[str, int] = {}
    for row, tenant in enumerate(tenants):
        if tenant.name in seen:
            raise source.fault(("spec", "tenants", row, "name"), "two quotas of one tenant", tenant.name)
        seen[tenant.name] = row
    return tuple(config.Quota(t.name, t.nominal, t.borrow) for t in tenants)


def broken(path: Path) -> faults.Faults:
    """Read a fault document.

    Raises
    ------
    SettingsError
    """
    spec = document.read(path, SettingsError).check(Faults).spec
    windows = tuple(faults.Maintenance(w.domain, w.start_s, w.duration_s, w.notice_s) for w in spec.maintenance)
    rest = spec.model_dump(exclude={"maintenance"})
    return faults.Faults(**rest, maintenance=windows)
