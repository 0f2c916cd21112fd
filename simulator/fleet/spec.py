"""The ``Fleet`` document: levels, domains with counts, and the machines in them.

Domains are given in one of three ways: as a tree (`Spec.domains`), as a list in which each names its parent
(`Spec.graph`), or by a path on every node (`NodeGroup.path`).
"""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import alias_generators

from scheduler import bad_input

MAX_COUNT = 100_000

Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=200)]
Count = Annotated[int, pydantic.Field(ge=1, le=MAX_COUNT, strict=True)]


class FleetError(bad_input.BadInput):
    """Input that is no valid fleet."""


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", alias_generator=alias_generators.to_camel, populate_by_name=True
    )


class Machine(_Frozen):
    """A machine of our own about whose wiring nothing is known."""

    gpus: Annotated[int, pydantic.Field(ge=0, le=16, strict=True)]
    model: str = ""
    cpu_milli: Annotated[int, pydantic.Field(ge=0, le=100_000_000)] = 0
    memory_mib: Annotated[int, pydantic.Field(ge=0, le=1 << 40, alias="memoryMiB")] = 0

    @pydantic.model_validator(mode="after")
    def _has_model(self) -> Self:
        if self.gpus and not self.model:
            raise ValueError("a machine with GPUs needs their model")
        return self


class NodeGroup(_Frozen):
    """Equal nodes in one domain.

    Attributes
    ----------
    machine : str
        A kind of ``scheduler.model.machines``, or a name from `Spec.machines`.
    name : str
        Of the node; numbered where the group makes several. "" names nodes after their domain.
    path : list of str
        Domains from the coarsest level down, one per level, "" leaves a level out.
    domain : str
        A domain of `Spec.graph`.
    mig_gpus : list of int
        GPUs in MIG mode.
    """

    machine: str
    count: Count = 1
    name: Name | Literal[""] = ""
    path: list[str] = []
    domain: str = ""
    mig_gpus: list[Annotated[int, pydantic.Field(ge=0, le=15)]] = []
    labels: dict[str, str] = {}


class Domain(_Frozen):
    """A domain with what is inside, `count` times."""

    name: Name
    level: str
    count: Count = 1
    domains: "list[Domain]" = []
    nodes: list[NodeGroup] = []


class GraphDomain(_Frozen):
    """A domain that names the one above; without parent it is below the cluster."""

    name: Name
    level: str
    parent: str = ""


class Metadata(_Frozen):
    """Name of the fleet, as reports show it."""

    name: Name


class Spec(_Frozen):
    """Levels from coarse to fine, without ``cluster`` and ``node``; domains and nodes."""

    levels: list[Name] = []
    machines: dict[str, Machine] = {}
    domains: list[Domain] = []
    graph: list[GraphDomain] = []
    nodes: list[NodeGroup] = []


class Fleet(_Frozen):
    """One fleet document."""

    api_version: Annotated[Literal["muster.dev/v1alpha1"], pydantic.Field(alias="apiVersion")]
    kind: Literal["Fleet"]
    metadata: Metadata
    spec: Spec
