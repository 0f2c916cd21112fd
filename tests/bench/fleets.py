"""The fleet that speed is measured on: 5,000 machines of 8 GPUs in racks of 8 and blocks of 25 racks."""

import functools
import time

from scheduler.model import fabric, machines
from scheduler.snapshot import state, topology

NODES, PER_RACK, RACKS_PER_BLOCK = 5000, 8, 25


@functools.cache
def large() -> topology.Topology:
    """Return the compiled fleet."""
    nodes = {f"node-{i:04}": machines.build("hgx-h100", f"node-{i:04}") for i in range(NODES)}
    paths = {name: place(i) for i, name in enumerate(nodes)}
    return topology.compile_topology(fabric.from_paths(nodes, paths, ("block", "rack")))


def place(number: int) -> tuple[str, str]:
    """Return block and rack of a node."""
    rack = number // PER_RACK
    return f"block-{rack // RACKS_PER_BLOCK:02}", f"rack-{rack % RACKS_PER_BLOCK:02}"


def empty() -> state.Snapshot:
    """Return the fleet with everything free."""
    return state.empty(large())


if __name__ == "__main__":
    begin = time.perf_counter()
    print(large().total_gpus, time.perf_counter() - begin)
