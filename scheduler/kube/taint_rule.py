"""DeviceTaintRules: taints that an administrator puts on devices from outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import part

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A taint and the devices that it is for; "" selects any driver, pool or device."""

    name: str
    taint: part.Taint | None
    driver: str = ""
    pool: str = ""
    device: str = ""

    def selects(self, driver: str, pool: str, device: str) -> bool:
        """Tell whether the rule is for a device."""
        wanted = (self.driver, self.pool, self.device)
        return all(not want or want == own for want, own in zip(wanted, (driver, pool, device), strict=True))


def read(item: Item) -> Rule:
    """Project a DeviceTaintRule; `taint` is None for effects that keep no pod off.

    Notes
    -----
    A selector that is missing selects nothing, one without fields everything, as in the API.
    """
    spec, name = item["spec"], item["metadata"]["name"]
    taints = tuple(part.barring({"taints": [spec["taint"]]}))
    selector = spec.get("deviceSelector")
    if selector is None:
        return Rule(name, None)
    fields = {field: selector.get(field) or "" for field in ("driver", "pool", "device")}
    return Rule(name, taints[0] if taints else None, **fields)
