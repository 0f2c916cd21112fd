"""A published device as CEL expressions see it, and the operations on its values.

References
----------
k8s.io/dynamic-resource-allocation/cel: ``device.driver``, ``device.attributes``, ``device.capacity``,
``device.allowMultipleAllocations``; k8s.io/apiserver/pkg/cel/library: quantity and semver.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from scheduler.kube import part
from scheduler.model import quantity


class CelError(ValueError):
    """An expression can't be evaluated; the message says what in it."""


class IdentityRead(CelError):
    """An expression tells devices apart that are the same to a plan: by uuid or NVLink domain."""


class Missing(CelError):
    """A device does not have an attribute or capacity."""


class Quantity(Fraction):
    """A quantity; only its own methods apply to it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A semantic version; `order` puts a prerelease before its release."""

    order: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Optional:
    """What ``.?name`` gives; `found` is empty or has the value."""

    found: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes
    ----------
    attributes, capacity : dict of domain to dict of name to value
    read : set of str
        Names of attributes and capacities whose values were read so far.
    """

    driver: str
    name: str
    attributes: Mapping[str, Mapping[str, Any]]
    capacity: Mapping[str, Mapping[str, Any]]
    multiple: bool = False
    read: set[str] = field(default_factory=set, compare=False)


IDENTITY = object()
"""Value of attributes that differ from node to node."""

BROKEN = object()
"""Value of attributes and capacities that are not understood."""

SEMVER = re.compile(r"(\d{1,18})\.(\d{1,18})\.(\d{1,18})(?:-([0-9A-Za-z.-]{1,64}))?(?:\+[0-9A-Za-z.-]{1,64})?")


def device(driver: str, entry: Mapping[str, Any]) -> Device:
    """Return the device of an entry of a slice; a value that is not understood is an error only where it is read."""
    body = entry.get("basic", entry)
    attributes = {key: _value(key, value) for key, value in (body.get("attributes") or {}).items()}
    capacity = {key: _capacity(value) for key, value in (body.get("capacity") or {}).items()}
    multiple = bool(body.get("allowMultipleAllocations"))
    return Device(driver, entry["name"], _by_domain(driver, attributes), _by_domain(driver, capacity), multiple)


def _by_domain(driver: str, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group by domain; names without one are of the driver."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        domain, _, name = key.rpartition("/")
        found.setdefault(domain or driver, {})[name] = value
    return found


def _value(key: str, value: Mapping[str, Any]) -> Any:
    if value == part.MASKED and key.rpartition("/")[2] in part.IDENTITIES:
        return IDENTITY
    try:
        ((kind, content),) = value.items()
        if kind == "version":
            return to_version(content)
        return [to_version(one) for one in content] if kind == "versions" else content
    except (TypeError, ValueError):
        return BROKEN


def _capacity(value: Mapping[str, Any]) -> Any:
    try:
        return to_quantity(value["value"])
    except (KeyError, TypeError, ValueError):
        return BROKEN


def to_quantity(text: Any) -> Quantity:
    """Parse a quantity."""
    try:
        return Quantity(quantity.parse(text))
    except quantity.QuantityError as error:
        raise CelError(str(error)) from error


def to_version(text: Any) -> Version:
    """Parse a semantic version."""
    match = SEMVER.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise CelError(f"{text!r} is no semantic version")
    pre = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in (match[4] or "").split(".") if p)
    return Version((int(match[1]), int(match[2]), int(match[3]), not pre, pre))


def known(device: Device, value: Any, name: str) -> Any:
    """Return an attribute's value and note that it was read.

    Raises
    ------
    IdentityRead
    """
    device.read.add(name)
    if value is IDENTITY:
        raise IdentityRead(f"{name} tells apart devices that are equal to a plan")
    if value is BROKEN:
        raise CelError(f"device {device.name}: the value of {name} is not understood")
    return value


def same(a: Any, b: Any) -> bool:
    """Compare as CEL does: values of different types differ."""
    kinds = (Quantity, Version, bool, str, list, int)
    kind = next((k for k in kinds if isinstance(a, k)), type(a))
    return next((k for k in kinds if isinstance(b, k)), type(b)) is kind and a == b


def compare(a: Any, b: Any) -> int:
    """Return -1, 0 or 1 for two numbers, two texts or two truth values.

    Raises
    ------
    CelError
        Their types differ or have no order.
    """
    if type(a) is not type(b) or not isinstance(a, (bool, int, str)):
        raise CelError(f"no order between {kind_of(a)} and {kind_of(b)}")
    return int(a > b) - int(a < b)


def holds(item: Any, of: Any) -> bool:
    """Tell whether a list or a map has an item."""
    if isinstance(of, list):
        return any(same(item, one) for one in of)
    if isinstance(of, Mapping):
        if not isinstance(item, str):
            raise CelError(f"names of attributes are strings, not {kind_of(item)}")
        return item in of
    raise CelError(f"`in` needs a list or a map, got {kind_of(of)}")


def kind_of(value: Any) -> str:
    """Return what messages call a value."""
    return {str: "a string", bool: "a truth value", int: "an integer", list: "a list"}.get(
        type(value), type(value).__name__.lower()
    )
