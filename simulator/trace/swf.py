"""Standard workload format of the Parallel Workloads Archive: 18 numbers a line, -1 for unknown.

Processors of these machines are not GPUs. By default one processor becomes one GPU, so that the gangs keep their sizes;
`processors_per_gpu` changes that.

References
----------
Feitelson et al., "The Standard Workload Format", version 2.2.
"""

from collections.abc import Iterator

import numpy as np

from simulator.trace import content, job, pods, table

FIELDS = (
    "job number",
    "submit time",
    "wait time",
    "run time",
    "allocated processors",
    "average CPU time",
    "used memory",
    "requested processors",
    "requested time",
    "requested memory",
    "status",
    "user",
    "group",
    "executable",
    "queue",
    "partition",
    "preceding job",
    "think time",
)
UNKNOWN = -1
MAX_PROCESSORS = 10_000_000
MAX_SUBMIT_S = 4e9
MAX_DURATION_S = 10 * 365 * 86_400.0

NEVER_RAN = "jobs without a run time or processors were left out, cancelled before they started or badly logged"


def read(source: table.Table, name: str, size: pods.PodSize = pods.DEFAULT, processors_per_gpu: int = 1) -> job.Trace:
    """Make a trace of a log; the user group is the tenant, the requested time is what the submitter declared.

    Notes
    -----
    The requested processors count where the allocated are unknown. Jobs of which one or the run time is unknown never
    ran, as far as the log tells; they are left out, and the notes of the trace say how many.
    """
    numbers = {field: source.numbers(field, UNKNOWN, _bound(field), UNKNOWN) for field in FIELDS}
    wanted = np.where(numbers["allocated processors"] > 0, numbers["allocated processors"], numbers[FIELDS[7]])
    run = numbers["run time"]
    ran = (run >= 0) & (wanted > 0)
    late = numbers["submit time"] < 0
    if late.any():
        raise source.error(int(late.argmax()), "submit time", "every job needs a submit time")
    if not ran.any():
        raise job.TraceError("no job of this log ran", file=source.file)
    gpus, shape = np.unique(-(-wanted[ran] // processors_per_gpu).astype(np.int64), return_inverse=True)
    groups, group = np.unique(numbers["group"][ran].astype(np.int64), return_inverse=True)
    return job.build(
        name,
        [pods.training(count, size) for count in gpus.tolist()],
        names=source.names("job number")[ran],
        submit_s=numbers["submit time"][ran],
        duration_s=run[ran],
        expected_s=np.maximum(numbers["requested time"][ran], 0),
        shape=shape,
        tenant=group,
        tenants=[f"group-{number}" if number >= 0 else "default" for number in groups.tolist()],
        sha256=source.sha256,
        notes=[] if ran.all() else [f"{int((~ran).sum())} {NEVER_RAN}"],
    )


def split(file: str, data: bytes) -> table.Table:
    """Split a log into its fields, without the comments of its header."""
    lines, records = [], []
    for number, record in _records(file, data):
        lines.append(number)
        records.append(record)
    if not records:
        raise job.TraceError("the log has a header and no jobs", file=file)
    columns: dict[str, list[str | None]] = dict(zip(FIELDS, map(list, zip(*records, strict=True)), strict=True))
    return table.rows_of(file, content.sha256(data), columns, 1, np.array(lines, dtype=np.int64))


def _records(file: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of every job."""
    for number, line in enumerate(content.text(file, data).split("\n"), start=1):
        record = line.split()
        if not record or line.lstrip().startswith(";"):
            continue
        if len(record) != len(FIELDS):
            problem = f"{len(record)} fields, the standard workload format has {len(FIELDS)}"
            raise job.TraceError(problem, file=file, line=number, remedy="comments begin with ;")
        yield number, record


def _bound(field: str) -> float:
    if field == "submit time":
        return MAX_SUBMIT_S
    if field.endswith("processors"):
        return MAX_PROCESSORS
    return MAX_DURATION_S if field in ("run time", "requested time", "wait time") else 1e15
