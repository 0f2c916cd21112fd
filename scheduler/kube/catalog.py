"""All distinct devices that the fleet publishes, and which of them an expression selects.

A plan knows GPU models and MIG profiles and not single devices. What a selector means to it is found by evaluating the
selector on every device of every shape of machine; each answer is kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from scheduler.kube import cel, cel_device, machine
from scheduler.model import claim, device

Key = tuple[object, ...]


class Unselectable(ValueError):
    """A selector can't be used; `expression` is the one at fault."""

    def __init__(self, expression: str, problem: str) -> None:
        super().__init__(problem)
        self.expression = expression


@dataclass(frozen=True, slots=True)
class Published:
    """A device as it is published and as the model knows it."""

    seen: cel_device.Device
    real: claim.Device

    @property
    def kind(self) -> str:
        """Return ``gpu``, ``mig``, ``nic`` or ``accelerator``."""
        return KINDS[type(self.real)]

    @property
    def sort(self) -> str:
        """Return what a plan can name of it: the GPU model, the kind of accelerator, "" for NICs."""
        match self.real:
            case device.Gpu(model=model):
                return model.name
            case claim.Partition(gpu=gpu):
                return gpu.model.name
            case device.Accelerator(kind=kind):
                return kind
        return ""


KINDS: dict[type, str] = {
    device.Gpu: "gpu",
    claim.Partition: "mig",
    device.Nic: "nic",
    device.Accelerator: "accelerator",
}


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Machines that publish the same but for identities.

    Attributes
    ----------
    example : str
        Name of one of them.
    devices : dict of device name to Published
    unpublished : frozenset of str
        Models of GPUs that are published by their partitions alone.
    """

    example: str
    driver: str
    devices: Mapping[str, Published]
    unpublished: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What makes a device suit a request: selectors that hold, and capacities that it has at least."""

    selectors: tuple[str, ...]
    capacity: tuple[tuple[str, Fraction], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The devices that suit.

    Attributes
    ----------
    devices : tuple of frozenset of str
        Names by shape, in the order of `Catalog.shapes`.
    read : frozenset of str
        Attributes and capacities that the answers depend on.
    """

    devices: tuple[frozenset[str], ...]
    read: frozenset[str]

    @property
    def most(self) -> int:
        """Return how many suit on the machine that has most."""
        return max((len(found) for found in self.devices), default=0)


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """The shapes of a fleet.

    Attributes
    ----------
    machines : tuple of tuple of Machine
        Those of every shape.
    plugged : tuple of str
        Models of GPUs that are extended resources.
    meanings : dict of Wanted
        What `needs` found out, kept as long as the catalog.
    """

    shapes: tuple[Shape, ...]
    machines: tuple[tuple[machine.Machine, ...], ...]
    plugged: tuple[str, ...] = ()
    meanings: dict[Wanted, tuple[str, tuple[str, ...] | None, str]] = field(default_factory=dict)
    _row: Mapping[Key, int] = field(default_factory=dict)
    _matches: dict[Wanted, Match] = field(default_factory=dict)

    def shape(self, one: machine.Machine) -> Shape | None:
        """Return the shape of a machine, None for one that publishes nothing."""
        row = self._row.get(_key(one))
        return None if row is None else self.shapes[row]

    def match(self, wanted: Wanted) -> Match:
        """Return the devices that suit.

        Raises
        ------
        Unselectable
            A selector is not understood, fails on a device, or reads an identity.
        """
        found = self._matches.get(wanted)
        if found is None:
            for text in wanted.selectors:
                _understood(text)
            read: set[str] = {name for name, _ in wanted.capacity}
            devices = tuple(
                frozenset(name for name, one in shape.devices.items() if _suits(wanted, one, shape, read))
                for shape in self.shapes
            )
            found = self._matches[wanted] = Match(devices, frozenset(read))
        return found


def of(machines: Iterable[machine.Machine]) -> Catalog:
    """Return the catalog of a fleet's machines."""
    grouped: dict[Key, list[machine.Machine]] = {}
    plugged: set[str] = set()
    for one in machines:
        if one.driver:
            grouped.setdefault(_key(one), []).append(one)
        else:
            plugged.update(gpu.model.name for gpu in one.topology.gpus)
    shapes = tuple(_shape(found[0]) for found in grouped.values())
    rows = {key: row for row, key in enumerate(grouped)}
    return Catalog(shapes, tuple(tuple(found) for found in grouped.values()), tuple(sorted(plugged)), _row=rows)


def _key(one: machine.Machine) -> Key:
    return one.driver, *one.contents


def _shape(one: machine.Machine) -> Shape:
    """Return the shape of a machine; devices that are of no use to a plan are left out."""
    real = one.devices()
    entries = [entry for content in one.contents for entry in content.entries()]
    seen = {str(entry["name"]): cel_device.device(one.driver, entry) for entry in entries if entry["name"] in real}
    devices = {name: Published(found, real[name]) for name, found in seen.items()}
    hidden = frozenset(gpu.model.name for gpu in one.topology.gpus if gpu.name not in devices)
    return Shape(one.topology.name, one.driver, devices, hidden)


def _understood(text: str) -> None:
    try:
        cel.compile_expression(text)
    except cel_device.CelError as error:
        raise Unselectable(text, str(error)) from error


def _suits(wanted: Wanted, one: Published, shape: Shape, read: set[str]) -> bool:
    """Tell whether a device suits; selectors are asked in order until one says no, as kube-scheduler does."""
    one.seen.read.clear()
    for text in wanted.selectors:
        try:
            if not cel.compile_expression(text).holds(one.seen):
                return False
        except cel_device.CelError as error:
            raise Unselectable(text, f"{error} (device {one.seen.name} of node {shape.example})") from error
        finally:
            read |= one.seen.read
    own = one.seen.capacity
    return all(_capacity(own, shape.driver, name, amount) for name, amount in wanted.capacity)


def _capacity(own: Mapping[str, Mapping[str, object]], driver: str, name: str, amount: Fraction) -> bool:
    domain, _, short = name.rpartition("/")
    found = own.get(domain or driver, {}).get(short)
    return isinstance(found, Fraction) and found >= amount
