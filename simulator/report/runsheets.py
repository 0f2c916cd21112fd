"""An outcome as tables: waits by size and tenant, gangs, bandwidth, reasons."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from simulator import metrics, outcome, scenario
from simulator.report import figures, sheet, units, words

SHOWN = 10


def headline(run: scenario.Run) -> sheet.Sheet:
    """Return the key figures of a run."""
    found, measures = run.outcome, figures.measures(run.outcome)
    waits = ", ".join(f"p{p} {units.duration(measures[f'wait, p{p} (s)'])}" for p in (50, 90, 99))
    fate = {state: int((found.jobs.state == state).sum()) for state in outcome.State}
    told = ", ".join(f"{units.count(n)} {state.name.lower()}" for state, n in fate.items() if n)
    rows = [
        ("result", f"PARTIAL: {found.partial}" if found.partial else "whole"),
        ("jobs", f"{units.count(len(found.trace))}: {told}"),
        ("wait", f"{waits}, mean {units.duration(measures['wait, mean (s)'])}"),
        ("bounded slowdown, mean", f"{measures['bounded slowdown, mean']:.2f}"),
        ("utilisation while jobs arrive", f"{measures['utilisation (%)']:.1f} %"),
        ("goodput", f"{measures['goodput (%)']:.1f} % of GPU time in service was useful work, to the end"),
        ("fragmentation", f"{measures['fragmentation (% of GPUs)']:.1f} % of GPUs free but unusable"),
        ("predicted bandwidth", f"{measures['bandwidth (% of the best)']:.1f} % of the best possible"),
        ("makespan", units.duration(measures["makespan (s)"])),
    ]
    if found.evictions:
        causes = ", ".join(f"{units.count(n)} {name}" for name, n in found.evictions.items())
        rows.append(("evictions", f"{causes}; {measures['GPU-hours lost']:,.1f} GPU-hours lost"))
        rows.append(
            ("effective training time", f"{measures['effective training time (%)']:.1f} % since the first starts")
        )
    fleet = f"{units.count(len(found.topology.nodes))} nodes, {units.count(found.topology.total_gpus)} GPUs"
    return sheet.sheet(f"{found.trace.name} on {fleet}, policy {found.policy}", "<figure|<value", rows)


def waits_by_size(found: outcome.Outcome) -> sheet.Sheet:
    """Return wait percentiles by GPUs of the job."""
    size, there = figures.sizes(found.trace), figures.submitted(found)
    groups = [
        (_size_label(low, high), there & (size >= low) & (size <= high)) for low, high in figures.bins(size[there])
    ]
    return _waits("Wait by job size", "<GPUs", found, groups)


def waits_by_tenant(found: outcome.Outcome) -> sheet.Sheet:
    """Return wait percentiles by tenant, the largest first."""
    there = figures.submitted(found)
    counts = np.bincount(found.trace.tenant[there], minlength=len(found.trace.tenants))
    order = [t for t in np.argsort(-counts, kind="stable").tolist() if counts[t]]
    groups = [(found.trace.tenants[t], there & (found.trace.tenant == t)) for t in order[: 2 * SHOWN]]
    note = f"The {2 * SHOWN} largest of {len(order)} tenants." if len(order) > 2 * SHOWN else ""
    return _waits("Wait by tenant", "<tenant", found, groups, note) if len(order) > 1 else _none("Wait by tenant")


def waits_by_type(found: outcome.Outcome) -> sheet.Sheet:
    """Return wait percentiles by the GPU type that jobs ask for."""
    there = figures.submitted(found)
    groups = [(name, there & rows) for name, rows in metrics.by_type(found.trace).items() if (there & rows).any()]
    note = f"The {2 * SHOWN} most frequent of {len(groups)} types." if len(groups) > 2 * SHOWN else ""
    title = "Wait by GPU type asked for"
    return _waits(title, "<type", found, groups[: 2 * SHOWN], note) if len(groups) > 1 else _none(title)


def _size_label(low: int, high: int) -> str:
    return "none" if high == 0 else str(high) if low == high else f"{low}-{high}"


def _waits(
    title: str, first: str, found: outcome.Outcome, groups: Sequence[tuple[str, figures.Rows]], note: str = ""
) -> sheet.Sheet:
    rows = []
    for name, group in groups:
        wait = found.jobs.wait_s[group]
        marks = np.percentile(wait, (50, 90, 99)) if len(wait) else np.zeros(3)
        waited = float((wait > 0).mean()) if len(wait) else 0.0
        times = [units.duration(float(mark)) for mark in (*marks, wait.max(initial=0.0))]
        rows.append((name, units.count(len(wait)), units.percent(waited, 0), *times))
    return sheet.sheet(title, f"{first}|jobs|waited|p50|p90|p99|longest", rows, note)


def _none(title: str) -> sheet.Sheet:
    return sheet.sheet(title, "<", [])


def bandwidth_by_size(found: outcome.Outcome) -> sheet.Sheet:
    """Return predicted collective bandwidth of jobs of several whole GPUs, and how tightly they were placed."""
    jobs, size = found.jobs, figures.sizes(found.trace)
    known = (jobs.starts > 0) & (jobs.reference_mb_s > 0) & (jobs.bandwidth_mb_s > 0)
    rows = []
    for low, high in figures.bins(size[known]) if known.any() else []:
        group = known & (size >= low) & (size <= high)
        best = (jobs.bandwidth_mb_s[group] >= jobs.reference_mb_s[group]).mean()
        cells = [units.bandwidth(float(c[group].mean())) for c in (jobs.bandwidth_mb_s, jobs.reference_mb_s)]
        share = units.percent(figures.share_of_best(found, group))
        rows.append(
            (
                _size_label(low, high),
                units.count(int(group.sum())),
                *cells,
                share,
                units.percent(best),
                _level(found, group),
            )
        )
    return sheet.sheet(
        "Predicted collective bandwidth",
        "<GPUs|jobs|mean|best possible|share of best|got the best|<in one",
        rows,
        "Bus bandwidth of a ring over all GPUs of the job; the best is that of the same gang on the empty fleet.",
    )


def _level(found: outcome.Outcome, group: figures.Rows) -> str:
    """Write the levels of the tightest common domains, most frequent first."""
    levels = found.topology.tree.levels
    counts = Counter(levels[level] for level in found.jobs.level[group].tolist())
    return ", ".join(f"{name} {units.percent(n / int(group.sum()), 0)}" for name, n in counts.most_common(3))


def gang_sheet(runs: Sequence[scenario.Run]) -> sheet.Sheet:
    """Return what became of the gangs, a row per policy."""
    rows = []
    for run in runs:
        made = figures.gangs(run.outcome)
        cells = (made.total, made.whole, made.reduced, made.refused, made.waiting, made.unexplained)
        rows.append((run.outcome.policy, *map(units.count, cells), units.percent(made.success)))
    return sheet.sheet(
        "Gangs of several pods",
        "<policy|gangs|placed whole|at reduced size|refused|waiting|unexplained|success",
        rows if any(figures.gangs(run.outcome).total for run in runs) else [],
        "Success: placed whole (or at the size that the gang allows), or refused or kept waiting with a true reason.",
    )


def reasons_sheet(run: scenario.Run) -> sheet.Sheet:
    """Return why jobs had to wait or were refused, with words."""
    found = run.outcome
    first = Counter(waited.reason for waited in run.waited.values())
    now = Counter(refused.reason.value for refused in found.refusals.values())
    order = sorted({*first, *now}, key=lambda name: (-first[name], -now[name], name))
    rows = [(name, words.by_name(name), units.count(first[name]), units.count(now[name])) for name in order]
    return sheet.sheet("Why jobs had to wait", "<reason|<which means|waited first for it|blocked at the end", rows)


def blocked_sheet(run: scenario.Run) -> sheet.Sheet:
    """Return jobs that never started, with the constraint that blocked each and the nearest domain."""
    found, size = run.outcome, figures.sizes(run.outcome.trace)
    rows = []
    for row, refused in sorted(found.refusals.items())[:SHOWN]:
        fate = "refused" if found.jobs.state[row] == outcome.State.REJECTED else "waiting"
        rows.append((str(found.trace.names[row]), str(size[row]), fate, str(refused)))
    note = f"The first {SHOWN} of {len(found.refusals)}." if len(found.refusals) > SHOWN else ""
    return sheet.sheet("Jobs that did not run", "<job|GPUs|<fate|<why", rows, note)


def longest_sheet(run: scenario.Run) -> sheet.Sheet:
    """Return the jobs that waited longest and what each waited for first."""
    found, size = run.outcome, figures.sizes(run.outcome.trace)
    order = np.argsort(-found.jobs.wait_s, kind="stable")[:SHOWN]
    rows = []
    for row in order.tolist():
        if found.jobs.wait_s[row] <= 0:
            break
        name = str(found.trace.names[row])
        why = run.waited[name].says if name in run.waited else _unsaid(run)
        rows.append((name, str(size[row]), units.duration(float(found.jobs.wait_s[row])), why))
    return sheet.sheet("Longest waits", "<job|GPUs|wait|<what it first waited for", rows)


def _unsaid(run: scenario.Run) -> str:
    """Say why there is no reason."""
    if not run.reasoned:
        return "compiled code keeps no reasons: see muster-sim explain, or replay with --backend numpy"
    return "it was evicted and queued again"


def bandwidth_bars(runs: Sequence[scenario.Run]) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Return the share of the best bandwidth, per cent, by job size and policy."""
    known = [run.outcome.jobs.reference_mb_s > 0 for run in runs]
    several = np.concatenate([figures.sizes(run.outcome.trace)[rows] for run, rows in zip(runs, known, strict=True)])
    groups = figures.bins(several) if len(several) else []
    series = []
    for run, rows in zip(runs, known, strict=True):
        size = figures.sizes(run.outcome.trace)
        parts = [rows & (size >= low) & (size <= high) for low, high in groups]
        series.append((run.outcome.policy, [100 * figures.share_of_best(run.outcome, part) for part in parts]))
    return [_size_label(low, high) for low, high in groups], series
