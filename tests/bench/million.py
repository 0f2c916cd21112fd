"""A million jobs with departures and gangs on 5,000 machines of 8 GPUs, in a process of its own so that its peak memory
is its own."""

import functools
import json
import resource
import subprocess
import sys
import time

import numpy as np

from scheduler import policies
from scheduler.placement import scoring
from scheduler.snapshot import topology
from simulator import compiled, outcome, scenario
from simulator.fleet import load as fleets
from simulator.trace import job, samples, synthetic
from tests.bench import figure

JOBS = 1_000_000
WARM_JOBS = 2_000
FLEET = "5000x8"
GIB = 1 << 30


@functools.cache
def measured() -> dict[str, float]:
    """Run once in another process and return what it printed."""
    done = subprocess.run([sys.executable, "-m", "tests.bench.million"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise figure.Missing(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the run failed")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def seconds() -> tuple[float, str]:
    """Return the time from columns to outcome, compiled code warm."""
    got = measured()
    words = f"{got['finished']:.0f} finished, {got['events']:.0f} events, utilisation {got['utilisation']:.1f} %"
    apart = f"drawing of the trace apart ({got['drawn_s']:.1f} s)"
    return got["seconds"], f"{words}; processor time {got['processor_s']:.1f} s; {apart}"


def peak_gib() -> tuple[float, str]:
    """Return the peak memory of the process: trace, replay and outcome."""
    return measured()["peak_gib"], "of the whole process"


def draw(jobs: int) -> job.Trace:
    """Draw the workload."""
    return synthetic.generate(samples.benchmark(jobs), np.random.default_rng(42))


def replay(trace: job.Trace, fleet: topology.Topology) -> outcome.Outcome:
    """Compile the policy and replay the trace."""
    scored = scoring.compile_scoring(policies.load("muster"), fleet, scenario.target_of(trace))
    return compiled.Compiled(trace, scored).finish()


def main() -> None:
    """Measure, and print one JSON object."""
    fleet = topology.compile_topology(fleets.preset(FLEET))
    replay(draw(WARM_JOBS), fleet)
    begin = time.perf_counter()
    trace = draw(JOBS)
    drawn_s = time.perf_counter() - begin
    begin, own = time.perf_counter(), time.process_time()
    found = replay(trace, fleet)
    taken, own = time.perf_counter() - begin, time.process_time() - own
    series = found.series
    used = 100 * float(np.mean(series.allocated_gpus)) / fleet.total_gpus
    result = {
        "seconds": taken,
        "processor_s": own,
        "drawn_s": drawn_s,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "finished": int((found.jobs.state == outcome.State.FINISHED).sum()),
        "events": found.events,
        "utilisation": used,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
