"""What a fleet consists of, as tables, a tree and a document."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich import text, tree

from scheduler.model import fabric, node
from simulator.report import sheet, units


def sheets(source: fabric.Fabric) -> list[sheet.Sheet]:
    """Return the levels and the machines of a fleet as tables."""
    return [levels(source), machines(source)]


def levels(source: fabric.Fabric) -> sheet.Sheet:
    """Count domains per level, and the nodes and GPUs that the smallest and the largest hold."""
    sizes: dict[str, list[tuple[int, int]]] = {level: [] for level in source.levels}
    _measure(source, source.root, sizes)
    rows = [
        (level, units.count(len(found)), _range([n for n, _ in found]), _range([g for _, g in found]))
        for level, found in sizes.items()
        if found
    ]
    return sheet.sheet("Levels", "<level|domains|nodes in each|GPUs in each", rows)


def machines(source: fabric.Fabric) -> sheet.Sheet:
    """Describe each kind of machine once."""
    kinds: dict[tuple[str, ...], int] = Counter(_description(machine) for machine in source.nodes())
    rows = [(kind, units.count(count), *rest) for (kind, *rest), count in sorted(kinds.items())]
    return sheet.sheet("Machines", "<machine|nodes|GPUs|<model|NVLink/GPU|NICs|CPUs|memory", rows)


def drawn(source: fabric.Fabric) -> tree.Tree:
    """Return the domains as a tree; equal siblings in a row are drawn once with their number."""
    top = tree.Tree(_label(source, source.root, 1), guide_style="dim")
    _grow(source, source.root, top)
    return top


def _measure(source: fabric.Fabric, domain: str, sizes: dict[str, list[tuple[int, int]]]) -> tuple[int, int]:
    """Add up nodes and GPUs below a domain, children first."""
    level = source.level(domain)
    if level == fabric.NODE_LEVEL:
        held = (1, len(source.graph.nodes[domain]["topology"].gpus))
    else:
        parts = [_measure(source, child, sizes) for child in source.children(domain)]
        held = (sum(n for n, _ in parts), sum(g for _, g in parts))
    sizes[level].append(held)
    return held


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return units.count(low) if low == high else f"{units.count(low)}-{units.count(high)}"


def _description(machine: node.NodeTopology) -> tuple[str, ...]:
    models = ", ".join(dict.fromkeys(gpu.model.name for gpu in machine.gpus)) or "-"
    cut = sum(gpu.mig_enabled for gpu in machine.gpus)
    # Through switches every pair shares the same links of a GPU; direct links of several pairs add up.
    switched = machine.nvswitches or any(gpu.fabric_id for gpu in machine.gpus)
    per_gpu = max(map(max if switched else sum, machine.link_gbps()), default=0)
    fastest = f"{per_gpu:.0f} GB/s" if per_gpu else "-"
    gpus = f"{len(machine.gpus)} ({cut} MIG)" if cut else str(len(machine.gpus))
    cpus = f"{machine.cpu_milli / 1000:g}" if machine.cpu_milli else "-"
    memory = f"{machine.memory_mib / 1024:,.0f} GiB" if machine.memory_mib else "-"
    return (machine.machine or "-", gpus, models, fastest, str(len(machine.nics)), cpus, memory)


def _grow(source: fabric.Fabric, domain: str, branch: tree.Tree) -> None:
    """Add the children of a domain, runs of equal ones once."""
    for names in _runs(source, source.children(domain)):
        grown = branch.add(_label(source, names[0], len(names), names[-1]))
        if source.level(names[0]) != fabric.NODE_LEVEL:
            _grow(source, names[0], grown)


def _runs(source: fabric.Fabric, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield stretches of siblings that look the same from here down."""
    run: list[str] = []
    for name in names:
        if run and _signature(source, run[0]) != _signature(source, name):
            yield run
            run = []
        run.append(name)
    if run:
        yield run


def _signature(source: fabric.Fabric, domain: str) -> tuple[object, ...]:
    if source.level(domain) == fabric.NODE_LEVEL:
        return _description(source.graph.nodes[domain]["topology"])
    return (source.level(domain), *(_signature(source, child) for child in source.children(domain)))


def _label(source: fabric.Fabric, domain: str, count: int, last: str = "") -> text.Text:
    """Write a name or a run of names, and what is there."""
    name = domain.rpartition("/")[2] if count == 1 else f"{domain.rpartition('/')[2]} … {last.rpartition('/')[2]}"
    label = text.Text(name)
    if source.level(domain) == fabric.NODE_LEVEL:
        machine = source.graph.nodes[domain]["topology"]
        what = f"{machine.machine}, {len(machine.gpus)} GPUs" if machine.gpus else "no GPU"
    else:
        what = source.level(domain)
    label.append(f"  {count} × {what}" if count > 1 else f"  {what}", style="dim")
    return label
