"""Philly-derived traces of Gavel (OSDI'20): arrivals and gang sizes of virtual clusters, steps instead of durations.

The steps of these files were made from Philly's run times with one throughput per model, whatever the gang size: over
five seeds of the published traces, which redraw the models of the same jobs, steps divided by the V100 throughputs
below agree to one step. So the division gives back Philly's own run times.

References
----------
github.com/stanford-futuredata/gavel, scheduler/oracle_throughputs.json of September 2019, "v100", isolated (MIT).
"""

import numpy as np

from simulator.trace import content, job, pods, table

COLUMNS = ("model", "total_steps", "arrival_s", "gang_size")

RAW_FIELDS = ("model", "command", "steps flag", "needs data folder", "total_steps", "arrival_s", "gang_size")
"""Fields of the published files, which are separated by tabs and have no header."""

V100_STEPS_PER_SECOND = {
    "A3C": 8.23303,
    "CycleGAN": 4.91849,
    "LM (batch size 10)": 143.361,
    "LM (batch size 20)": 107.951,
    "LM (batch size 40)": 71.723,
    "LM (batch size 5)": 167.123,
    "LM (batch size 80)": 43.9036,
    "Recommendation (batch size 1024)": 0.47998,
    "Recommendation (batch size 2048)": 0.567532,
    "Recommendation (batch size 4096)": 0.624408,
    "Recommendation (batch size 512)": 0.331482,
    "Recommendation (batch size 8192)": 0.602355,
    "ResNet-18 (batch size 128)": 30.2875,
    "ResNet-18 (batch size 16)": 77.3174,
    "ResNet-18 (batch size 256)": 16.9874,
    "ResNet-18 (batch size 32)": 65.8054,
    "ResNet-18 (batch size 64)": 48.8842,
    "ResNet-50 (batch size 128)": 2.84598,
    "ResNet-50 (batch size 16)": 17.3744,
    "ResNet-50 (batch size 32)": 9.92058,
    "ResNet-50 (batch size 64)": 5.4576,
    "Transformer (batch size 128)": 5.77121,
    "Transformer (batch size 16)": 12.8457,
    "Transformer (batch size 256)": 1.70703,
    "Transformer (batch size 32)": 12.4753,
    "Transformer (batch size 64)": 9.56802,
}

ASSUMED = "run times are steps over the V100 throughputs from which Gavel made the steps"

MAX_STEPS = 10**12
MAX_GPUS = 65_536
MAX_SUBMIT_S = 4e9


def read(source: table.Table, name: str, size: pods.PodSize = pods.DEFAULT) -> job.Trace:
    """Make a trace of the jobs of one virtual cluster, which is the tenant."""
    source.need(COLUMNS, RAW_FIELDS)
    steps = source.integers("total_steps", 0, MAX_STEPS)
    gpus, shape = np.unique(source.integers("gang_size", 1, MAX_GPUS), return_inverse=True)
    return job.build(
        name,
        [pods.training(count, size) for count in gpus.tolist()],
        names=[f"job-{row:06d}" for row in range(len(source))],
        submit_s=source.numbers("arrival_s", 0, MAX_SUBMIT_S),
        duration_s=steps / _steps_per_second(source),
        shape=shape,
        tenants=(name,),
        sha256=source.sha256,
        notes=[ASSUMED],
    )


def raw(file: str, data: bytes) -> table.Table:
    """Split a file as published."""
    lines = content.text(file, data).rstrip("\n").split("\n")
    records = [line.split("\t") for line in lines]
    for number, record in enumerate(records, start=1):
        if len(record) != len(RAW_FIELDS):
            problem = f"{len(record)} fields, Gavel's traces have {len(RAW_FIELDS)}, separated by tabs"
            raise job.TraceError(problem, file=file, line=number)
    columns = {field: [record[i].strip() or None for record in records] for i, field in enumerate(RAW_FIELDS)}
    return table.rows_of(file, content.sha256(data), columns, 1)


def _steps_per_second(source: table.Table) -> job.Floats:
    """Return the throughput of each job's model."""
    models, model = source.codes("model")
    for code, label in enumerate(models):
        if label not in V100_STEPS_PER_SECOND:
            row = int(np.flatnonzero(model == code)[0])
            raise source.error(row, "model", "no throughput is known for this model", "see simulator/trace/gavel.py")
    return np.array([V100_STEPS_PER_SECOND[label] for label in models])[model]
