"""The report of a replay or a comparison: which figures, drawings and tables, in which order."""

from collections.abc import Sequence

from simulator import compare, scenario
from simulator.report import comparesheets, figures, fleetmap, page, plots, provenance, runsheets, sheet, units

Parted = tuple[sheet.Sheet, sheet.Sheet]
"""Per other policy: the jobs that changed, and the first divergent decision."""


def of_run(run: scenario.Run, record: provenance.Provenance) -> str:
    """Return the page of one replay."""
    return _page([run], record, [], run.outcome.partial)


def of_comparison(
    made: compare.Comparison, record: provenance.Provenance, parted: Sequence[Parted], title: str = ""
) -> str:
    """Return the page of a comparison; detail is shown of the first seed."""
    runs = list(made.runs.values())
    measured = comparesheets.sheets(made) if made.seeds else []
    blocks: list[page.Block] = [
        *measured[:1],
        drawings(runs)["waits"],
        *measured[1:],
        *(each for pair in parted for each in pair),
    ]
    return _page(runs, record, blocks, made.partial, title)


def _page(
    runs: Sequence[scenario.Run],
    record: provenance.Provenance,
    comparison: Sequence[page.Block],
    partial: str,
    title: str = "",
) -> str:
    first = runs[0].outcome
    several = len(runs) > 1
    heading = title or (f"Comparison on {first.trace.name}" if several else f"Replay of {first.trace.name}")
    fleet = f"{units.count(len(first.topology.nodes))} nodes, {units.count(first.topology.total_gpus)} GPUs"
    names = ", ".join(run.outcome.policy for run in runs)
    subtitle = f"{units.count(len(first.trace))} jobs on {fleet}; policy {names}"
    warning = (page.Words(f"Partial result: {partial}. Figures cover only what had happened by then.", True),)
    sections = [
        page.Section("Incomplete", warning if partial else ()),
        page.Section("Comparison", tuple(comparison)),
        page.Section("Fleet", tuple(_map(run, several) for run in runs[:3])),
        page.Section("Over time", _curves(runs)),
        page.Section("Waiting", _waiting(runs)),
        page.Section("Gangs and bandwidth", _gangs(runs)),
        page.Section("Provenance", (record.sheet(),)),
    ]
    return page.write(heading, subtitle, _tiles(runs[0]), sections)


def _tiles(run: scenario.Run) -> list[page.Tile]:
    """Return the key figures of the first run."""
    measures, made = figures.measures(run.outcome), figures.gangs(run.outcome)
    success = f"{units.count(made.total - made.unexplained)} of {units.count(made.total)} placed whole or truly refused"
    best = measures["bandwidth (% of the best)"]
    tiles = [
        page.Tile(
            "GPU utilisation", f"{measures['utilisation (%)']:.1f} %", f"{run.outcome.policy}, while jobs arrive"
        ),
        page.Tile(
            "Wait, p90",
            units.duration(measures["wait, p90 (s)"]),
            f"p50 {units.duration(measures['wait, p50 (s)'])}, p99 {units.duration(measures['wait, p99 (s)'])}",
        ),
        page.Tile(
            "Fragmentation", f"{measures['fragmentation (% of GPUs)']:.1f} %", "free GPUs the workload can't use"
        ),
    ]
    if made.total:
        tiles.append(page.Tile("Gang success", units.percent(made.success, 0), success))
    if best:
        tiles.append(page.Tile("Predicted bandwidth", f"{best:.0f} %", "of the best placement, mean over gangs"))
    return tiles


def _map(run: scenario.Run, several: bool) -> page.Drawing:
    name = f"{run.outcome.policy}: " if several else ""
    when = units.duration(run.busiest_s)
    return page.Drawing(f"{name}the fleet at its busiest, after {when}", fleetmap.draw(run.busiest), wide=True)


def drawings(runs: Sequence[scenario.Run]) -> dict[str, page.Drawing]:
    """Return the curves by the name of their file."""
    parts = {
        "utilisation": ("GPUs in use", "allocated_gpus", "GPUs in use (%)", 100.0),
        "fragmentation": ("Fragmentation", "fragmented_gpus", "GPUs free but unusable (%)", None),
        "queue": ("Queue length", "waiting", "gangs waiting", None),
    }
    made = {
        name: page.Drawing(title, plots.over_time(name, figures.curves(runs, part, part != "waiting"), label, top))
        for name, (title, part, label, top) in parts.items()
    }
    waits = plots.distribution("waits", figures.wait_curves(runs), "wait before the start, summed over restarts")
    made["waits"] = page.Drawing("Waits", waits)
    groups, series = runsheets.bandwidth_bars(runs)
    if groups:
        svg = plots.bars("bandwidth", groups, series, "share of the best (%)", "GPUs of the job")
        made["bandwidth"] = page.Drawing("Predicted bandwidth by job size", svg)
    return made


def _curves(runs: Sequence[scenario.Run]) -> tuple[page.Block, ...]:
    made = drawings(runs)
    names = (
        ("utilisation", "fragmentation", "queue")
        if len(runs) > 1
        else ("utilisation", "fragmentation", "queue", "waits")
    )
    return tuple(made[name] for name in (*names, *(("bandwidth",) if len(runs) > 1 and "bandwidth" in made else ())))


def _waiting(runs: Sequence[scenario.Run]) -> tuple[page.Block, ...]:
    """Return the tables on waiting, policy by policy."""
    blocks: list[page.Block] = []
    for run in runs:
        own = [
            runsheets.waits_by_size(run.outcome),
            runsheets.waits_by_tenant(run.outcome),
            runsheets.waits_by_type(run.outcome),
            runsheets.reasons_sheet(run),
            runsheets.longest_sheet(run),
            runsheets.blocked_sheet(run),
        ]
        name = f"{run.outcome.policy}: " if len(runs) > 1 else ""
        blocks += [each.titled(name + each.title) for each in own if each.rows]
    return tuple(blocks)


def _gangs(runs: Sequence[scenario.Run]) -> tuple[page.Block, ...]:
    made = drawings(runs)
    blocks: list[page.Block] = [made["bandwidth"]] if "bandwidth" in made and len(runs) == 1 else []
    blocks.append(runsheets.gang_sheet(runs))
    for run in runs:
        name = f"{run.outcome.policy}: " if len(runs) > 1 else ""
        own = runsheets.bandwidth_by_size(run.outcome)
        blocks.append(own.titled(name + own.title))
    return tuple(block for block in blocks if not isinstance(block, sheet.Sheet) or block.rows)
