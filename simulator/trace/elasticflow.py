"""Microsoft's ITP clusters as published with ElasticFlow (ASPLOS'23): submission, duration and gang size in GPUs."""

import numpy as np

from simulator.trace import job, pods, table

COLUMNS = ("job_id", "submission_time", "duration", "num_gpu")
MORE = ("deadline", "model_name", "batch_size")
"""Columns of the variant with deadlines; they are not used."""

MAX_GPUS = 65_536
MAX_SUBMIT_S = 4e9
MAX_DURATION_S = 10 * 365 * 86_400.0


def read(source: table.Table, name: str, size: pods.PodSize = pods.DEFAULT) -> job.Trace:
    """Make a trace of a job list; gangs become pods of up to `size.gpus_per_node` GPUs."""
    source.need(COLUMNS, MORE)
    gpus, shape = np.unique(source.integers("num_gpu", 1, MAX_GPUS), return_inverse=True)
    return job.build(
        name,
        [pods.training(count, size) for count in gpus.tolist()],
        names=source.names("job_id"),
        submit_s=source.numbers("submission_time", 0, MAX_SUBMIT_S),
        duration_s=source.numbers("duration", 0, MAX_DURATION_S),
        shape=shape,
        sha256=source.sha256,
    )
