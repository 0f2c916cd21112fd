"""The openb packing study: policies by workloads by seeds, beside the published table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scheduler.model import fabric
from scheduler.placement import policy
from simulator import compare, inflation, published, workers
from simulator.fleet import load as fleets
from simulator.report import sheet
from simulator.trace import load as traces

NODE_LIST = "openb_node_list_gpu_node.csv"
LOADS = (100, 130)


@dataclass(slots=True)
class Study:
    """Results so far.

    Attributes
    ----------
    unallocated : dict of (workload, policy) to list of ndarray, shape (131,)
        Unallocated GPU in per cent by arrived load, one entry per seed in the order of `seeds`.
    refused : dict of (workload, policy) to list of ndarray, shape (7,)
        Refused pods per kind, in the order of `inflation.KINDS`.
    partial : str
        "" for a whole study; otherwise why it has fewer seeds than were asked for.
    """

    seeds: tuple[int, ...]
    workloads: tuple[str, ...]
    policies: tuple[str, ...]
    unallocated: dict[tuple[str, str], list[NDArray[np.float64]]] = field(default_factory=dict)
    refused: dict[tuple[str, str], list[NDArray[np.int64]]] = field(default_factory=dict)
    partial: str = ""

    def at(self, workload: str, name: str, load: int) -> list[float]:
        """Return the unallocated GPU at one load, per seed."""
        return [float(run[load]) for run in self.unallocated.get((workload, name), [])]

    def cells(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs of workload and policy in the order of the tables."""
        for workload in self.workloads:
            for name in self.policies:
                yield workload, name


Figures = list[tuple[NDArray[np.float64], NDArray[np.int64]]]
"""Of one workload and seed: unallocated GPUs by load, and refused pods by kind, per policy."""


@dataclass(slots=True, eq=False)
class Runner:
    """Makes the runs of one workload and seed under every policy; what is compiled for a workload is kept."""

    fleet: fabric.Fabric
    works: dict[str, inflation.Workload]
    policies: tuple[policy.ScoringPolicy, ...]
    _made: dict[str, list[inflation.Experiment]] = field(default_factory=dict)

    def __call__(self, item: tuple[int, str], stopped: workers.Stopped) -> Figures | None:
        """Run one seed on one workload; None when it was stopped before the last policy."""
        seed, name = item
        if name not in self._made:
            self._made[name] = [inflation.experiment(self.fleet, self.works[name], each) for each in self.policies]
        found = []
        for each in self._made[name]:
            if stopped():
                return None
            run = each.run(seed)
            found.append((run.unallocated(), run.refused))
        return found


def run(
    folder: Path,
    policies: Sequence[policy.ScoringPolicy],
    seeds: Sequence[int],
    workloads: Sequence[str] = (),
    progress: Callable[[str], object] = str,
    count: int = 1,
    stopped: workers.Stopped = workers.never,
) -> Study:
    """Run the study; `progress` is told after every seed and workload what was just done.

    Parameters
    ----------
    count : int
        Worker processes; the result is the same for every number.
    stopped : callable
        Asked between two runs. When it says so, the study keeps the seeds that all workloads have, and is partial.

    Raises
    ------
    TraceError, FleetError
        The folder lacks the node list or a pod list, or one of them is malformed.
    """
    lists = published.pod_lists(folder)
    chosen = tuple(workloads) or tuple(lists)
    unknown = [name for name in chosen if name not in lists]
    if unknown:
        raise ValueError(f"{folder}: no pod list of workload {unknown[0]}; there are {', '.join(lists)}")
    fleet = fleets.read(str(folder / NODE_LIST))
    runner = Runner(fleet, {name: inflation.workload(traces.read(lists[name])) for name in chosen}, tuple(policies))
    items = [(seed, name) for seed in seeds for name in chosen]
    found: list[Figures] = []
    for (seed, name), each in zip(items, workers.answers(runner, items, count, stopped), strict=True):
        if each is None:
            break
        found.append(each)
        progress(f"seed {seed}, {name}")
    return _gathered(Study(tuple(seeds), chosen, tuple(p.metadata.name for p in policies)), found)


def _gathered(study: Study, found: Sequence[Figures]) -> Study:
    """Put the figures in their places; a seed that lacks a workload is left out."""
    done = len(found) // len(study.workloads)
    if done < len(study.seeds):
        study.partial = f"interrupted when {done} of {len(study.seeds)} seeds were done"
        study.seeds = study.seeds[:done]
    for column, workload in enumerate(study.workloads):
        runs = found[column : done * len(study.workloads) : len(study.workloads)]
        for row, name in enumerate(study.policies):
            study.unallocated[workload, name] = [each[row][0] for each in runs]
            study.refused[workload, name] = [each[row][1] for each in runs]
    return study


def samples(study: Study) -> dict[published.Key, list[float]]:
    """Return the figures of the loads that are shown, by workload, policy and load."""
    return {(w, p, load): study.at(w, p, load) for w, p in study.unallocated for load in LOADS}


def cut(study: Study, ours: str, baseline: str, load: int, workload: str) -> tuple[float, compare.Interval]:
    """Return the share of the baseline's unallocated GPUs that `ours` saves, per cent, with its paired interval."""
    base = study.at(workload, baseline, load)
    saved = compare.paired(base, study.at(workload, ours, load))
    mean = sum(base) / len(base)
    return 100 * saved.mean / mean, compare.Interval(100 * saved.mean / mean, 100 * saved.half_width / mean, saved.n)


def mean_cut(study: Study, ours: str, baseline: str, load: int) -> compare.Interval:
    """Return the cut of the mean over the workloads: per seed over all workloads, then paired over seeds."""
    base = np.mean([study.at(w, baseline, load) for w in study.workloads], axis=0)
    own = np.mean([study.at(w, ours, load) for w in study.workloads], axis=0)
    return compare.interval((100 * (base - own) / base.mean()).tolist())


def sheets(study: Study, table: Mapping[published.Key, published.Cell], baseline: str = "fgd") -> list[sheet.Sheet]:
    """Return every table of the study."""
    made = [_figures(study, load) for load in LOADS]
    if table:
        made += [_deviations(study, table, load) for load in LOADS]
        made.append(_conformance(study, table))
    others = [name for name in study.policies if name not in published.POLICIES.values()]
    if baseline in study.policies:
        made += [_cuts(study, name, baseline) for name in others]
    return [*made, refusals(study, [*([baseline] if baseline in study.policies else []), *others])]


def _figures(study: Study, load: int) -> sheet.Sheet:
    rows = []
    for workload in study.workloads:
        means = [_mean(study.at(workload, name, load)) for name in study.policies]
        rows.append((workload, *(f"{m:.2f}" for m in means)))
    best = tuple((r, 1 + min(range(len(row) - 1), key=lambda c: float(row[c + 1]))) for r, row in enumerate(rows))
    mark = f"PARTIAL ({study.partial}): " if study.partial else ""
    title = f"{mark}Unallocated GPU (%) at {load} % arrived load, mean of {len(study.seeds)} seeds"
    made = sheet.sheet(title, "|".join(("<workload", *study.policies)), rows)
    return sheet.Sheet(made.title, made.columns, made.rows, best=best)


def _deviations(study: Study, table: Mapping[published.Key, published.Cell], load: int) -> sheet.Sheet:
    names = [name for name in study.policies if name in published.POLICIES.values()]
    rows = []
    for workload in study.workloads:
        gaps = [_gap(study, table, (workload, name, load)) for name in names]
        rows.append((workload, *("-" if gap is None else f"{gap:+.2f}" for gap in gaps)))
    return sheet.sheet(f"Ours minus published (points) at {load} %", "|".join(("<workload", *names)), rows)


def _gap(study: Study, table: Mapping[published.Key, published.Cell], key: published.Key) -> float | None:
    return _mean(study.at(*key)) - table[key].mean if key in table else None


def _conformance(study: Study, table: Mapping[published.Key, published.Cell]) -> sheet.Sheet:
    """Return the largest deviation of every published policy and whether it is within the tolerance."""
    ours, rows = samples(study), []
    for name in study.policies:
        told = {load for _, policy_name, load in table if policy_name == name}
        for load in [load for load in LOADS if load in told]:
            gap, where = published.largest_deviation(ours, table, name, load)
            verdict = "within" if abs(gap) <= published.TOLERANCE[name] else "OUTSIDE"
            rows.append((name, f"{load} %", f"{gap:+.3f}", where, f"{published.TOLERANCE[name]:.2f}", verdict))
    return sheet.sheet(
        "Conformance: largest deviation of a mean",
        "<policy|load|points|<workload|tolerance|<verdict",
        rows,
        "Node list gpu_node, tuning ratio 1.3, no departures; arrival rounded to whole per cent.",
    )


def _cuts(study: Study, ours: str, baseline: str) -> sheet.Sheet:
    rows = []
    for load in LOADS:
        for workload in study.workloads:
            share, _ = cut(study, ours, baseline, load, workload)
            own, base = study.at(workload, ours, load), study.at(workload, baseline, load)
            difference = compare.paired(own, base).words(with_n=False)
            rows.append(
                (workload, f"{load} %", f"{_mean(base):.2f}", f"{_mean(own):.2f}", difference, f"{share:.1f} %")
            )
        whole = mean_cut(study, ours, baseline, load)
        base_mean = _mean([_mean(study.at(w, baseline, load)) for w in study.workloads])
        own_mean = _mean([_mean(study.at(w, ours, load)) for w in study.workloads])
        gap = f"{own_mean - base_mean:+.2f}"
        rows.append(("mean of all", f"{load} %", f"{base_mean:.2f}", f"{own_mean:.2f}", gap, f"{whole.mean:.1f} %"))
    head = f"<workload|load|{baseline}|{ours}|<difference [95 % interval]|cut"
    return sheet.sheet(f"{ours} against {baseline}: unallocated GPU (%), paired seeds", head, rows)


def refusals(study: Study, names: Sequence[str]) -> sheet.Sheet:
    """Return refused pods per kind, mean over the seeds; kinds that no workload has are left out."""
    cells = [(w, p) for w, p in study.cells() if p in names and (w, p) in study.refused]
    means = {cell: np.mean(study.refused[cell], axis=0) for cell in cells}
    used = [k for k in range(len(inflation.KINDS)) if any(m[k] > 0 for m in means.values())]
    rows = [(w, p, *(f"{means[w, p][k]:.0f}" for k in used)) for w, p in cells]
    head = "|".join(("<workload", "<policy", *(inflation.KINDS[k] for k in used)))
    return sheet.sheet(
        "Refused pods per kind, mean of the seeds", head, rows, "At the end of a run, 130 % arrived load."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
