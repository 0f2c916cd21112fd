"""A trace as columns: a million jobs in tens of megabytes, gangs made only when they are asked for.

Nothing here reads files or draws random numbers.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler import bad_input
from scheduler.model import gang as gangs
from scheduler.model import request

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Texts = NDArray[Any]
"""Array of ``numpy.dtypes.StringDType``: short names are stored in place, 16 bytes each."""

TEXT = np.dtypes.StringDType()


class TraceError(bad_input.BadInput):
    """Input that is no valid trace."""


@dataclass(frozen=True, slots=True)
class JobShape:
    """What many jobs of a trace have in common.

    Attributes
    ----------
    gang : Gang
        Template; its name says what the shape is, the job's own name replaces it.
    communication_milli : int
        Share of the run time that collectives take at the reference bandwidth, per mille.
    message_bytes : int
        Size of one collective, which decides between latency and bandwidth.
    """

    gang: gangs.Gang
    communication_milli: int = 0
    message_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.communication_milli <= 1000:
            raise ValueError(f"communication_milli must be 0..1000, got {self.communication_milli}")
        if self.message_bytes < 0:
            raise ValueError(f"message_bytes must not be negative, got {self.message_bytes}")


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Jobs in order of submission. Make one with `build`, which sorts, checks and freezes the columns.

    Attributes
    ----------
    sha256 : str
        Of the bytes that were read, or of the columns when the jobs were generated or derived.
    names : array of StringDType, shape (J,)
        Unique.
    submit_s, duration_s : ndarray of float64, shape (J,)
        Seconds since the start of the trace; run time at the reference bandwidth.
    expected_s : ndarray of float64, shape (J,)
        Run time that the submitter declared; 0 when unknown.
    shape : ndarray of int32, shape (J,)
        Index into `shapes`.
    tenant : ndarray of int32, shape (J,)
        Index into `tenants`.
    priority : ndarray of int32, shape (J,)
    notes : tuple of str
        What the reader assumed or left out, for people; no part of the hash.
    """

    name: str
    sha256: str
    shapes: tuple[JobShape, ...]
    tenants: tuple[str, ...]
    names: Texts
    submit_s: Floats
    duration_s: Floats
    expected_s: Floats
    shape: Ints
    tenant: Ints
    priority: Ints
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.submit_s)

    def gang(self, job: int) -> gangs.Gang:
        """Return the gang of one job."""
        return replace(
            self.shapes[int(self.shape[job])].gang,
            name=str(self.names[job]),
            tenant=self.tenants[int(self.tenant[job])],
            priority=int(self.priority[job]),
            expected_s=float(self.expected_s[job]),
        )

    def shape_counts(self) -> NDArray[np.int64]:
        """Return how many jobs have each shape."""
        return np.bincount(self.shape, minlength=len(self.shapes)).astype(np.int64)

    def requests(self) -> tuple[tuple[request.PodRequest, int], ...]:
        """Return the pod requests of all jobs and how many pods make each, sorted: a target workload."""
        counts: dict[request.PodRequest, int] = {}
        for shape, jobs in zip(self.shapes, self.shape_counts().tolist(), strict=True):
            for role in shape.gang.roles:
                counts[role.request] = counts.get(role.request, 0) + role.count * jobs
        return tuple(sorted((pod, count) for pod, count in counts.items() if count))

    def gpus(self) -> Floats:
        """Return the GPUs of each job, shares as fractions, MIG partitions by their number."""
        per_shape = [sum(role.count * gpu_equivalents(role.request) for role in s.gang.roles) for s in self.shapes]
        return np.array(per_shape, dtype=np.float64)[self.shape]

    def head(self, jobs: int) -> "Trace":
        """Return the first jobs."""
        return self.take(np.arange(min(max(jobs, 0), len(self))), f"head {jobs}")

    def take(self, rows: NDArray[np.int64], words: str) -> "Trace":
        """Return some of the jobs; `words` says which, and goes into the hash."""
        columns = (self.names, self.submit_s, self.duration_s, self.expected_s, self.shape, self.tenant, self.priority)
        names, submit_s, duration_s, expected_s, shape, tenant, priority = (column[rows] for column in columns)
        return replace(
            self,
            sha256=_derived(words, self),
            names=_frozen(names),
            submit_s=_frozen(submit_s),
            duration_s=_frozen(duration_s),
            expected_s=_frozen(expected_s),
            shape=_frozen(shape),
            tenant=_frozen(tenant),
            priority=_frozen(priority),
        )

    def scale_load(self, factor: float) -> "Trace":
        """Return the same jobs arriving `factor` times as fast; run times stay."""
        if not 0 < factor < np.inf:
            raise ValueError(f"load factor must be a positive number, got {factor}")
        return replace(self, sha256=_derived(f"load {factor!r}", self), submit_s=_frozen(self.submit_s / factor))


def build(
    name: str,
    shapes: Sequence[JobShape],
    *,
    names: ArrayLike,
    submit_s: ArrayLike,
    duration_s: ArrayLike,
    shape: ArrayLike,
    expected_s: ArrayLike | None = None,
    tenant: ArrayLike | None = None,
    tenants: Sequence[str] = ("default",),
    priority: ArrayLike | None = None,
    sha256: str = "",
    notes: Sequence[str] = (),
) -> Trace:
    """Sort jobs by submission, then row, and freeze them.

    Raises
    ------
    TraceError
        Columns of different length, times that are negative or not finite, an index that points nowhere, or a name
        that occurs twice.

    Notes
    -----
    Without `expected_s` every submitter knows the run time exactly. Without `sha256` the columns are hashed.
    """
    submit = np.asarray(submit_s, dtype=np.float64)
    duration = np.asarray(duration_s, dtype=np.float64)
    columns = {
        "names": np.asarray(names, dtype=TEXT),
        "submit_s": submit,
        "duration_s": duration,
        "expected_s": duration if expected_s is None else np.asarray(expected_s, dtype=np.float64),
        "shape": np.asarray(shape, dtype=np.int32),
        "tenant": _zeros(submit) if tenant is None else np.asarray(tenant, dtype=np.int32),
        "priority": _zeros(submit) if priority is None else np.asarray(priority, dtype=np.int32),
    }
    _check(name, columns, len(shapes), len(tenants))
    order = np.argsort(submit, kind="stable")
    columns = {field: _frozen(column[order]) for field, column in columns.items()}
    digest = sha256 or _digest(columns, [repr(s) for s in shapes], tenants)
    return Trace(name=name, sha256=digest, shapes=tuple(shapes), tenants=tuple(tenants), notes=tuple(notes), **columns)


def concat(name: str, traces: Sequence[Trace]) -> Trace:
    """Merge traces into one by submission time; names get the trace's name in front when two traces share one.

    Raises
    ------
    TraceError
        Nothing to merge, or two traces of one name share a job name.
    """
    if not traces:
        raise TraceError("no traces to merge", file=name)
    shapes = list(dict.fromkeys(s for t in traces for s in t.shapes))
    tenants = list(dict.fromkeys(x for t in traces for x in t.tenants))
    row = {s: i for i, s in enumerate(shapes)}
    seat = {x: i for i, x in enumerate(tenants)}
    names = np.concatenate([t.names for t in traces])
    if len(np.unique(names)) < len(names):
        names = np.concatenate([np.strings.add(np.array(f"{t.name}/", dtype=TEXT), t.names) for t in traces])
    return build(
        name,
        shapes,
        names=names,
        submit_s=np.concatenate([t.submit_s for t in traces]),
        duration_s=np.concatenate([t.duration_s for t in traces]),
        expected_s=np.concatenate([t.expected_s for t in traces]),
        shape=np.concatenate([np.array([row[s] for s in t.shapes], dtype=np.int32)[t.shape] for t in traces]),
        tenant=np.concatenate([np.array([seat[x] for x in t.tenants], dtype=np.int32)[t.tenant] for t in traces]),
        tenants=tenants,
        priority=np.concatenate([t.priority for t in traces]),
        sha256=_derived("merge", *traces),
        notes=list(dict.fromkeys(note for t in traces for note in t.notes)),
    )


def gpu_equivalents(pod: request.PodRequest) -> float:
    """Return the GPUs of one pod: shares count as fractions, MIG partitions as one each."""
    return float(pod.gpus) if pod.mig else pod.total_gpu_milli / 1000


def _check(name: str, columns: dict[str, NDArray[Any]], shapes: int, tenants: int) -> None:
    """Refuse columns that make no trace."""
    jobs = len(columns["submit_s"])
    for field, column in columns.items():
        if column.shape != (jobs,):
            raise TraceError(f"{len(column)} values for {jobs} jobs", file=name, field=field)
    for field in ("submit_s", "duration_s", "expected_s"):
        bad = ~(np.isfinite(columns[field]) & (columns[field] >= 0))
        if bad.any():
            row = int(bad.argmax())
            problem = f"job {columns['names'][row]}: must be a finite number of seconds, 0 or more"
            raise TraceError(problem, file=name, field=field, value=str(columns[field][row]))
    for field, size in (("shape", shapes), ("tenant", tenants)):
        if jobs and not 0 <= columns[field].min() <= columns[field].max() < size:
            raise TraceError(f"an index is outside 0..{size - 1}", file=name, field=field)
    if jobs and (np.strings.str_len(columns["names"]) == 0).any():
        raise TraceError("a job has no name", file=name, field="name")
    twice = first_duplicate(columns["names"])
    if twice >= 0:
        raise TraceError("two jobs have this name", file=name, field="name", value=str(columns["names"][twice]))


def first_duplicate(names: Texts) -> int:
    """Return the first row whose name an earlier row has, or -1."""
    order = np.argsort(names, kind="stable")
    same = names[order][1:] == names[order][:-1]
    return int(order[1:][same].min()) if same.any() else -1


def _zeros(like: Floats) -> Ints:
    return np.zeros(len(like), dtype=np.int32)


def _frozen(column: NDArray[Any]) -> NDArray[Any]:
    column.flags.writeable = False
    return column


def _digest(columns: dict[str, NDArray[Any]], shapes: Iterable[str], tenants: Iterable[str]) -> str:
    """Hash the columns, for traces that came from no file."""
    digest = hashlib.sha256()
    for field, column in columns.items():
        digest.update(field.encode())
        digest.update("\n".join(column.tolist()).encode() if field == "names" else column.tobytes())
    digest.update("\n".join((*shapes, *tenants)).encode())
    return digest.hexdigest()


def _derived(words: str, *parents: Trace) -> str:
    """Return a hash that names the parents and what was done to them."""
    return hashlib.sha256("\n".join((words, *(p.sha256 for p in parents))).encode()).hexdigest()
