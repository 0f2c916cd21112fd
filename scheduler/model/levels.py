"""Which node labels are levels of the tree of domains, in which order, and what people call them.

References
----------
Kubernetes well-known labels; Topograph node labels (``network.topology.nvidia.com`` up to 0.5, ``topograph.run`` since
1.0); GKE, EKS and OCI documentation of their topology labels; NVIDIA GPU feature discovery (``nvidia.com/gpu.clique``).
"""

from collections.abc import Iterable, Mapping, Sequence

from scheduler.model import node

COARSE = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone")
FINE = (
    "network.topology.nvidia.com/datacenter",
    "network.topology.nvidia.com/core",
    "network.topology.nvidia.com/spine",
    "network.topology.nvidia.com/block",
    "network.topology.nvidia.com/leaf",
    *(f"fabric.topograph.run/tier-{tier}" for tier in range(5, -1, -1)),
    "topology.k8s.aws/network-node-layer-1",
    "topology.k8s.aws/network-node-layer-2",
    "topology.k8s.aws/network-node-layer-3",
    "cloud.google.com/gce-topology-block",
    "cloud.google.com/gce-topology-subblock",
    "oci.oraclecloud.com/rdma.hpc_island_id",
    "oci.oraclecloud.com/rdma.network_block_id",
    "oci.oraclecloud.com/rdma.local_block_id",
    "muster.dev/block",
    "muster.dev/rack",
    "network.topology.nvidia.com/accelerator",
    "accelerator.topograph.run/domain",
    "accelerator.topograph.run/sub-domain",
    "nvidia.com/gpu.clique",
)
"""Coarsest first; labels that no node has make no level. What administrators name goes between `COARSE` and `FINE`."""

CLIQUE = "nvidia.com/gpu.clique"
"""Multi-node NVLink domain ``clusterUUID.cliqueId``; what the GPUs themselves say goes before the label."""

NVLINK_LEVEL = "nvlink-domain"
HOSTNAME = "kubernetes.io/hostname"
"""The last level of many Kueue Topologies: the node itself, which is a level anyhow."""

NO_CLUSTER = "00000000-0000-0000-0000-000000000000"
"""What NVML reports where NVLink ends with the machine."""


def merge(orders: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Merge several orders of labels, coarsest first, with the conventions; earlier orders win where two disagree.

    Examples
    --------
    >>> merged = merge([("x/block", "x/rack"), ("x/block", "x/row", "x/rack")])
    >>> [key for key in merged if key not in FINE]
    ['topology.kubernetes.io/region', 'topology.kubernetes.io/zone', 'x/block', 'x/row', 'x/rack']
    """
    merged: list[str] = []
    for order in orders:
        for i, key in enumerate(order):
            behind = [merged.index(other) + 1 for other in order[:i] if other in merged]
            _insert(merged, key, max(behind) if behind else _ahead(merged, order[i + 1 :], len(merged)))
    for i, key in reversed(list(enumerate(COARSE))):
        _insert(merged, key, _ahead(merged, COARSE[i + 1 :], 0))
    for i, key in enumerate(FINE):
        _insert(merged, key, _ahead(merged, FINE[i + 1 :], len(merged)))
    return tuple(merged)


def _insert(merged: list[str], key: str, place: int) -> None:
    if key not in merged:
        merged.insert(place, key)


def _ahead(merged: Sequence[str], finer: Sequence[str], default: int) -> int:
    """Return the place of the coarsest of some finer labels."""
    return min((merged.index(key) for key in finer if key in merged), default=default)


def names(keys: Sequence[str]) -> dict[str, str]:
    """Return the level of every label: the part behind the last ``/``, or the whole key where two would be the same.

    A label that has the very name of a level that always exists is told apart by a prefix.

    Examples
    --------
    >>> names(("topology.kubernetes.io/zone", "a.example/rack", "b.example/rack"))
    {'topology.kubernetes.io/zone': 'zone', 'a.example/rack': 'a.example/rack', 'b.example/rack': 'b.example/rack'}
    >>> names(("node", "example/cluster"))
    {'node': 'label.node', 'example/cluster': 'example/cluster'}
    """
    short = {key: NVLINK_LEVEL if key == CLIQUE else key.rpartition("/")[2] for key in keys}
    taken = ["cluster", "node", *short.values()]
    whole = {key: f"label.{key}" if key in taken[:2] else key for key in keys}
    return {key: name if taken.count(name) == 1 else whole[key] for key, name in short.items()}


def spellings(named: Mapping[str, str]) -> dict[str, str]:
    """Return the level of everything that users may write: its name, its label and the short form where only one has it."""
    short: dict[str, list[str]] = {}
    for key, level in named.items():
        short.setdefault(key.rpartition("/")[2], []).append(level)
    single = {name: found[0] for name, found in short.items() if len(found) == 1 and name not in ("cluster", "node")}
    always = {"cluster": "cluster", "node": "node", HOSTNAME: "node"}
    return single | dict(named) | {level: level for level in named.values()} | always


def domain(machine: node.NodeTopology, labels: Mapping[str, str], key: str) -> str:
    """Return the domain of a node at the level of a label, "" for none."""
    if key != CLIQUE:
        return labels.get(key, "")
    fabrics = {gpu.fabric_id for gpu in machine.gpus}
    found = fabrics.pop() if len(fabrics) == 1 else ""
    found = found or labels.get(key, "")
    return "" if found.startswith(NO_CLUSTER) else found
