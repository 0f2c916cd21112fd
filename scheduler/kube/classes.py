"""DeviceClasses: what they select, copy to claims, and stand in for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Item = Mapping[str, Any]

IMPLICIT = "deviceclass.resource.kubernetes.io/"
"""Extended resources of this prefix mean the class of the name behind it."""


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """A class.

    Attributes
    ----------
    selectors : tuple of str
        CEL expressions; all must hold.
    config : tuple of dict
        The API's own objects; copied to allocations with source FromClass.
    extended : str
        Extended resource that stands for one device of the class, "" for none.
    """

    name: str
    selectors: tuple[str, ...] = ()
    config: tuple[Item, ...] = ()
    extended: str = ""


def read(item: Item) -> DeviceClass:
    """Project a DeviceClass of the API."""
    spec = item.get("spec") or {}
    return DeviceClass(
        item["metadata"]["name"],
        tuple((one.get("cel") or {}).get("expression", "") for one in spec.get("selectors") or ()),
        tuple(spec.get("config") or ()),
        spec.get("extendedResourceName") or "",
    )


def of_resource(classes: Iterable[DeviceClass], resource: str) -> DeviceClass | None:
    """Return the class that an extended resource stands for, None for a resource of a device plugin.

    The first by name where several claim the same resource.
    """
    found = [c for c in classes if resource in (c.extended, f"{IMPLICIT}{c.name}")]
    return min(found, key=lambda c: c.name, default=None)
