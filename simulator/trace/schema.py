"""Our own columns, as CSV or Parquet: everything that a trace holds, one row per job.

A job of equal pods needs no more than ``name, submit_s, duration_s, gpus``. Gangs with several roles, or with
constraints on a role, carry them as JSON in the column ``roles``, in place of the columns of one pod.
"""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pydantic

from scheduler.model import admission, gang, request
from simulator.report import whole
from simulator.trace import job, table

REQUIRED = ("name", "submit_s", "duration_s", "gpus")
JOB_COLUMNS = ("name", "submit_s", "duration_s", "expected_s", "tenant", "priority")

POD_COLUMNS = {
    "pods": (1, 1, 100_000),
    "gpus": (0, 0, 64),
    "gpu_milli": (1000, 1, 1000),
    "nics": (0, 0, 64),
    "cpu_milli": (0, 0, 100_000_000),
    "memory_mib": (0, 0, 1 << 40),
}
"""Whole numbers of one pod: default, least, most."""

GANG_COLUMNS = {
    "min_member": (0, 0, 100_000),
    "preemptible": (1, 0, 1),
    "communication_milli": (0, 0, 1000),
    "message_bytes": (0, 0, 1 << 50),
}
"""Whole numbers of the gang: default, least, most."""

TEXT_COLUMNS = ("shape", "role", "mig", "gpu_models", "accelerators", "required_level", "preferred_level", "roles")
SHAPE_COLUMNS = (*POD_COLUMNS, *GANG_COLUMNS, *TEXT_COLUMNS)

MAX_SUBMIT_S = 4e9
MAX_DURATION_S = 10 * 365 * 86_400.0
MAX_PRIORITY = 1_000_000_000

ANYWHERE = admission.Admission()
ROLES = pydantic.TypeAdapter(tuple[gang.Role, ...])
KNOWN: dict[type, set[str]] = {
    kind: {field.name for field in fields(kind)}
    for kind in (gang.Role, request.PodRequest, gang.TopologyConstraint, gang.Segment, gang.Spread)
}
PARTS = {
    "request": request.PodRequest,
    "constraint": gang.TopologyConstraint,
    "segment": gang.Segment,
    "spread": gang.Spread,
}


def read(source: table.Table, name: str) -> job.Trace:
    """Make a trace of a table in our columns.

    Raises
    ------
    TraceError
    """
    source.need(REQUIRED, (*JOB_COLUMNS, *SHAPE_COLUMNS))
    shapes, shape = _shapes(source)
    tenants, tenant = source.codes("tenant", "default") if source.has("tenant") else (("default",), None)
    duration = source.numbers("duration_s", 0, MAX_DURATION_S)
    return job.build(
        name,
        shapes,
        names=source.names("name"),
        submit_s=source.numbers("submit_s", 0, MAX_SUBMIT_S),
        duration_s=duration,
        expected_s=_expected(source, duration),
        shape=shape,
        tenant=tenant,
        tenants=tenants,
        priority=source.integers("priority", -MAX_PRIORITY, MAX_PRIORITY, 0) if source.has("priority") else None,
        sha256=source.sha256,
    )


def write(trace: job.Trace, path: Path) -> Path:
    """Write a trace as Parquet where the name ends in ``.parquet``, else as CSV; the file appears whole or not at all."""
    table_of_jobs = frame(trace)
    with whole.replacing(path) as partial:
        if path.suffix == ".parquet":
            table_of_jobs.write_parquet(partial)
        else:
            table_of_jobs.write_csv(partial)
    return path


def frame(trace: job.Trace) -> pl.DataFrame:
    """Return a trace as a data frame in our columns."""
    tenants = pl.Series("tenant", trace.tenants, dtype=pl.String)
    jobs = pl.DataFrame(
        {
            "name": pl.Series(trace.names.tolist(), dtype=pl.String),
            "submit_s": trace.submit_s,
            "duration_s": trace.duration_s,
            "expected_s": trace.expected_s,
            "tenant": tenants.gather(trace.tenant),
            "priority": trace.priority,
        }
    )
    rows = [_row(shape) for shape in trace.shapes]
    kinds = dict.fromkeys((*POD_COLUMNS, *GANG_COLUMNS), pl.Int64) | dict.fromkeys(TEXT_COLUMNS, pl.String)
    per_shape = pl.DataFrame(rows, schema=kinds, orient="row")
    told = [field for field in per_shape.columns if field in REQUIRED or not _is_default(per_shape[field])]
    return jobs.hstack(per_shape.select(told)[trace.shape])


def _is_default(column: pl.Series) -> bool:
    """Tell whether a column says nothing that a reader would not assume."""
    default = (POD_COLUMNS | GANG_COLUMNS).get(column.name)
    return bool((column == default[0]).all()) if default else column.is_null().all()


def _expected(source: table.Table, duration: job.Floats) -> job.Floats:
    """Return the declared run times; a cell that is empty means the run time itself."""
    if not source.has("expected_s"):
        return duration
    given = source.numbers("expected_s", -1, MAX_DURATION_S, default=-1)
    return np.where(given < 0, duration, given)


def _row(shape: job.JobShape) -> dict[str, Any]:
    """Return a shape as a row."""
    own, first = shape.gang, shape.gang.roles[0]
    plain = len(own.roles) == 1 and first == gang.Role(first.name, first.count, replace(first.request, nodes=ANYWHERE))
    pod = first.request if plain else request.PodRequest()
    row = {name: getattr(pod, name) for name in ("gpus", "gpu_milli", "nics", "cpu_milli", "memory_mib", "mig")}
    row |= {
        "pods": first.count if plain else 1,
        "min_member": own.min_member,
        "preemptible": int(own.preemptible),
        "communication_milli": shape.communication_milli,
        "message_bytes": shape.message_bytes,
        "shape": own.name,
        "role": first.name if plain else "",
        "gpu_models": "|".join(pod.gpu_models),
        "accelerators": "|".join(f"{kind}={count}" for kind, count in pod.accelerators),
        "required_level": own.constraint.required,
        "preferred_level": own.constraint.preferred,
        "roles": "" if plain else ROLES.dump_json(own.roles, exclude_defaults=True).decode(),
    }
    return {field: None if value == "" else value for field, value in row.items()}


def _shapes(source: table.Table) -> tuple[list[job.JobShape], job.Ints]:
    """Return the distinct shapes and the one of each row."""
    columns = [field for field in SHAPE_COLUMNS if source.has(field)]
    bounds = POD_COLUMNS | GANG_COLUMNS
    _, shape, first = source.groups(columns)
    numbers = {
        field: source.integers(field, low, high, default)[first] if source.has(field) else [default] * len(first)
        for field, (default, low, high) in bounds.items()
    }
    texts = {
        field: source.text(field, "").gather(first).to_list() if source.has(field) else [""] * len(first)
        for field in TEXT_COLUMNS
    }
    made = []
    for i, row in enumerate(first.tolist()):
        cells = {field: int(column[i]) for field, column in numbers.items()}
        made.append(_shape(source, row, cells, {field: column[i] for field, column in texts.items()}, i))
    return made, shape


def _shape(source: table.Table, row: int, numbers: dict[str, int], texts: dict[str, str], index: int) -> job.JobShape:
    try:
        roles = _roles(texts["roles"]) if texts["roles"] else (_role(numbers, texts),)
        template = gang.Gang(
            name=texts["shape"] or f"shape-{index}",
            roles=roles,
            constraint=gang.TopologyConstraint(texts["required_level"], texts["preferred_level"]),
            min_member=numbers["min_member"],
            preemptible=bool(numbers["preemptible"]),
        )
        return job.JobShape(template, numbers["communication_milli"], numbers["message_bytes"])
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise source.error(row, "roles", f"{place}: {fault['msg']}") from error
    except ValueError as error:
        field = "roles" if texts["roles"] else _blamed(str(error))
        raise source.error(row, field, str(error)) from error


def _blamed(words: str) -> str:
    """Return the column that a refused request is about."""
    return next((field for field in (*SHAPE_COLUMNS, *REQUIRED) if words.startswith(field)), "gpus")


def _role(numbers: dict[str, int], texts: dict[str, str]) -> gang.Role:
    """Return the one role that the columns of a pod describe."""
    pod = request.PodRequest(
        cpu_milli=numbers["cpu_milli"],
        memory_mib=numbers["memory_mib"],
        gpus=numbers["gpus"],
        gpu_milli=numbers["gpu_milli"],
        mig=texts["mig"],
        nics=numbers["nics"],
        gpu_models=tuple(sorted(set(filter(None, texts["gpu_models"].split("|"))))),
        accelerators=tuple(sorted(_accelerator(part) for part in texts["accelerators"].split("|") if part)),
    )
    return gang.Role(texts["role"] or "worker", numbers["pods"], pod)


def _accelerator(words: str) -> tuple[str, int]:
    kind, equals, count = words.rpartition("=")
    if not equals or not count.isdecimal():
        raise ValueError(f"accelerators: write kind=count, got {words!r}")
    return kind, int(count)


def _roles(words: str) -> tuple[gang.Role, ...]:
    """Read roles from JSON, refusing keys that the model does not have."""
    rows = json.loads(words)
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            _refuse_unknown(row, gang.Role)
            for part, kind in PARTS.items():
                if isinstance(row.get(part), dict):
                    _refuse_unknown(row[part], kind)
    return ROLES.validate_json(words)


def _refuse_unknown(row: dict[str, Any], kind: type) -> None:
    for key in row:
        if key not in KNOWN[kind]:
            raise ValueError(f"unknown key {key!r}; known are {', '.join(sorted(KNOWN[kind]))}")
