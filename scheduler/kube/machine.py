"""A node with its devices as published."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from scheduler.kube import node as nodes
from scheduler.kube import part
from scheduler.model import claim, device, extended, node

EXTENDED = f"{extended.GPU_RESOURCE}:"
"""Before the product of GPUs that are an extended resource, so that no claim is planned on them."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node with its devices as published.

    Attributes
    ----------
    topology : NodeTopology
        Complete: CPU, memory and pods are what the node can allocate.
    driver : str
        Who published the devices, "" where they are an extended resource or none. The pool has the node's name.
    contents : tuple of Content
        The device entries, shared by all nodes of one shape.
    identities : dict of (device, attribute) to value
    taints : tuple of (device, Taint)
        Those that keep pods off, without that of ownership.
    """

    topology: node.NodeTopology
    driver: str = ""
    contents: tuple[part.Content, ...] = ()
    identities: Mapping[tuple[str, str], str] = field(default_factory=dict)
    taints: tuple[tuple[str, part.Taint], ...] = ()

    def devices(self) -> dict[str, claim.Device]:
        """Return every device that can be allocated by its name; none where GPUs are an extended resource."""
        return claim.devices(self.topology) if self.driver else {}


def plugged(own: nodes.Node) -> Machine:
    """Return a node whose GPUs, if it has any, are an extended resource.

    Raises
    ------
    ValueError
    """
    count = dict(own.extended).get(extended.GPU_RESOURCE, 0)
    return Machine(extended.machine(own.name, dict(own.labels), count, EXTENDED))


def on_node(one: Machine, own: nodes.Node, labels: Collection[str], taints: Iterable[nodes.Taint] = ()) -> Machine:
    """Return the machine of a shape as one node, with its own name, identities and room, and those of its labels and taints."""
    topology = replace(
        one.topology,
        name=own.name,
        gpus=tuple(_identified(one)) if one.driver else one.topology.gpus,
        cpu_milli=own.cpu_milli,
        memory_mib=own.memory_mib,
        max_pods=own.max_pods,
        labels=tuple((key, value) for key, value in own.labels if key in labels),
        taints=tuple(taint.plain for taint in taints),
    )
    return replace(one, topology=topology)


def _identified(one: Machine) -> Iterator[device.Gpu]:
    """Yield the GPUs of a shape with the identities of one node."""
    known = one.identities
    parents = {name.partition("-mig-")[0]: value for (name, key), value in known.items() if key == "parentUUID"}
    for gpu in one.topology.gpus:
        uuid = known.get((gpu.name, "uuid"), parents.get(gpu.name, ""))
        yield replace(gpu, uuid=uuid, fabric_id=known.get((gpu.name, "nvlinkDomain"), ""))
