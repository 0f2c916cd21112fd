"""What a trace holds, as tables."""

from simulator.report import sheet, units
from simulator.trace import job, summary


def sheets(trace: job.Trace, fleet_gpus: int = 0) -> list[sheet.Sheet]:
    """Return the figures of a trace; with the size of a fleet also the load that the trace offers to it."""
    made = summary.summarise(trace)
    return [_whole(made, fleet_gpus), _gangs(made), _tenants(made)]


def _whole(made: summary.Summary, fleet_gpus: int) -> sheet.Sheet:
    rows = [
        ("jobs", units.count(made.jobs)),
        ("pods", units.count(made.pods)),
        ("kinds", ", ".join(f"{units.count(n)} {kind}" for kind, n in made.kinds)),
        ("GPU-hours", units.count(round(made.gpu_hours))),
        ("span of arrivals", units.duration(made.span_s)),
        ("run time", ", ".join(f"p{p} {units.duration(s)}" for p, s in made.duration_s)),
        ("between arrivals", ", ".join(f"p{p} {units.duration(s)}" for p, s in made.between_s)),
        ("burstiness (CV of gaps)", f"{made.arrival_cv:.2f}"),
    ]
    if fleet_gpus:
        rows.append((f"load offered to {units.count(fleet_gpus)} GPUs", units.percent(made.offered_load(fleet_gpus))))
    rows.append(("sha256", made.sha256))
    return sheet.sheet(made.name, "<figure|<value", rows)


def _gangs(made: summary.Summary) -> sheet.Sheet:
    """Count jobs by size; many sizes are folded into powers of two."""
    folded: dict[str, tuple[int, float]] = {}
    for gpus, jobs, hours in made.gangs:
        label = str(gpus) if len(made.gangs) <= 14 or gpus <= 1 else _span(gpus)
        had = folded.get(label, (0, 0.0))
        folded[label] = (had[0] + jobs, had[1] + hours)
    total = sum(hours for _, hours in folded.values()) or 1.0
    rows = [(k, units.count(n), units.count(round(h)), units.percent(h / total)) for k, (n, h) in folded.items()]
    return sheet.sheet("Jobs by size", "<GPUs|jobs|GPU-hours|share of GPU-hours", rows)


def _span(gpus: int) -> str:
    high = 1 << (gpus - 1).bit_length()
    return f"{high // 2 + 1}-{high}" if high > 2 else "2"


def _tenants(made: summary.Summary) -> sheet.Sheet:
    shown = made.tenants[:20] if len(made.tenants) > 1 else ()
    rows = [(name, units.count(jobs), units.count(round(hours))) for name, jobs, hours in shown]
    note = f"The 20 largest of {len(made.tenants)}." if len(made.tenants) > len(shown) > 1 else ""
    return sheet.sheet("Tenants", "<tenant|jobs|GPU-hours", rows, note)
