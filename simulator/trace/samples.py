"""Built-in workloads: the one of the demonstration, and the one of the benchmarks."""

from scheduler.model import gpu_models
from simulator.trace import pools, workload

HOUR_S = 3600.0

GANG_WEIGHTS = {
    1: 560,
    2: 90,
    4: 110,
    8: 160,
    16: 40,
    32: 22,
    64: 11,
    128: 4,
    256: 2,
    512: 1,
}
"""Jobs by gang size in GPUs: small jobs are most, large gangs hold most GPU-hours, as in ElasticFlow's and Acme's."""


def demo(jobs: int = 1_500) -> workload.Workload:
    """Return mixed gangs, shares, MIG partitions and two pools for the fleet preset ``demo``."""
    short = workload.Duration(median_s=1_800, sigma=1.0, max_s=12 * HOUR_S)
    long = workload.Duration(median_s=2 * HOUR_S, sigma=1.0, max_s=48 * HOUR_S)
    pairs, inference, nvl = [gpu_models.A100_PCIE_80.name], [gpu_models.L40S.name], [gpu_models.GB200_186.name]
    classes = [
        workload.JobClass(name="notebook", weight=20, gpu_milli=500, gpu_models=inference, duration=short),
        workload.JobClass(name="mig", weight=10, mig="2g.20gb", cpu_milli=4_000, memory_mib=16_000, duration=short),
        workload.JobClass(name="single", weight=24, duration=short, priority=10),
        workload.JobClass(name="pair", weight=10, gpus=2, gpu_models=pairs, duration=short, priority=10),
        workload.JobClass(name="quad", weight=10, gpus=4, duration=long, priority=10),
        workload.JobClass(name="node", weight=10, gpus=8, duration=long, priority=20),
        workload.JobClass(name="gang-16", weight=5, gpus=16, duration=long, priority=20, preferred="rack"),
        workload.JobClass(name="gang-32", weight=3, gpus=32, duration=long, priority=20, required="rack"),
        workload.JobClass(
            name="nvl72-32",
            weight=2,
            gpus=32,
            gpus_per_pod=4,
            gpu_models=nvl,
            duration=long,
            priority=30,
            required="rack",
        ),
        workload.JobClass(name="gang-64", weight=1, gpus=64, duration=long, priority=30, preferred="block"),
    ]
    spec = workload.Spec(
        jobs=jobs,
        fleet_gpus=280,
        offered_load=0.8,
        burstiness=1.5,
        swing=0.5,
        overestimate=3.0,
        classes=classes,
        tenants=[
            workload.Tenant(name="research", weight=5),
            workload.Tenant(name="product", weight=3),
            workload.Tenant(name="platform", weight=2),
        ],
        pools=[
            workload.Pool(name="chat", requests_s=4.0, prompt_tokens=1_500, output_tokens=300),
            workload.Pool(
                name="agents",
                requests_s=6.0,
                swing=0.3,
                prompt_tokens=3_000,
                output_tokens=100,
                capacity=pools.Capacity(gpus=2, prefill_tokens_s=5_000, decode_tokens_s=1_000),
            ),
        ],
    )
    return workload.Workload(metadata=workload.Metadata(name="demo"), spec=spec)


def benchmark(jobs: int = 1_000_000, fleet_gpus: int = 40_000, offered_load: float = 0.9) -> workload.Workload:
    """Return gangs of 1 to 512 GPUs for a fleet of eight-GPU nodes, with departures and four tenants."""
    classes = [
        workload.JobClass(
            name=f"gang-{gpus}",
            weight=weight,
            gpus=gpus,
            duration=workload.Duration(median_s=2 * HOUR_S, sigma=1.0, max_s=72 * HOUR_S),
            priority=10 if gpus >= 64 else 0,
            preferred="rack" if 8 < gpus <= 256 else "block" if gpus > 256 else "",
        )
        for gpus, weight in GANG_WEIGHTS.items()
    ]
    spec = workload.Spec(
        jobs=jobs,
        fleet_gpus=fleet_gpus,
        offered_load=offered_load,
        classes=classes,
        tenants=[workload.Tenant(name=f"tenant-{i}", weight=w) for i, w in enumerate((4, 3, 2, 1))],
    )
    return workload.Workload(metadata=workload.Metadata(name=f"synthetic-{jobs}"), spec=spec)
