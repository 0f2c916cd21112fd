"""How long a job runs on the placement that it got: collectives stretch with the bandwidth, the rest does not.

The time of a collective is latency + bytes / bandwidth. The latencies, and the share of the nominal bandwidth that
collectives reach, were fitted to measurements (`simulator.runtime_fit`) and are kept in ``collectives.yaml`` beside
their residuals.
"""

import functools
import importlib.resources
import math
from dataclasses import dataclass
from typing import Any, Protocol

import yaml

from simulator.trace import job

PCIE_MAX_MB_S = 48_000
"""A ring inside one node that is slower than this runs over PCIe: what generation 5 x16 gives to collectives."""

FACTS = "collectives.yaml"


class RuntimeModel(Protocol):
    """What the simulator asks: run time on a placement."""

    def seconds(
        self,
        duration_s: float,
        shape: job.JobShape,
        bandwidth_mb_s: int,
        reference_mb_s: int,
        gpus: int,
        *,
        nodes: int = 1,
        reference_nodes: int = 1,
    ) -> float:
        """Return the run time of a job."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Run times are those of the trace, wherever a job runs."""

    name: str = "none"

    def seconds(
        self,
        duration_s: float,
        shape: job.JobShape,
        bandwidth_mb_s: int,
        reference_mb_s: int,
        gpus: int,
        *,
        nodes: int = 1,
        reference_nodes: int = 1,
    ) -> float:
        """Return the duration of the trace."""
        return duration_s


@dataclass(frozen=True, slots=True)
class Link:
    """One class of links.

    Attributes
    ----------
    latency_us : float
        Time of an empty collective within a node, or between two nodes.
    efficiency : float
        Bus bandwidth that long collectives reach, over the nominal bandwidth.
    """

    latency_us: float
    efficiency: float


@dataclass(frozen=True, slots=True)
class Collectives:
    """Latency and bandwidth of ring all-reduce, for GPUs of one architecture.

    Examples
    --------
    >>> model = collectives("Hopper")
    >>> fast, slow = (model.collective_us(64 << 20, 8, mb_s) for mb_s in (478_000, 48_000))
    >>> 5 < slow / fast < 8
    True
    """

    architecture: str
    nvlink: Link
    pcie: Link
    network: Link
    name: str = "collectives"

    def collective_us(self, message_bytes: int, gpus: int, bandwidth_mb_s: float, nodes: int = 1) -> float:
        """Return the time of one all-reduce over a ring of nominal bandwidth.

        Notes
        -----
        Each GPU sends ``2 (n-1)/n`` times the message. Between nodes the latency grows with the logarithm of their
        number, as NCCL changes to trees; that is an assumption, since only two nodes were measured.
        """
        link = self._link(bandwidth_mb_s, nodes)
        latency_us = link.latency_us * (math.log2(nodes) if nodes > 1 else 1.0)
        return latency_us + 2 * (gpus - 1) / gpus * message_bytes / (link.efficiency * bandwidth_mb_s)

    def slowdown(
        self,
        message_bytes: int,
        bandwidth_mb_s: int,
        reference_mb_s: int,
        gpus: int,
        *,
        nodes: int = 1,
        reference_nodes: int = 1,
    ) -> float:
        """Return how many times as long a collective takes as at the reference bandwidth; 1 where either is unknown."""
        if gpus < 2 or bandwidth_mb_s <= 0 or reference_mb_s <= 0:
            return 1.0
        taken = self.collective_us(message_bytes, gpus, bandwidth_mb_s, nodes)
        return taken / self.collective_us(message_bytes, gpus, reference_mb_s, reference_nodes)

    def seconds(
        self,
        duration_s: float,
        shape: job.JobShape,
        bandwidth_mb_s: int,
        reference_mb_s: int,
        gpus: int,
        *,
        nodes: int = 1,
        reference_nodes: int = 1,
    ) -> float:
        """Return the run time of a job on a placement.

        Parameters
        ----------
        duration_s : float
            Run time at the reference.
        bandwidth_mb_s, reference_mb_s : int
            Nominal ring bandwidth of the placement, and of the best one that an empty fleet has; 0 when unknown.
        gpus : int
            GPUs that take part in a collective.
        nodes, reference_nodes : int
            Nodes that a network joins; 1 where NVLink spans them all.
        """
        if not shape.communication_milli:
            return duration_s
        stretch = _slowdown(self, shape.message_bytes, bandwidth_mb_s, reference_mb_s, gpus, nodes, reference_nodes)
        share = shape.communication_milli / 1000
        return duration_s * (1 - share + share * stretch)

    def _link(self, bandwidth_mb_s: float, nodes: int) -> Link:
        if nodes > 1:
            return self.network
        return self.nvlink if bandwidth_mb_s > PCIE_MAX_MB_S else self.pcie


@functools.lru_cache(maxsize=1 << 16)
def _slowdown(
    model: Collectives,
    message_bytes: int,
    bandwidth_mb_s: int,
    reference_mb_s: int,
    gpus: int,
    nodes: int,
    reference_nodes: int,
) -> float:
    """Remember slowdowns: a trace has few shapes and a fleet few bandwidths."""
    return model.slowdown(
        message_bytes, bandwidth_mb_s, reference_mb_s, gpus, nodes=nodes, reference_nodes=reference_nodes
    )


@functools.cache
def facts() -> dict[str, Any]:
    """Return the committed fit: link classes by architecture, and every group of measurements with its residuals."""
    text = importlib.resources.files("simulator").joinpath(FACTS).read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@functools.cache
def collectives(architecture: str = "Hopper") -> Collectives:
    """Return the fitted model of an architecture.

    Raises
    ------
    ValueError
        Nothing was measured on it.
    """
    fitted = facts()["architectures"]
    if architecture not in fitted:
        raise ValueError(f"no measurements of {architecture!r}; there are {', '.join(sorted(fitted))}")
    nvlink, pcie, network = (_read_link(fitted[architecture][kind]) for kind in ("nvlink", "pcie", "network"))
    # Short messages were timed with more noise than links differ by: a slower link shall not look quicker.
    pcie = Link(max(pcie.latency_us, nvlink.latency_us), pcie.efficiency)
    return Collectives(architecture, nvlink, pcie, Link(max(network.latency_us, pcie.latency_us), network.efficiency))


def _read_link(row: dict[str, Any]) -> Link:
    return Link(float(row["latency_us"]), float(row["efficiency"]))


def by_name(name: str) -> RuntimeModel:
    """Return the model that a command line names: ``none``, ``collectives`` or ``collectives:Ampere``.

    Raises
    ------
    ValueError
        There is no such model.
    """
    kind, _, architecture = name.partition(":")
    if name == "none":
        return Fixed()
    if kind == "collectives":
        return collectives(architecture or "Hopper")
    raise ValueError(f"no run-time model {name!r}; there are none, collectives, collectives:ARCHITECTURE")
