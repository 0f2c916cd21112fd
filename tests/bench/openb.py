"""The published packing experiment: conformance, our cut against FGD, and how robust the cut is to each weight."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scheduler import policies
from scheduler.placement import policy
from simulator import inflation, published, study, workers
from tests.bench import figure, inputs

OURS, BASELINE = "muster", "fgd"
CONFORMANCE_SEEDS, PAIRED_SEEDS, SWEEP_SEEDS = 10, 30, 10
QUICK_WORKLOADS = ("default", "gpuspec25", "multigpu40")
FACTORS = {"x2/3": (2, 3), "x4/3": (4, 3)}


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark; studies are made when a figure first asks for them."""

    given: Path | None
    quick: bool

    @functools.cached_property
    def folder(self) -> Path:
        """Return the folder of the openb lists."""
        return inputs.traces(self.given) / "openb"

    @functools.cached_property
    def workloads(self) -> tuple[str, ...]:
        """Return the workloads that are run."""
        return QUICK_WORKLOADS if self.quick else tuple(published.pod_lists(self.folder))

    @functools.cached_property
    def table(self) -> dict[published.Key, published.Cell]:
        """Return the published table."""
        return published.read(self.folder / "published" / "unallocated_gpu_percent.csv")

    def run(self, chosen: Sequence[policy.ScoringPolicy], seeds: int) -> study.Study:
        """Run policies on the workloads."""
        count = 1 if len(chosen) == 1 else workers.default()  # one policy: the tables kept here save more than a core
        return study.run(self.folder, chosen, inflation.seeds(seeds), self.workloads, count=count)

    @functools.cached_property
    def conformance(self) -> study.Study:
        """Return the study of the published policies."""
        names = list(published.POLICIES.values())
        return self.run([policies.load(n) for n in names], 3 if self.quick else CONFORMANCE_SEEDS)

    @functools.cached_property
    def paired(self) -> study.Study:
        """Return the study of our policy and FGD on the same seeds."""
        return self.run([policies.load(n) for n in (BASELINE, OURS)], 5 if self.quick else PAIRED_SEEDS)

    @functools.lru_cache(maxsize=2)  # noqa: B019  a bench object lives as long as the process
    def moved(self, weight: str, factor: str) -> study.Study:
        """Return the study of FGD, our policy, and our policy with one weight moved."""
        up, down = FACTORS[factor]
        ours = policies.load(OURS)
        value = policy.pod_weights(ours)[weight]
        pods = ours.spec.pods.model_copy(
            update={"weights": {**ours.spec.pods.weights, weight: round(value * up / down)}}
        )
        name = ours.metadata.model_copy(update={"name": "moved"})
        other = ours.model_copy(update={"metadata": name, "spec": ours.spec.model_copy(update={"pods": pods})})
        return self.run([other], SWEEP_SEEDS)

    def deviation(self, name: str, load: int) -> tuple[float, str]:
        """Return the largest deviation of a policy from the published means, without sign."""
        gap, where = published.largest_deviation(study.samples(self.conformance), self.table, name, load)
        return abs(gap), f"{where} {gap:+.3f}, {len(self.conformance.seeds)} seeds"

    def cut(self, load: int, workload: str) -> tuple[float, str]:
        """Return the share of FGD's unallocated GPUs that our policy saves on one workload."""
        share, interval = study.cut(self.paired, OURS, BASELINE, load, workload)
        return share, interval.words(1)

    def mean_cut(self, load: int) -> tuple[float, str]:
        """Return the cut of the mean over the workloads."""
        interval = study.mean_cut(self.paired, OURS, BASELINE, load)
        return interval.mean, f"{interval.words(1)}, {len(self.workloads)} workloads"

    def gain_kept(self, weight: str, factor: str, load: int) -> tuple[float, str]:
        """Return the share of the gain that is left on the worst workload when one weight is moved."""
        moved, kept = self.moved(weight, factor), {}
        for workload in self.workloads:
            base = np.mean(self.paired.at(workload, BASELINE, load)[:SWEEP_SEEDS])
            ours = np.mean(self.paired.at(workload, OURS, load)[:SWEEP_SEEDS])
            kept[workload] = 100 * float((base - np.mean(moved.at(workload, "moved", load))) / (base - ours))
        worst = min(kept, key=lambda workload: kept[workload])
        return kept[worst], f"worst on {worst}, {len(moved.seeds)} seeds"

    def refused(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the refused pods per workload, policy and kind, mean over the seeds."""
        made = self.paired
        return {
            workload: {
                name: dict(zip(inflation.KINDS, np.mean(made.refused[workload, name], axis=0).tolist(), strict=True))
                for name in (OURS, BASELINE)
            }
            for workload in self.workloads
        }


def measurements(bench: Bench) -> Iterator[tuple[str, figure.Measurement]]:
    """Yield the figures of the benchmark."""
    for name in published.POLICIES.values():
        for load in study.LOADS:
            yield f"deviation {name} @{load}", functools.partial(bench.deviation, name, load)
    for load in study.LOADS:
        for workload in bench.workloads:
            yield f"cut against fgd @{load}: {workload}", functools.partial(bench.cut, load, workload)
        yield f"mean cut against fgd @{load}", functools.partial(bench.mean_cut, load)
    if bench.quick:
        return
    for weight in policy.pod_weights(policies.load(OURS)):
        for factor in FACTORS:
            for load in study.LOADS:
                name = f"gain kept @{load}: {weight} {factor}"
                yield name, functools.partial(bench.gain_kept, weight, factor, load)
