"""Reading devices out of ResourceSlices: typed access with errors that say where.

Everything here comes from outside: whatever is missing has a default, whatever is wrong names slice, device and field.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.model import quantity

STANDARD = "resource.kubernetes.io"
"""Domain of the attributes that Kubernetes defines."""


class SliceError(ValueError):
    """A ResourceSlice cannot be understood or published; the message names slice, device and field."""


@dataclass(frozen=True, slots=True)
class PublishedDevice:
    """One device as a driver published it.

    Attributes
    ----------
    slice_name, driver, name : str
    attributes, capacity : mapping
        As in the API, keys with or without the domain of the driver.
    """

    slice_name: str
    driver: str
    name: str
    attributes: Mapping[str, Any]
    capacity: Mapping[str, Any]

    def text(self, name: str, default: str = "") -> str:
        """Return a string or version attribute."""
        value = self._value(name, ("string", "version"))
        return default if value is None else str(value)

    def number(self, name: str, default: int = -1) -> int:
        """Return an integer attribute, the first element of a list."""
        value = self._value(name, ("int", "ints"))
        return default if value is None else int(value[0] if isinstance(value, list) else value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean attribute."""
        value = self._value(name, ("bool",))
        return default if value is None else bool(value)

    def mib(self, name: str) -> int:
        """Return a capacity in MiB, 0 where it is not given."""
        entry = self.capacity.get(name, self.capacity.get(f"{self.driver}/{name}"))
        if entry is None:
            return 0
        try:
            size = quantity.mib(entry["value"])
        except (TypeError, KeyError, quantity.QuantityError) as error:
            raise self.error(f"capacity.{name}", f"no quantity of bytes: {entry!r}") from error
        if size < 0:
            raise self.error(f"capacity.{name}", f"negative: {entry!r}")
        return size

    def count(self, name: str) -> int:
        """Return a capacity that is a number of things, 0 where it is not given."""
        entry = self.capacity.get(name, self.capacity.get(f"{self.driver}/{name}"))
        if entry is None:
            return 0
        try:
            return int(quantity.parse(entry["value"]))
        except (TypeError, KeyError, quantity.QuantityError) as error:
            raise self.error(f"capacity.{name}", f"no number: {entry!r}") from error

    def error(self, field: str, problem: str) -> SliceError:
        """Return the error that names this device and one of its fields."""
        return SliceError(f"slice {self.slice_name}: device {self.name}: {field}: {problem}")

    def _value(self, name: str, kinds: tuple[str, ...]) -> Any:
        """Return the value of an attribute of one of some kinds, None where it is not given."""
        value = self.attributes.get(name, self.attributes.get(f"{self.driver}/{name}"))
        if value is None:
            return None
        field = f"attributes.{name}"
        if not isinstance(value, dict) or len(value) != 1:
            raise self.error(field, f"exactly one typed value expected, got {value!r}")
        ((kind, content),) = value.items()
        if kind not in kinds or not _fits(kind, content):
            raise self.error(field, f"expected {' or '.join(kinds)}, got {value!r}")
        return content


def _fits(kind: str, content: object) -> bool:
    """Tell whether a value has the type that its key announces."""
    if kind == "ints":
        return isinstance(content, list) and bool(content) and all(type(element) is int for element in content)
    return type(content) is {"int": int, "bool": bool}.get(kind, str)


def devices(slices: Iterable[Mapping[str, Any]]) -> list[PublishedDevice]:
    """Return the devices of some slices of one pool, in list order.

    Raises
    ------
    SliceError
        A device twice, or an entry of the wrong form.
    """
    found = [_device(item, entry) for item in slices for entry in _entries(item)]
    names = [d.name for d in found]
    if len(set(names)) != len(names):
        twice = next(d for d in found if names.count(d.name) > 1)
        raise twice.error("name", "the pool has two devices of this name")
    return found


def newest(slices: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the slices of the highest generation of one pool, which alone count, sorted by name.

    Raises
    ------
    SliceError
        No slices, several pools or drivers, slices missing, or a slice of the wrong form.
    """
    items = list(slices)
    if not items:
        raise SliceError("no slices")
    pools = {(pool_name(item), str(item["spec"].get("driver"))) for item in items}
    if len(pools) > 1:
        listed = ", ".join(f"{pool} of {driver}" for pool, driver in sorted(pools))
        raise SliceError(f"slices of several pools: {listed}")
    for item in items:
        for field in ("generation", "resourceSliceCount"):
            if type(item["spec"]["pool"].get(field)) is not int:
                raise SliceError(f"slice {slice_name(item)}: spec.pool.{field}: not an integer")
    generation = max(item["spec"]["pool"]["generation"] for item in items)
    current = [item for item in items if item["spec"]["pool"]["generation"] == generation]
    expected = current[0]["spec"]["pool"]["resourceSliceCount"]
    if len(current) != expected:
        name = pool_name(current[0])
        raise SliceError(f"pool {name}: generation {generation} has {len(current)} of {expected} slices")
    return sorted(current, key=slice_name)


def slice_name(item: Mapping[str, Any]) -> str:
    """Return the object name of a slice, "(unnamed)" without one."""
    metadata = item.get("metadata") if isinstance(item, Mapping) else None
    return str(metadata.get("name") or "(unnamed)") if isinstance(metadata, dict) else "(unnamed)"


def pool_name(item: Mapping[str, Any]) -> str:
    """Return the pool of a slice.

    Raises
    ------
    SliceError
        The slice has none.
    """
    spec = item.get("spec") if isinstance(item, Mapping) else None
    pool = spec.get("pool") if isinstance(spec, dict) else None
    if not isinstance(pool, dict) or not isinstance(pool.get("name"), str) or not pool["name"]:
        raise SliceError(f"slice {slice_name(item)}: spec.pool.name: missing")
    return str(pool["name"])


def _entries(item: Mapping[str, Any]) -> list[Any]:
    """Return the device list of a slice."""
    entries = item["spec"].get("devices") or []
    if not isinstance(entries, list):
        raise SliceError(f"slice {slice_name(item)}: spec.devices: not a list")
    return entries


def _device(item: Mapping[str, Any], entry: Any) -> PublishedDevice:
    """Return one device of a slice."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise SliceError(f"slice {slice_name(item)}: spec.devices: an entry without a name")
    body = entry.get("basic", entry)  # v1beta1 has one level more
    parts = [body.get(field) or {} if isinstance(body, dict) else None for field in ("attributes", "capacity")]
    attributes, capacity = parts
    if not isinstance(attributes, dict) or not isinstance(capacity, dict):
        raise SliceError(f"slice {slice_name(item)}: device {entry['name']}: attributes or capacity: not a mapping")
    return PublishedDevice(slice_name(item), str(item["spec"].get("driver", "")), entry["name"], attributes, capacity)
