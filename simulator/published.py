"""The published result table of the openb packing experiment, read from its CSV and compared with ours.

Columns: ``workload, sc_policy, <load>_mean, <load>_std``: unallocated GPU in per cent at an arrived load in per cent,
mean and standard deviation over ten seeds, as in the result files of the FGD study (ATC'23).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.trace import job, table

POLICIES = {
    "01-Random": "random",
    "02-DotProd": "dot-product",
    "03-GpuClustering": "clustering",
    "04-GpuPacking": "packing",
    "05-BestFit": "best-fit",
    "06-FGD": "fgd",
}
"""Our policy of the same rule, by the name in the result files."""

TOLERANCE = {"fgd": 0.15, "best-fit": 0.15, "random": 0.5, "dot-product": 0.5, "clustering": 0.5, "packing": 0.5}
"""Points by which our mean over ten seeds may differ: three standard errors of the noisiest workload, rounded up."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Mean and standard deviation of one workload, policy and load."""

    mean: float
    std: float


Key = tuple[str, str, int]
"""Workload, our policy name, arrived load in per cent."""


def read(path: Path) -> dict[Key, Cell]:
    """Read the published table.

    Raises
    ------
    TraceError
        A missing column, an unknown policy, a cell that is no percentage.
    """
    source = table.read(path)
    loads = sorted(int(m[1]) for c in source.frame.columns if (m := re.fullmatch(r"(\d+)_mean", c)))
    source.need(["workload", "sc_policy", *(f"{load}_{kind}" for load in loads for kind in ("mean", "std"))])
    workloads, names = source.text("workload"), source.text("sc_policy")
    for row, name in enumerate(names):
        if name not in POLICIES:
            raise source.error(row, "sc_policy", "unknown policy", f"known are {', '.join(POLICIES)}")
    cells: dict[Key, Cell] = {}
    for load in loads:
        means = source.numbers(f"{load}_mean", 0.0, 100.0)
        spreads = source.numbers(f"{load}_std", 0.0, 100.0)
        for row, (workload, name) in enumerate(zip(workloads, names, strict=True)):
            key = (workload, POLICIES[name], load)
            if key in cells:
                raise source.error(row, "sc_policy", "this workload and policy occur twice", "keep one of the rows")
            cells[key] = Cell(float(means[row]), float(spreads[row]))
    return cells


def workload_name(path: Path) -> str:
    """Return the workload of a pod list: ``openb_pod_list_cpu050.csv`` is ``cpu050``."""
    name = path.stem.removeprefix("openb_pod_list_")
    if name == path.stem or not name:
        raise job.TraceError("not an openb pod list", file=str(path), remedy="name it openb_pod_list_<workload>.csv")
    return name


def pod_lists(folder: Path) -> dict[str, Path]:
    """Return the pod lists of a folder by workload.

    Raises
    ------
    TraceError
        The folder holds none.
    """
    if not folder.is_dir():
        raise job.TraceError("not a folder", file=str(folder), remedy="name the folder that holds openb_pod_list_*.csv")
    found = {workload_name(path): path for path in sorted(folder.glob("openb_pod_list_*.csv"))}
    if not found:
        raise job.TraceError(
            "no openb_pod_list_*.csv here", file=str(folder), remedy="name the folder of the openb lists"
        )
    return found


def largest_deviation(
    ours: Mapping[Key, Sequence[float]], theirs: Mapping[Key, Cell], policy: str, load: int
) -> tuple[float, str]:
    """Return the largest difference of a policy's means at one load, in points, and the workload that has it."""
    gaps = {
        workload: sum(samples) / len(samples) - theirs[workload, name, at].mean
        for (workload, name, at), samples in ours.items()
        if (name, at) == (policy, load) and (workload, name, at) in theirs
    }
    if not gaps:
        raise ValueError(f"no published figure of {policy} at {load} % to compare with")
    worst = max(gaps, key=lambda workload: abs(gaps[workload]))
    return gaps[worst], worst
