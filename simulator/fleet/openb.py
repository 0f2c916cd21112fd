"""Node lists of the openb trace: GPUs of a model, CPU and memory; nothing is known about wiring or racks."""

import numpy as np

from scheduler.model import fabric, machines, node
from simulator.fleet import spec
from simulator.trace import job, table

COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")


def read(source: table.Table, rack_nodes: int = 0) -> fabric.Fabric:
    """Make a fabric of a node list.

    Parameters
    ----------
    rack_nodes : int
        Nodes of a rack, in file order; 0 puts all nodes into one flat domain.

    Raises
    ------
    FleetError
    """
    try:
        return _read(source, rack_nodes)
    except job.TraceError as error:
        raise as_fleet_error(error) from error


def as_fleet_error(error: job.TraceError) -> spec.FleetError:
    """Return the same fault as one of a fleet."""
    where = {"file": error.file, "field": error.field, "value": error.value, "remedy": error.remedy}
    return spec.FleetError(error.problem, line=error.line, **where)


def _read(source: table.Table, rack_nodes: int) -> fabric.Fabric:
    source.need(COLUMNS)
    names = source.names("sn")
    cpu = source.integers("cpu_milli", 0, 10_000_000)
    memory = source.integers("memory_mib", 0, 100_000_000)
    gpus = source.integers("gpu", 0, 16)
    model = source.text("model", "")
    unnamed = (gpus > 0) & (model.to_numpy() == "")
    if unnamed.any():
        raise source.error(int(unnamed.argmax()), "model", "a node with GPUs needs their model")
    nodes = {
        name: machines.plain(name, int(gpus[row]), model[row], int(cpu[row]), int(memory[row]))
        for row, name in enumerate(names.tolist())
    }
    if not rack_nodes:
        return _fabric(source, nodes, {}, ())
    width = len(str((len(nodes) - 1) // rack_nodes))
    racks = np.arange(len(nodes)) // rack_nodes
    paths: dict[str, tuple[str, ...]] = {
        name: (f"rack-{rack:0{width}d}",) for name, rack in zip(nodes, racks.tolist(), strict=True)
    }
    return _fabric(source, nodes, paths, ("rack",))


def _fabric(
    source: table.Table,
    nodes: dict[str, node.NodeTopology],
    paths: dict[str, tuple[str, ...]],
    levels: tuple[str, ...],
) -> fabric.Fabric:
    try:
        return fabric.from_paths(nodes, paths, levels)
    except fabric.FabricError as error:
        raise spec.FleetError(str(error), file=source.file) from error
