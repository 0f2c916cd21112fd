"""Other PCI accelerators (FPGA, TPU and so on) from sysfs, named by a small mapping in YAML."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import pydantic
import yaml

from dra_driver import mig
from dra_driver.probe import discovery, interface, roots, sysfs
from scheduler.model import device

MAPPING = Path(__file__).with_name("pci.yaml")

Key = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]


class Product(pydantic.BaseModel):
    """What a PCI function is; both become attributes of its device."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: str = pydantic.Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    model: str = pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")


Mapped = Mapping[str, Product]

_MAPPING = pydantic.TypeAdapter(dict[Key, Product])


def mapping(path: Path = MAPPING) -> Mapped:
    """Return kind and product by ``vendor:device``, four hexadecimal digits each.

    Raises
    ------
    ValueError
        Names file, entry and field.
    """
    try:
        found = yaml.safe_load(path.read_bytes()[: roots.MAX_BYTES]) or {}
        return _MAPPING.validate_python(found)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error
    except pydantic.ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'document'}: {one['msg']}" for one in error.errors()[:5])
        raise ValueError(f'{path}: {said}; write "10ee:500c": {{kind: fpga, model: Alveo-U280}}') from error


def accelerators(root: roots.Root, known: Mapped) -> tuple[device.Accelerator, ...]:
    """Return the physical functions that the mapping knows, by address."""
    found: list[device.Accelerator] = []
    for bus_id in roots.names(root.at("sys/bus/pci/devices")):
        own = sysfs.function(root, bus_id)
        key = f"{max(0, roots.number(own / 'vendor')):04x}:{max(0, roots.number(own / 'device')):04x}"
        if key in known and not (own / "physfn").exists():
            at, product = sysfs.place(root, bus_id), known[key]
            found.append(
                device.Accelerator(len(found), product.kind, product.model, bus_id, at.switch, at.root, at.numa)
            )
    return tuple(found)


class PciProbe:
    """The accelerators of a node without GPUs that we can ask. They tell nothing of their health."""

    def __init__(self, root: roots.Root, node_name: str, known: Mapped) -> None:
        self._root, self._name, self._known = root, node_name, known

    def close(self) -> None:
        """Nothing is open."""

    def discover(self) -> interface.Discovered:
        """Return the accelerators and NICs."""
        return discovery.assemble(self._root, self._name, accelerators=accelerators(self._root, self._known))

    def wait(self, timeout_s: float) -> Sequence[interface.Event]:
        """Return nothing, after that time."""
        time.sleep(timeout_s)
        return ()

    def reading(self, gpu_uuid: str) -> interface.Reading:
        """A GPU that was there before is lost."""
        return interface.Reading(gpu_uuid, lost=True)

    def instances(self, gpu_uuid: str) -> Sequence[mig.Instance]:
        """There is no such GPU."""
        self._refuse(gpu_uuid)

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, start: int) -> mig.Instance:
        """There is no such GPU."""
        self._refuse(gpu_uuid)

    def create_compute_instance(self, instance: mig.Instance) -> mig.Instance:
        """There is no such GPU."""
        self._refuse(instance.gpu_uuid)

    def destroy_compute_instance(self, instance: mig.Instance) -> None:
        """There is no such GPU."""
        self._refuse(instance.gpu_uuid)

    def destroy_gpu_instance(self, instance: mig.Instance) -> None:
        """There is no such GPU."""
        self._refuse(instance.gpu_uuid)

    def _refuse(self, gpu_uuid: str) -> NoReturn:
        raise mig.HardwareError(f"GPU {gpu_uuid}: this node has no GPU that NVML knows; its driver is not loaded")
