"""The demonstration: a built-in fleet and workload under our policy and two baselines, as values.

Needs no file and no network: the fleet has five machine types and one NVL72 rack, the workload gangs, shares, MIG
partitions, and two inference pools.
"""

from dataclasses import dataclass

import numpy as np

from scheduler import policies
from scheduler.model import export, fabric
from scheduler.placement import policy
from simulator import runtime, scenario
from simulator.fleet import load as fleets
from simulator.report import provenance
from simulator.trace import job, samples, synthetic

FLEET = "demo"
POLICIES = ("muster", "kueue-tas-best-fit", "dra-first-fit")
JOBS = 800
SEEDS = (0, 1, 2)
RUNTIME = "collectives"
TITLE = "Muster demonstration"


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    """Fleet and policies; the workload is drawn anew for every seed."""

    fleet: fabric.Fabric
    policies: tuple[policy.ScoringPolicy, ...]
    jobs: int = JOBS

    def trace(self, seed: int) -> job.Trace:
        """Draw the workload."""
        return synthetic.generate(samples.demo(self.jobs), np.random.default_rng(seed))

    def scenario(self, chosen: policy.ScoringPolicy, seed: int) -> scenario.Scenario:
        """Return one policy's scenario: the same jobs for every policy of a seed."""
        trace = self.trace(seed)
        expected = scenario.target_of(trace)
        return scenario.Scenario(trace, self.fleet, chosen, expected, runtime=runtime.by_name(RUNTIME), seed=seed)

    def record(self, seeds: tuple[int, ...]) -> provenance.Provenance:
        """Return what determines the result."""
        trace = self.trace(seeds[0])
        inputs = [
            provenance.Input("trace", f"{trace.name}, seed {seeds[0]}", trace.sha256),
            provenance.text_input("fleet", FLEET, export.fabric_json(self.fleet)),
            *(
                provenance.text_input("policy", p.metadata.name, p.model_dump_json(by_alias=True))
                for p in self.policies
            ),
        ]
        return provenance.record(inputs, {"jobs": len(trace), "queue": "skip", "runtime": RUNTIME}, seeds)


def build(jobs: int = JOBS) -> Demo:
    """Return the demonstration."""
    return Demo(fleets.preset(FLEET), tuple(policies.load(name) for name in POLICIES), jobs)
