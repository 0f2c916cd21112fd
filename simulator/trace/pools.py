"""From requests to replicas: how many GPUs an inference pool wants over time, as jobs that come and go.

A capacity model and not a simulation of a serving engine: every window of requests has a load, an autoscaler follows
the load with headroom and delays, and each replica's stay becomes one job. Which replica serves which request is not
modelled, nor are retries or slow starts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import pydantic

from scheduler.model import gang
from simulator.trace import job, pods

Positive = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, pydantic.Field(ge=0, le=1e7, allow_inf_nan=False)]
Replicas = Annotated[int, pydantic.Field(ge=0, le=100_000)]

MAX_WINDOWS = 10_000_000


class Capacity(pydantic.BaseModel):
    """What one replica does, and how the pool follows its load.

    The default speeds are assumptions, of the order that published serving benchmarks show for a dense model of 70
    billion parameters on four H100.

    Attributes
    ----------
    gpus : int
        GPUs of a replica: one pod, or several where they are more than a node has.
    prefill_tokens_s, decode_tokens_s : float
        Prompt tokens read, and tokens generated over all requests in flight, per second.
    token_latency_s : float
        Time between two tokens of one request; with `concurrency` it bounds the requests in flight.
    headroom_milli : int
        Replicas above the load, per mille.
    window_s : float
        Requests are counted over windows of this length; the pool reacts at the end of each.
    scale_up_s : float
        From the reaction to the submission of the replica's job.
    scale_down_s : float
        The load must have stayed lower for so long before a replica goes.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    gpus: Annotated[int, pydantic.Field(ge=1, le=64)] = 4
    prefill_tokens_s: Positive = 8_000.0
    decode_tokens_s: Positive = 2_000.0
    token_latency_s: Positive = 0.04
    concurrency: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 64
    headroom_milli: Annotated[int, pydantic.Field(ge=0, le=10_000)] = 200
    window_s: Annotated[float, pydantic.Field(ge=1, le=86_400)] = 60.0
    scale_up_s: Seconds = 30.0
    scale_down_s: Seconds = 300.0
    min_replicas: Replicas = 1
    max_replicas: Replicas = 1_000

    @pydantic.model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must not be less than min_replicas")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Arrivals of one service.

    Attributes
    ----------
    arrival_s : ndarray of float64, shape (R,)
        Seconds since the first request.
    prompt_tokens, output_tokens : ndarray of int64, shape (R,)
    """

    name: str
    sha256: str
    arrival_s: job.Floats
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.arrival_s)


def demand(requests: Requests, capacity: Capacity) -> job.Ints:
    """Return the replicas that each window's requests need, before any delay.

    Notes
    -----
    The larger of two needs: tokens over speed, and requests in flight (arrival rate x time in service) over what a
    replica takes at once.
    """
    window = (requests.arrival_s // capacity.window_s).astype(np.int64)
    windows = int(window.max(initial=0)) + 1
    prefill_s = requests.prompt_tokens / capacity.prefill_tokens_s
    busy_s = prefill_s + requests.output_tokens / capacity.decode_tokens_s
    service_s = prefill_s + requests.output_tokens * capacity.token_latency_s
    by_speed = np.bincount(window, busy_s, windows) / capacity.window_s
    by_slots = np.bincount(window, service_s, windows) / capacity.window_s / capacity.concurrency
    # Rounded before the ceiling, so that a load of exactly three replicas does not ask for four.
    wanted = np.ceil(np.round(np.maximum(by_speed, by_slots) * (1 + capacity.headroom_milli / 1000), 9))
    return np.clip(wanted, capacity.min_replicas, capacity.max_replicas).astype(np.int32)


def settle(wanted: job.Ints, capacity: Capacity) -> job.Ints:
    """Return the replicas that the autoscaler keeps: up at once, down only after `scale_down_s` of lower load."""
    windows = int(np.ceil(capacity.scale_down_s / capacity.window_s))
    padded = np.concatenate([np.full(windows, wanted[0], dtype=np.int32), wanted])
    kept = np.lib.stride_tricks.sliding_window_view(padded, windows + 1).max(axis=1)
    return np.asarray(kept, dtype=np.int32)


def jobs(requests: Requests, capacity: Capacity | None = None, priority: int = 0) -> job.Trace:
    """Return the replicas of a pool as jobs; the pool is the tenant.

    Raises
    ------
    TraceError
        No requests, or so long a time that it has more than `MAX_WINDOWS` windows.
    """
    model = capacity or Capacity()
    if not len(requests):
        raise job.TraceError("the trace has no requests", file=requests.name)
    if requests.arrival_s.max() / model.window_s > MAX_WINDOWS:
        raise job.TraceError(f"more than {MAX_WINDOWS} windows", file=requests.name, remedy="raise window_s")
    stays = sorted(_stays(settle(demand(requests, model), model)))
    starts = np.array([start for start, _, _ in stays], dtype=np.float64)
    ends = np.array([end for _, end, _ in stays], dtype=np.float64)
    template = gang.Gang(name=f"replica-{model.gpus}", roles=_roles(model.gpus))
    # The first replicas are there when the first request comes; later ones follow the end of the window that asked.
    submit = np.where(starts == 0, 0.0, (starts + 1) * model.window_s + model.scale_up_s)
    leave = np.maximum((ends + 1) * model.window_s, submit)
    return job.build(
        requests.name,
        [job.JobShape(template)],
        names=[f"{requests.name}-{replica}-{int(start)}" for start, _, replica in stays],
        submit_s=submit,
        duration_s=leave - submit,
        expected_s=np.zeros(len(stays)),
        shape=np.zeros(len(stays), dtype=np.int32),
        tenants=(requests.name,),
        priority=np.full(len(stays), priority, dtype=np.int32),
        sha256=requests.sha256,
        notes=[f"pool {requests.name}: {len(requests)} requests became replicas by the model {model!r}"],
    )


def _roles(gpus: int) -> tuple[gang.Role, ...]:
    """Return the pods of a replica: whole nodes where it is larger than one."""
    return pods.training(gpus).gang.roles


def _stays(replicas: job.Ints) -> Iterator[tuple[int, int, int]]:
    """Yield first window, end window and number of every stay of a replica; the highest numbers come and go first."""
    since: list[int] = []
    for window, count in enumerate(replicas.tolist()):
        while len(since) > count:
            yield since.pop(), window, len(since)
        since.extend([window] * (count - len(since)))
    while since:
        yield since.pop(), len(replicas), len(since)
