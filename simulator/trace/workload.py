"""The ``Workload`` document: from what a synthetic trace is drawn."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import alias_generators

from simulator.trace import pools

Fraction = Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, pydantic.Field(gt=0, le=1e9, allow_inf_nan=False)]
Milli = Annotated[int, pydantic.Field(ge=0, le=1000)]
Label = Annotated[str, pydantic.Field(min_length=1, max_length=100, pattern=r"^\S+$")]


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", alias_generator=alias_generators.to_camel, populate_by_name=True
    )


class Duration(_Frozen):
    """Log-normal run times, cut off at both ends.

    The default has median and spread of ElasticFlow's clusters: half the jobs within two hours, one in a hundred
    above a day.
    """

    median_s: Seconds = 7_200.0
    sigma: Annotated[float, pydantic.Field(ge=0, le=5)] = 1.2
    min_s: Seconds = 60.0
    max_s: Seconds = 14 * 86_400.0

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_s < self.min_s:
            raise ValueError("maxS must not be less than minS")
        return self


class JobClass(_Frozen):
    """Equal jobs but for their run times.

    Attributes
    ----------
    weight : float
        Share of the jobs, relative to the other classes.
    gpus : int
        GPUs of the gang, cut into pods of at most `gpus_per_pod`; 1 for shares; partitions for `mig`.
    gpu_milli : int
        Below 1000 a pod with a share of one GPU.
    cpu_milli, memory_mib : int
        For each GPU, or for the pod of a share, a partition or no GPU at all.
    segment_pods, segment_level
        Consecutive pods that must share a domain.
    """

    name: Label
    weight: Weight = 1.0
    gpus: Annotated[int, pydantic.Field(ge=0, le=65_536)] = 1
    gpus_per_pod: Annotated[int, pydantic.Field(ge=1, le=16)] = 8
    gpu_milli: Annotated[int, pydantic.Field(ge=1, le=1000)] = 1000
    mig: str = ""
    gpu_models: list[str] = []
    cpu_milli: Annotated[int, pydantic.Field(ge=0, le=1_000_000)] = 11_000
    memory_mib: Annotated[int, pydantic.Field(ge=0, le=10_000_000)] = 90_000
    duration: Duration = Duration()
    priority: Annotated[int, pydantic.Field(ge=-1_000_000, le=1_000_000)] = 0
    preemptible: bool = True
    required: str = ""
    preferred: str = ""
    segment_pods: Annotated[int, pydantic.Field(ge=0, le=65_536)] = 0
    segment_level: str = ""
    min_pods: Annotated[int, pydantic.Field(ge=0, le=65_536)] = 0
    communication_milli: Milli = 250
    message_bytes: Annotated[int, pydantic.Field(ge=0, le=1 << 40)] = 64 << 20

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.gpu_milli < 1000 or self.mig) and self.gpus != 1:
            raise ValueError("a share or a partition has gpus: 1")
        if bool(self.segment_pods) != bool(self.segment_level):
            raise ValueError("segmentPods and segmentLevel come together")
        return self


class Tenant(_Frozen):
    """Who submits; `weight` is the share of the jobs."""

    name: Label
    weight: Weight = 1.0


class Pool(_Frozen):
    """An inference pool whose requests follow the day.

    Attributes
    ----------
    requests_s : float
        Mean arrival rate.
    swing : float
        Amplitude over the mean: at 0.6 the peak has four times the rate of the trough.
    peak_s : float
        Time of the first peak.
    """

    name: Label
    requests_s: Weight
    swing: Fraction = 0.6
    period_s: Seconds = 86_400.0
    peak_s: Annotated[float, pydantic.Field(ge=0, le=1e9)] = 43_200.0
    prompt_tokens: Weight = 2_000.0
    output_tokens: Weight = 200.0
    priority: Annotated[int, pydantic.Field(ge=-1_000_000, le=1_000_000)] = 100
    capacity: pools.Capacity = pools.Capacity()


class Spec(_Frozen):
    """Jobs, when they come, and pools beside them.

    Attributes
    ----------
    fleet_gpus, offered_load
        The arrivals are spread over so long a time that the GPU-seconds of the jobs are this share of the fleet's.
    burstiness : float
        Coefficient of variation of the times between arrivals; 1 is a Poisson process.
    swing, period_s
        Arrival rate over the day, as in `Pool`.
    overestimate : float
        Submitters declare run times of one to so many times the true ones; 1 is exact.
    """

    jobs: Annotated[int, pydantic.Field(ge=1, le=20_000_000)]
    fleet_gpus: Annotated[int, pydantic.Field(ge=1, le=10_000_000)]
    offered_load: Annotated[float, pydantic.Field(gt=0, le=100)] = 0.9
    burstiness: Annotated[float, pydantic.Field(gt=0.05, le=20)] = 1.0
    swing: Fraction = 0.0
    period_s: Seconds = 86_400.0
    overestimate: Annotated[float, pydantic.Field(ge=1, le=1000)] = 1.0
    classes: Annotated[list[JobClass], pydantic.Field(min_length=1)]
    tenants: Annotated[list[Tenant], pydantic.Field(min_length=1)] = [Tenant(name="default")]
    pools: list[Pool] = []

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Self:
        for field in ("classes", "tenants", "pools"):
            names = [row.name for row in getattr(self, field)]
            twice = next((name for name in names if names.count(name) > 1), "")
            if twice:
                raise ValueError(f"{field}: two are called {twice}")
        return self


class Metadata(_Frozen):
    """Name of the workload; the trace gets it."""

    name: Label


class Workload(_Frozen):
    """One workload document."""

    api_version: Annotated[Literal["muster.dev/v1alpha1"], pydantic.Field(alias="apiVersion")] = "muster.dev/v1alpha1"
    kind: Literal["Workload"] = "Workload"
    metadata: Metadata
    spec: Spec
