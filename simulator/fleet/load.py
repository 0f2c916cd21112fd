"""A fleet from whatever the user names: a preset, a YAML document, a node list, or a dump of a cluster."""

from pathlib import Path

from scheduler import document
from scheduler.model import fabric
from simulator.fleet import build, dump, openb, presets, spec
from simulator.trace import content, job, table

YAML_SUFFIXES = (".yaml", ".yml")


def read(name: str, *, rack_nodes: int = 0, level_labels: tuple[str, ...] = dump.LEVEL_LABELS) -> fabric.Fabric:
    """Return the fabric of a preset or of a file.

    Parameters
    ----------
    name : str
        A preset's name or a path. A file wins over a preset of the same name.
    rack_nodes : int
        For node lists: nodes of a rack, 0 for one flat domain.
    level_labels : tuple of str
        For dumps: node labels that name the domains, coarsest first.

    Raises
    ------
    FleetError
    """
    path = Path(name)
    if name in presets.PRESETS and not path.is_file():
        return preset(name)
    if path.suffix in YAML_SUFFIXES:
        return build.fleet(document.read(path, spec.FleetError))
    try:
        data = content.read(path)
    except job.TraceError as error:
        remedy = error.remedy or (f"presets are {', '.join(presets.PRESETS)}" if not path.exists() else "")
        raise spec.FleetError(error.problem, file=name, remedy=remedy) from error
    if data.lstrip()[:1] in (b"{", b"["):
        return dump.read(name, data, level_labels)
    if b"\napiVersion:" in data or data.startswith(b"apiVersion:"):
        return build.fleet(document.read(path, spec.FleetError))
    try:
        source = table.of_bytes(name, data)
    except job.TraceError as error:
        raise openb.as_fleet_error(error) from error
    return openb.read(source, rack_nodes)


def preset(name: str) -> fabric.Fabric:
    """Return a built-in fleet.

    Raises
    ------
    FleetError
        There is none of this name.
    """
    if name not in presets.PRESETS:
        raise spec.FleetError("no such preset", value=name, remedy=f"there are {', '.join(presets.PRESETS)}")
    return build.fleet(document.parse(f"preset {name}", presets.PRESETS[name], spec.FleetError))
