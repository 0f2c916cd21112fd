"""Fit latencies and efficiencies of collectives to measured times: ``python -m simulator.runtime_fit FOLDER``.

Prints the YAML that is committed as ``collectives.yaml``. The measurements are those of Vidur (MIT): CSV files of
all-reduce and send/recv times by size, workers and devices per node.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray
from scipy import optimize

Floats = NDArray[np.float64]

LARGE_BYTES = 1 << 20
BINS_PER_DOUBLING = 2
"""Medians of log-spaced bins are fitted, so that the many large sizes do not outvote the small ones."""

LOOSENESS = 0.1
"""Relative error above which a bin counts less (soft L1)."""

NOMINAL_MB_S = {
    ("a100", "nvlink"): 300_000,  # 12 links x 25 GB/s, through NVSwitch or bridges
    ("h100", "nvlink"): 478_116,  # 18 links x 26.562 GB/s through NVSwitch
    ("h100 pair", "nvlink"): 318_744,  # 12 links x 26.562 GB/s over bridges
    ("a100", "pcie"): 24_000,  # generation 4 x16, as scheduler.snapshot.wiring counts it
    ("h100", "pcie"): 48_000,  # generation 5 x16
    ("h100", "network"): 50_000,  # one 400 Gb/s NIC per GPU: an assumption, the files do not name the network
}


@dataclass(frozen=True, slots=True)
class Group:
    """Measurements of one collective on one set of GPUs.

    Attributes
    ----------
    link : str
        Class of the slowest link in the ring; "" when the group is not used.
    unused : str
        Why the group takes no part in the fit, "" when it does.
    """

    source: str
    architecture: str
    collective: str
    gpus: int
    gpus_per_node: int
    link: str
    nominal_mb_s: int
    unused: str
    message_bytes: Floats
    time_us: Floats

    @property
    def traffic(self) -> float:
        """Return the bytes that each GPU sends for each byte of the message."""
        return 2 * (self.gpus - 1) / self.gpus if self.collective == "all_reduce" else 1.0


def read(folder: Path) -> list[Group]:
    """Read every profile below a folder.

    Raises
    ------
    FileNotFoundError
        There are none.
    """
    files = sorted(folder.glob("*/*.csv"))
    if not files:
        raise FileNotFoundError(f"{folder}: no */*.csv with collective profiles")
    return [group for path in files for group in _groups(path)]


def _groups(path: Path) -> Iterator[Group]:
    """Split a file by workers and devices per node."""
    frame = pl.read_csv(path)
    machine, collective = path.parent.name, path.stem
    time = f"time_stats.{collective}.median"
    for (gpus, per_node), rows in sorted(frame.group_by("num_workers", "devices_per_node"), key=lambda item: item[0]):
        link, nominal, unused = _judge(machine, collective, int(str(gpus)), int(str(per_node)))
        yield Group(
            source=f"{machine}/{collective}",
            architecture={"a100": "Ampere", "h100": "Hopper"}[machine[:4]],
            collective=collective,
            gpus=int(str(gpus)),
            gpus_per_node=int(str(per_node)),
            link=link,
            nominal_mb_s=nominal,
            unused=unused,
            message_bytes=rows["size"].to_numpy().astype(np.float64),
            time_us=rows[time].to_numpy().astype(np.float64) * 1000,
        )


def _judge(machine: str, collective: str, gpus: int, per_node: int) -> tuple[str, int, str]:
    """Return link class and nominal bandwidth of a group, or why it is not used.

    Notes
    -----
    Judged by eye on plots of bus bandwidth over size.
    """
    chip, pairs = machine[:4], "pairwise" in machine
    if collective == "send_recv":
        if pairs and chip == "h100":
            return "", 0, "the file is byte for byte that of the A100 pairs"
        if pairs and per_node == 1:
            return "", 0, "bandwidth falls from 8 to 2 GB/s with size: a network that others used"
        if per_node == 1 and chip == "h100":
            return "network", NOMINAL_MB_S["h100", "network"], ""
        return "", 0, "point to point, not a ring"
    if per_node < gpus:
        if per_node == 1:
            return "network", 0, ""
        return "", 0, "NCCL changes algorithm among the sizes measured: bandwidth jumps by a factor of two"
    if pairs and gpus > 2:
        return "pcie", NOMINAL_MB_S[chip, "pcie"], ""
    return "nvlink", NOMINAL_MB_S["h100 pair" if pairs and chip == "h100" else chip, "nvlink"], ""


def medians(group: Group) -> tuple[Floats, Floats]:
    """Return sizes and times of log-spaced bins."""
    bins = np.floor(np.log2(group.message_bytes) * BINS_PER_DOUBLING).astype(np.int64)
    kept = [bins == number for number in np.unique(bins)]
    sizes = [float(np.median(group.message_bytes[rows])) for rows in kept]
    return np.array(sizes), np.array([float(np.median(group.time_us[rows])) for rows in kept])


def alpha_beta(groups: Sequence[Group], nominal_mb_s: Sequence[float]) -> tuple[float, float]:
    """Fit one latency, in us, and one efficiency to groups of different nominal bandwidth."""
    binned = [medians(group) for group in groups]

    def residuals(point: Floats) -> Floats:
        latency, efficiency = np.exp(point)
        predicted = [
            latency + group.traffic * sizes / (efficiency * nominal)
            for group, nominal, (sizes, _) in zip(groups, nominal_mb_s, binned, strict=True)
        ]
        measured = np.concatenate([times for _, times in binned])
        return np.asarray(np.log(np.concatenate(predicted) / measured), dtype=np.float64)

    start = np.log([30.0, 0.7])
    fitted = optimize.least_squares(residuals, start, loss="soft_l1", f_scale=LOOSENESS, xtol=1e-12, ftol=1e-12)
    latency, efficiency = np.exp(fitted.x).tolist()
    return float(latency), float(efficiency)


def errors(group: Group, latency_us: float, mb_s: float) -> dict[str, float]:
    """Return the relative errors of a fit over the raw samples of at least 1 MiB."""
    large = group.message_bytes >= LARGE_BYTES
    predicted = latency_us + group.traffic * group.message_bytes[large] / mb_s
    relative = np.abs(predicted / group.time_us[large] - 1)
    return {"median": round(float(np.median(relative)), 3), "p90": round(float(np.percentile(relative, 90)), 3)}


def fit(groups: Sequence[Group]) -> dict[str, Any]:
    """Return the document that is committed: link classes by architecture, and the evidence."""
    architectures: dict[str, dict[str, dict[str, Any]]] = {}
    between = [g for g in groups if g.link == "network" and not g.unused]
    for architecture in sorted({g.architecture for g in groups}):
        own = [g for g in groups if g.architecture == architecture]
        architectures[architecture] = {link: _class(own, link) for link in ("nvlink", "pcie")}
        architectures[architecture]["network"] = _network(between)
    return {
        "provenance": "Vidur's network profiles (github.com/microsoft/vidur, MIT), fitted by simulator.runtime_fit",
        "architectures": architectures,
        "groups": [_evidence(group) for group in groups],
    }


def _class(groups: Sequence[Group], link: str) -> dict[str, Any]:
    """Fit one link class of one architecture; its errors are those of the group that fits worst."""
    used = [g for g in groups if g.link == link and not g.unused]
    latency, efficiency = alpha_beta(used, [g.nominal_mb_s for g in used])
    apart = [errors(g, latency, efficiency * g.nominal_mb_s) for g in used]
    worst = max(apart, key=lambda row: row["median"])
    return {"latency_us": round(latency, 2), "efficiency": round(efficiency, 4), "worst_error_from_1_mib": worst}


def _network(groups: Sequence[Group]) -> dict[str, Any]:
    """Take the latency from all-reduce between two nodes, the efficiency from the network whose speed is known.

    One for all architectures: only one all-reduce with one GPU on each of two nodes was measured.
    """
    reduce = [g for g in groups if g.collective == "all_reduce"]
    known = [g for g in groups if g.nominal_mb_s]
    latency, _ = alpha_beta(reduce, [1.0] * len(reduce))
    _, efficiency = alpha_beta(known, [g.nominal_mb_s for g in known])
    return {"latency_us": round(latency, 2), "efficiency": round(efficiency, 4)}


def _evidence(group: Group) -> dict[str, Any]:
    """Return a group's own fit and how well it fits."""
    latency, mb_s = alpha_beta([group], [1.0])
    row: dict[str, Any] = {
        "source": group.source,
        "gpus": group.gpus,
        "gpus_per_node": group.gpus_per_node,
        "samples": len(group.time_us),
        "latency_us": round(latency, 1),
        "gb_s": round(mb_s / 1000, 1),
        "error_from_1_mib": errors(group, latency, mb_s),
    }
    return row | ({"unused": group.unused} if group.unused else {"link": group.link})


def main(arguments: Sequence[str]) -> int:
    """Print the fit of the profiles in a folder."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m simulator.runtime_fit FOLDER > simulator/collectives.yaml\n")
        return 2
    yaml.safe_dump(fit(read(Path(arguments[0]))), sys.stdout, sort_keys=False, width=120)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
