"""Alibaba's 2023 GPU cluster trace (openb): pods without gangs, in two schemas of 5 and 11 columns.

References
----------
Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", ATC'23.
"""

import numpy as np

from scheduler.model import gang, request
from simulator.trace import job, table

COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
TIMES = ("creation_time", "deletion_time", "scheduled_time")
MORE = ("gpu_spec", "qos", "pod_phase", *TIMES)
SHAPE = ["cpu_milli", "memory_mib", "num_gpu", "gpu_milli"]

TEN_YEARS_S = 10 * 365 * 86_400
"""Run time of pods of the five-column files, which tell no times: nothing departs, as in the published experiment."""

TIMELESS = "the file tells no times: pods arrive one a second in file order and stay"

MAX_SECONDS = 4e9
"""Anything later than the year 2096 is a mistake, also for Unix time."""

PRIORITY = {"BE": 0, "Burstable": 1, "LS": 2, "Guaranteed": 3}
"""Quality-of-service classes of the trace, least urgent first."""


def read(source: table.Table, name: str) -> job.Trace:
    """Make a trace of a pod list.

    Notes
    -----
    A pod arrives when it was created and runs from its scheduling, or from its creation if it never was scheduled, to
    its deletion. In five-column files pods arrive one a second in file order and stay.
    """
    source.need(COLUMNS, MORE)
    shapes, shape = _shapes(source)
    submit, duration = _times(source)
    classes, quality = source.codes("qos", "BE") if source.has("qos") else (("BE",), np.zeros(len(source), np.int32))
    urgency = np.array([_priority(source, quality, code, label) for code, label in enumerate(classes)], dtype=np.int32)
    return job.build(
        name,
        shapes,
        names=source.names("name"),
        submit_s=submit,
        duration_s=duration,
        shape=shape,
        priority=urgency[quality],
        sha256=source.sha256,
        notes=[] if source.has(TIMES[0]) else [TIMELESS],
    )


def _priority(source: table.Table, quality: job.Ints, code: int, label: str) -> int:
    if label not in PRIORITY:
        row = int(np.flatnonzero(quality == code)[0])
        raise source.error(row, "qos", "unknown class", f"known are {', '.join(PRIORITY)}")
    return PRIORITY[label]


def _shapes(source: table.Table) -> tuple[list[job.JobShape], job.Ints]:
    """Return the distinct pod requests and the one of each row."""
    cpu = source.integers("cpu_milli", 0, 10_000_000)
    memory = source.integers("memory_mib", 0, 100_000_000)
    gpus = source.integers("num_gpu", 0, 16)
    milli = source.integers("gpu_milli", 0, 1000)
    _, shape, first = source.groups(SHAPE + (["gpu_spec"] if source.has("gpu_spec") else []))
    spec = source.text("gpu_spec", "") if source.has("gpu_spec") else None
    shapes: list[job.JobShape] = []
    for row in first.tolist():
        if gpus[row] and not milli[row]:
            raise source.error(row, "gpu_milli", "a pod with GPUs takes none of them", "give 1 to 1000")
        if gpus[row] > 1 and milli[row] != 1000:
            raise source.error(row, "gpu_milli", "only a pod with one GPU may share it", "give 1000")
        models = sorted(filter(None, map(str.strip, spec[row].split("|")))) if spec is not None else []
        pod = request.PodRequest(
            cpu_milli=int(cpu[row]),
            memory_mib=int(memory[row]),
            gpus=int(gpus[row]),
            gpu_milli=int(milli[row]) if gpus[row] else 1000,
            gpu_models=tuple(models),
        )
        shapes.append(job.JobShape(gang.single(f"pod-{len(shapes)}", pod)))
    return shapes, shape


def _times(source: table.Table) -> tuple[job.Floats, job.Floats]:
    """Return submission and run time of every pod."""
    given = [field for field in TIMES if source.has(field)]
    if not given:
        rows = len(source)
        return np.arange(rows, dtype=np.float64), np.full(rows, float(TEN_YEARS_S))
    source.need((*COLUMNS, *TIMES), MORE)
    created = source.numbers("creation_time", 0, MAX_SECONDS)
    deleted = source.numbers("deletion_time", 0, MAX_SECONDS)
    scheduled = source.numbers("scheduled_time", -1, MAX_SECONDS, default=-1)
    started = np.where(scheduled < 0, created, scheduled)
    late = deleted < started
    if late.any():
        raise source.error(int(late.argmax()), "deletion_time", "the pod ends before it starts")
    return created, deleted - started
